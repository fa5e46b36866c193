"""The store breaks: the proxy goes on, at worst without memory, and never with a wrong answer."""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.client import OPENAI, Client, fresh, question
from tests.faults.provider import Exchange, Provider, chat
from tests.faults.proxy import Proxy, healthy, up, wait_for

TMPFS_BYTES = 3 << 20


def _store(state: Path) -> Path:
    return state / "cache" / "store.db"


def _rows(state: Path) -> int:
    """Return how many answers are on the disk; 0 where there is no sound store."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{_store(state)}?mode=ro", uri=True, timeout=5)) as connection:
            count: int = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
    except sqlite3.Error:
        return 0
    return count


def _ask(client: Client, text: str, key: str = "sk-test") -> bool:
    """Ask; tell whether the answer was local."""
    reply = client.ask(question(text), case=text, key=key)
    assert reply.status == 200
    assert reply.whole
    return reply.deflected


def _learns_and_serves(proxy: Proxy) -> None:
    text = fresh()
    with proxy.connect() as client:
        assert not _ask(client, text)
        assert _ask(client, text)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes; where none can be mounted, None, and a limit on files does."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0700", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    yield folder
    if done.returncode == 0:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_the_memory_of_answers_and_nothing_else(provider: Provider, small_disk: Path) -> None:
    proxy = up(small_disk / "state", provider.port)
    try:
        kept = fresh()
        with proxy.connect() as client:
            assert not _ask(client, kept)
        wait_for(lambda: _rows(proxy.state) == 1, "the first answer is on the disk")
        if os.path.ismount(small_disk):
            with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(os.urandom(1 << 16))
                    filler.flush()
        else:
            resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))
        texts = [fresh() for _ in range(30)]

        async def long(exchange: Exchange) -> None:
            await exchange.whole(chat(os.urandom(40_000).hex()))

        with proxy.connect() as client:
            for text in texts:
                provider.script(text, long)
                assert not _ask(client, text)
            assert _ask(client, kept), "what was stored before is still served"
            assert _ask(client, texts[-1]), "the newest answers are served from memory"
        healthy(proxy, proxy.log)
        if os.path.ismount(small_disk):
            (small_disk / "filler").unlink()
        else:
            resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        before = _rows(proxy.state)
        _learns_and_serves(proxy)
        wait_for(lambda: _rows(proxy.state) > before, "answers are stored again once there is room")
        healthy(proxy, proxy.log)
    finally:
        proxy.stop()


def test_a_store_that_another_process_locks_delays_nobody(provider: Provider, state: Path) -> None:
    proxy = up(state, provider.port)
    try:
        _learns_and_serves(proxy)
        wait_for(lambda: _rows(state) == 1, "the first answer is on the disk")
        lock = sqlite3.connect(_store(state), isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        text = fresh()
        start = time.monotonic()
        with proxy.connect() as client:
            assert not _ask(client, text)
            assert _ask(client, text)
            for _ in range(20):
                _ask(client, fresh())
        assert time.monotonic() - start < 5
        lock.execute("ROLLBACK")
        lock.execute("BEGIN EXCLUSIVE")
        _learns_and_serves(proxy)
        lock.execute("ROLLBACK")
        lock.close()
        wait_for(lambda: _rows(state) >= 20, "what waited is written")
        healthy(proxy, proxy.log)
    finally:
        proxy.stop()


DAMAGES = ["noise", "text", "cut", "zeroed pages", "another database", "empty", "noise in the log"]


def _damage(path: Path, how: str) -> None:
    match how:
        case "noise":
            path.write_bytes(os.urandom(100_000))
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("hello\n" * 10_000)
        case "cut":
            os.truncate(path, path.stat().st_size // 2 + 100)
        case "zeroed pages":
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(bytes(path.stat().st_size - 4096))
        case "another database":
            path.unlink()
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE entries(x)")
            other.close()
        case "noise in the log":
            path.with_name(path.name + "-wal").write_bytes(os.urandom(50_000))


@pytest.fixture(scope="module")
def seed(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with some answers in it."""
    folder = tmp_path_factory.mktemp("seed") / "state"
    proxy = up(folder, provider.port)
    with proxy.connect() as client:
        for _ in range(10):
            _ask(client, fresh())
    proxy.stop()
    return folder


@pytest.mark.parametrize("how", [DAMAGES[0], *(pytest.param(how, marks=pytest.mark.slow) for how in DAMAGES[1:])])
def test_a_store_that_is_damaged_at_the_start_is_set_aside(
    provider: Provider, state: Path, seed: Path, how: str
) -> None:
    shutil.copytree(seed, state)
    _damage(_store(state), how)
    proxy = up(state, provider.port)
    try:
        _learns_and_serves(proxy)
        text = fresh()
        with proxy.connect() as client:
            _ask(client, text)
        wait_for(lambda: _rows(state) >= 2, "answers are stored again")
        healthy(proxy, proxy.log)
    finally:
        proxy.stop()


