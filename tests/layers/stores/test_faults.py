"""The store when files are damaged, locked, full, gone or not ours."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptweir.layers.stores.purge import purge
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry, StoreBusy, Trip

type Open = Callable[..., SqliteStore]
type Make = Callable[..., Entry]


def _change(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(statement)
    connection.close()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(b"\xa5garbage" * 5000),
    "a few bytes": lambda file: file.write_bytes(b"SQLite"),
    "truncated within a page": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    "truncated after the first page": lambda file: file.write_bytes(file.read_bytes()[:4096]),
    "header overwritten": lambda file: file.write_bytes(b"\0" * 100 + file.read_bytes()[100:]),
    "newer version": lambda file: _change(file, "UPDATE schema SET version = 99"),
    "no version": lambda file: _change(file, "DELETE FROM schema"),
    "a table is missing": lambda file: _change(file, "DROP TABLE bodies"),
    "no sums": lambda file: _change(file, "DELETE FROM meta"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_file_is_set_aside_and_an_empty_one_takes_its_place(
    open_store: Open, make_entry: Make, tmp_path: Path, damage: str
) -> None:
    store = open_store()
    for number in range(100):
        store.put(make_entry(number, body=b"%d" % number * 500))
    store.close()
    file = tmp_path / "state" / "store.db"
    DAMAGE[damage](file)
    damaged = file.read_bytes()
    assert Reader(file.parent).recent(3) == []

    again = open_store()
    assert (tmp_path / "state" / "store.db.corrupt-1").read_bytes() == damaged
    assert len(again.warnings) == 1
    assert "store.db.corrupt-1" in again.warnings[0]
    assert await again.get(make_entry(1).key) is None
    again.put(make_entry(1))
    again.close()
    assert await open_store().get(make_entry(1).key) == make_entry(1)


def test_a_log_is_set_aside_together_with_its_file(open_store: Open, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    for part, content in {"": b"no database", "-wal": b"log", "-shm": b"index"}.items():
        (folder / f"store.db{part}").write_bytes(content)
    assert open_store().persistent

    for part, content in {"": b"no database", "-wal": b"log"}.items():
        assert (folder / f"store.db.corrupt-1{part}").read_bytes() == content
    assert (folder / "store.db.corrupt-1-shm").exists()  # its content is SQLite's own scratch


def test_only_the_last_few_damaged_files_are_kept(open_store: Open, tmp_path: Path) -> None:
    file = tmp_path / "state" / "store.db"
    for number in range(6):
        open_store().close()
        file.write_bytes(b"damage %d" % number)
    open_store()

    kept = sorted(path.name for path in file.parent.glob("*.corrupt-?"))
    assert kept == ["store.db.corrupt-4", "store.db.corrupt-5", "store.db.corrupt-6"]
    assert {path.name[:18] for path in file.parent.glob("*.corrupt-*")} == set(kept)  # their logs went with them


async def test_damage_inside_the_file_is_found_in_use_and_the_store_goes_on_empty(
    open_store: Open, make_entry: Make, tmp_path: Path
) -> None:
    store = open_store()
    for number in range(300):
        store.put(make_entry(number, body=b"%d" % number * 500))
    store.close()
    file = tmp_path / "state" / "store.db"
    content = bytearray(file.read_bytes())
    content[8192:] = b"\x5a" * (len(content) - 8192)
    for page in range(2, len(content) // 4096):  # all but the first pages, so that opening sees nothing
        content[page * 4096 : (page + 1) * 4096] = b"\x5a" * 4096
    file.write_bytes(content)

    again = open_store()
    for number in range(300):
        assert await again.get(make_entry(number).key) is None
    again.put(make_entry(1))
    await again.flush()
    again.put(make_entry(2))
    await again.flush()
    assert Reader(file.parent).usage()[0] >= 1
    assert list(file.parent.glob("*.corrupt-1"))
    again.close()
    assert await open_store().get(make_entry(2).key) == make_entry(2)


async def test_a_flipped_bit_in_a_stored_answer_is_a_miss_and_not_a_wrong_answer(
    open_store: Open, make_entry: Make, tmp_path: Path
) -> None:
    store = open_store()
    entry = make_entry(1, body=b"the answer is 42; " * 3)
    store.put(entry)
    store.close()
    file = tmp_path / "state" / "store.db"
    connection = sqlite3.connect(file)
    frame = bytearray(connection.execute("SELECT frame FROM bodies").fetchone()[0])
    connection.close()

    again = open_store(front_max_bytes=1)  # so that each look-up goes to the disk
    assert await again.get(entry.key) == entry
    connection = sqlite3.connect(file, isolation_level=None)
    served = 0
    for position in range(len(frame)):
        flipped = bytearray(frame)
        flipped[position] ^= 0x10
        connection.execute("UPDATE bodies SET frame = ?", (bytes(flipped),))
        found = await again.get(entry.key)
        assert found is None or found == entry, position
        served += found is not None
    connection.close()
    assert served < len(frame) // 10


async def test_a_file_that_is_deleted_under_a_running_store_is_made_again(
    open_store: Open, make_entry: Make, tmp_path: Path
) -> None:
    store = open_store()
    store.put(make_entry(1))
    await store.flush()
    shutil.rmtree(tmp_path / "state")
    store.put(make_entry(2))
    await store.flush()

    assert [one.prompt_id for one in Reader(tmp_path / "state").entries(9)] == ["p2"]
    assert store.dropped == 0


LOCKER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
c.execute("COMMIT")
"""


@pytest.fixture
def lock() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def hold(file: Path) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        return child

    yield hold
    for child in children:
        child.kill()
        child.communicate()


