"""The state folder tells the truth about who runs in it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptweir.cli.state import Running, State, UserError, process_start, resolve

HOLD = """
import sys, time
from pathlib import Path
from promptweir.cli.state import State
with State(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(60)
"""


def record(pid: int, start: str | None) -> Running:
    return Running(
        pid=pid,
        process_start=start or "",
        version="1",
        host="127.0.0.1",
        port=1234,
        gateway_port=None,
        modes=("regular",),
        started_at_s=time.time(),
    )


@pytest.fixture
def state(tmp_path: Path) -> State:
    found = State(tmp_path / "deep" / "state")
    found.make()
    return found


def test_the_folder_and_its_files_are_private(state: State) -> None:
    previous = os.umask(0)
    try:
        with state.hold():
            state.write(record(os.getpid(), process_start(os.getpid())))
            assert state.folder.stat().st_mode & 0o777 == 0o700
            assert {path.name: path.stat().st_mode & 0o777 for path in state.folder.iterdir()} == {
                "proxy.lock": 0o600,
                "proxy.json": 0o600,
            }
    finally:
        os.umask(previous)


def test_a_running_proxy_is_found_and_is_gone_afterwards(state: State) -> None:
    assert state.running() is None
    with state.hold():
        written = record(os.getpid(), process_start(os.getpid()))
        state.write(written)
        assert state.running() == written
        assert state.locked()
    assert state.running() is None
    assert not state.locked()


def test_a_second_proxy_is_refused_with_where_the_first_one_is(state: State) -> None:
    with state.hold():
        state.write(record(os.getpid(), process_start(os.getpid())))
        with pytest.raises(UserError, match=rf"already runs in .* \(process {os.getpid()}, port 1234\)"), state.hold():
            pass


def test_a_killed_proxy_leaves_nothing_that_counts(state: State) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(state.folder)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    state.write(record(holder.pid, process_start(holder.pid)))
    assert state.running() is not None
    holder.kill()
    holder.wait()
    holder.stdout.close()

    assert state.running() is None
    with state.hold():
        assert state.running() is None


def test_a_recycled_process_id_is_not_taken_for_the_proxy(state: State) -> None:
    with state.hold():
        state.write(record(os.getpid(), "some other time"))

        assert state.running() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_damaged_record_counts_as_none(state: State, content: bytes) -> None:
    with state.hold():
        (state.folder / "proxy.json").write_bytes(content)

        assert state.running() is None


def test_process_start_tells_processes_apart() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid)
    child.kill()
    time.sleep(0.1)
    assert process_start(child.pid) is None  # a zombie does not count
    child.communicate()
    assert process_start(child.pid) is None


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    with pytest.raises(UserError, match=r"cannot use .*state"):
        State(tmp_path / "state").make()


def test_the_option_wins_over_the_setting_which_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTWEIR_STATE", str(tmp_path / "environment"))

    assert resolve(tmp_path / "option", "setting").folder == tmp_path / "option"
    assert resolve(None, str(tmp_path / "setting")).folder == tmp_path / "setting"
    assert resolve(None).folder == tmp_path / "environment"