def test_a_store_that_is_damaged_while_it_runs_gives_no_wrong_answer(provider: Provider, state: Path) -> None:
    proxy = up(state, provider.port, "promptweir_l1a_front_max_bytes=0")
    try:
        for how in DAMAGES[:-1]:
            _goes_on_after(how, proxy, provider)
    finally:
        proxy.stop()


def _goes_on_after(how: str, proxy: Proxy, provider: Provider) -> None:
    texts = [fresh() for _ in range(20)]
    with proxy.connect() as client:
        for text in texts:
            _ask(client, text)
    wait_for(lambda: _rows(proxy.state) >= 20, f"all answers are on the disk, before {how}")
    _damage(_store(proxy.state), how)
    with proxy.connect() as client:
        for text in texts:
            reply = client.ask(question(text), case=text)
            assert reply.status == 200
            assert provider.asked(text)[0].sha256.encode() in reply.body
    wait_for(lambda: _serves_again(proxy), f"answers are kept again, after {how}", 20)
    healthy(proxy, proxy.log)


def _serves_again(proxy: Proxy) -> bool:
    text = fresh()
    with proxy.connect() as client:
        _ask(client, text)
        time.sleep(0.2)
        return _ask(client, text)


def test_a_state_folder_that_is_deleted_while_it_runs_is_made_again_or_done_without(
    provider: Provider, state: Path
) -> None:
    proxy = up(state, provider.port)
    certificate = proxy.ca.read_bytes()
    try:
        text = fresh()
        with proxy.connect() as client:
            assert not _ask(client, text)
        wait_for(lambda: _rows(state) == 1, "the answer is on the disk")
        shutil.rmtree(state)
        proxy.ca = state.with_name("certificate.pem")
        proxy.ca.write_bytes(certificate)
        with proxy.connect() as client:
            _ask(client, text)
            for _ in range(5):
                _ask(client, fresh())
        _learns_and_serves(proxy)
        with proxy.connect("api.anthropic.com") as other:
            assert other.ask(question(fresh(), host="api.anthropic.com")).status == 200, "a new leaf can be signed"
        time.sleep(0.5)
        assert proxy.alive
    finally:
        os.kill(proxy.pid, 15)
        wait_for(lambda: not proxy.alive, "it stops", 20)


@pytest.mark.slow
def test_a_state_folder_that_cannot_be_written_is_done_without(provider: Provider, state: Path) -> None:
    """The store's folder is a file: nothing can be kept, everything is answered."""
    state.mkdir(mode=0o700)
    (state / "cache").write_text("not a folder")
    proxy = up(state, provider.port)
    try:
        _learns_and_serves(proxy)
        healthy(proxy, proxy.log)
    finally:
        proxy.stop()


@pytest.mark.slow
def test_two_proxies_on_one_store_share_their_answers(provider: Provider, state: Path) -> None:
    """Other processes may hold the same files: what one learned the other serves."""
    other = state.with_name("other")
    first = up(state, provider.port)
    other.mkdir(mode=0o700)
    (other / "cache").symlink_to(state / "cache")
    shutil.copy(state / "pepper", other / "pepper")
    second = up(other, provider.port)
    try:
        text = fresh()
        with first.connect() as client:
            assert not _ask(client, text)
        wait_for(lambda: _rows(state) == 1, "the answer is on the disk")
        with second.connect() as client:
            assert _ask(client, text)
        assert len(provider.asked(text)) == 1
        for one in (first, second):
            healthy(one, one.log)
    finally:
        first.stop()
        second.stop()


@pytest.mark.slow
def test_the_keys_of_the_store_are_useless_without_its_pepper(provider: Provider, state: Path) -> None:
    """A store that was copied without the pepper serves nobody: its tenants are keyed hashes."""
    seed = up(state, provider.port)
    text = fresh()
    with seed.connect() as client:
        _ask(client, text, key="sk-very-secret-credential")
    wait_for(lambda: _rows(state) == 1, "the answer is on the disk")
    seed.stop()
    for file in (state / "cache").iterdir():
        assert b"sk-very-secret-credential" not in file.read_bytes(), file.name
    (state / "pepper").unlink()
    proxy = up(state, provider.port)
    try:
        with proxy.connect(OPENAI) as client:
            assert not _ask(client, text, key="sk-very-secret-credential")
    finally:
        proxy.stop()