async def test_a_lock_held_by_another_process_delays_writes_and_neither_reads_nor_the_loop(
    open_store: Open, make_entry: Make, tmp_path: Path, lock: Callable[[Path], subprocess.Popen[str]]
) -> None:
    store = open_store()
    store.put(make_entry(1))
    store.close()
    holder = lock(tmp_path / "state" / "store.db")

    started = time.perf_counter()
    store = open_store()
    assert store.persistent
    assert await store.get(make_entry(1).key) == make_entry(1)
    store.put(make_entry(2))
    assert time.perf_counter() - started < 1
    flushing = asyncio.create_task(store.flush())
    await asyncio.sleep(1.5)
    assert not flushing.done()
    holder.communicate("\n")
    await flushing

    assert store.dropped == 0
    assert store.warnings == []
    assert Reader(tmp_path / "state").usage()[0] == 2


async def test_a_lock_that_is_never_let_go_costs_the_batch_and_no_more(
    open_store: Open, make_entry: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Callable[[Path], object]
) -> None:
    monkeypatch.setattr("promptweir.layers.stores.writer.BUSY_WAIT_S", 0.1)
    monkeypatch.setattr("promptweir.layers.stores.purge.PURGE_WAIT_S", 0.1)
    store = open_store()
    holder = lock(tmp_path / "state" / "store.db")
    store.put(make_entry(1))
    await store.flush()
    assert store.dropped == 1
    assert await store.get(make_entry(1).key) is not None
    with pytest.raises(StoreBusy):
        await store.purge(all=True)
    with pytest.raises(StoreBusy):
        purge(tmp_path / "state", all=True)
    assert len(store.warnings) == 1

    holder.communicate("\n")  # type: ignore[attr-defined]
    store.put(make_entry(2))
    await store.flush()
    assert [one.prompt_id for one in Reader(tmp_path / "state").entries(9)] == ["p2"]


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "a folder where the file should be"])
async def test_without_a_usable_folder_the_store_lives_in_memory_and_says_so(
    open_store: Open, make_entry: Make, tmp_path: Path, obstacle: str, clock
) -> None:
    folder = tmp_path / "state"
    if obstacle.startswith("a file"):
        folder.touch()
    else:
        (folder / "store.db").mkdir(parents=True)
    store = open_store()
    store.put(make_entry(1))
    store.link(b"t", "r", b"s")
    store.record(Trip(id="t", at_ns=1, layer="l3"))
    await store.flush()

    assert not store.persistent
    assert "in memory" in store.warnings[0]
    assert await store.get(make_entry(1).key) == make_entry(1)
    assert await store.get(make_entry(2).key) is None
    assert await store.purge(all=True) == 1
    assert await store.get(make_entry(1).key) is None

    shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    clock.ns += 31 * 10**9
    store.put(make_entry(3))
    await store.flush()
    assert store.persistent
    assert Reader(folder).usage()[0] == 1


FULL = """
import asyncio, pathlib, random, resource, sys, time
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry
noise = random.Random(7)
def entry(n):
    return Entry(key=n.to_bytes(32, "big"), tenant=b"t", dialect="d", model="m", status=200, content_type="t",
        encoding="json", body=noise.randbytes(20_000), created_ns=time.time_ns(), expires_ns=time.time_ns() + 10**15)
async def main():
    folder = pathlib.Path(sys.argv[1])
    limit = int(sys.argv[2])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    store = SqliteStore(folder, max_bytes=1 << 30, max_entries=10**6, front_max_bytes=100_000, max_trips=9,
        now_ns=time.time_ns)
    store.open()
    for n in range(200):
        store.put(entry(n))
        await store.flush()
    full = store.dropped
    assert full > 10, full
    assert len(store.warnings) < 6, store.warnings
    assert await store.get((199).to_bytes(32, "big")) is not None
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (folder.parent / "ballast").unlink()
    for n in range(1000, 1020):
        store.put(entry(n))
        await store.flush()
    assert store.dropped == full, (store.dropped, full, store.warnings)
    assert await store.get((0).to_bytes(32, "big")) is not None
    store.close()
    again = SqliteStore(folder, max_bytes=1 << 30, max_entries=10**6, front_max_bytes=1, max_trips=9,
        now_ns=time.time_ns)
    again.open()
    assert again.warnings == [], again.warnings
    for n in range(1000, 1020):
        assert await again.get(n.to_bytes(32, "big")) is not None, n
    again.close()
    print("recovered after", full)
asyncio.run(main())
"""


def _run_full(folder: Path, limit: int) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(limit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "recovered after" in shown.stdout, shown.stderr


def test_a_file_that_cannot_grow_costs_new_entries_until_it_can_again(tmp_path: Path) -> None:
    _run_full(tmp_path / "state", 1 << 20)


def test_a_full_disk_costs_new_entries_until_there_is_space_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        (disk / "ballast").write_bytes(b"\0" * (6 << 20))
        _run_full(disk / "state", 0)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_processes_that_find_the_same_damage_end_up_with_one_good_store(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio, time, pathlib\n"
        "from promptweir.layers.stores.sqlite import SqliteStore\n"
        "s = SqliteStore(pathlib.Path(sys.argv[1]), max_bytes=9, max_entries=9, front_max_bytes=9, max_trips=9,"
        " now_ns=time.time_ns)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "s.open(); s.prove(sys.argv[2].encode(), 'x'); asyncio.run(s.flush())\n"
        "assert s.persistent and not s.dropped, s.warnings\n"
        "s.close()\n"
    )
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "store.db").write_bytes(b"garbage" * 999)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [(child.communicate(), child.returncode)[1] for child in children] == [0, 0, 0, 0]

    connection = sqlite3.connect(folder / "store.db")
    assert connection.execute("SELECT count(*) FROM proofs").fetchone() == (4,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert [path.name for path in folder.glob("*.corrupt-?")] == ["store.db.corrupt-1"]
