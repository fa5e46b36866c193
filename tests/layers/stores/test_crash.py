"""kill -9 at any moment: what was flushed is there, and the file is sound."""

import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from promptweir.layers.stores.codec import unpack

CHILD = """
import asyncio, os, pathlib, random, sys, time
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry, Trip

async def main():
    noise = random.Random(int(sys.argv[2]))
    store = SqliteStore(pathlib.Path(sys.argv[1]), max_bytes=1 << 30, max_entries=10**6, front_max_bytes=1 << 20,
        max_trips=100, now_ns=time.time_ns)
    os.write(1, b"start\\n")
    store.open()
    while True:
        keys = [noise.randbytes(32) for _ in range(noise.randrange(1, 6))]
        for key in keys:
            now = time.time_ns()
            store.put(Entry(key=key, tenant=b"t", dialect="d", model="m", status=200, content_type="t",
                encoding="json", body=key * noise.randrange(1, 600), created_ns=now, expires_ns=now + 10**15))
            store.record(Trip(id=key.hex(), at_ns=now, layer="l3"))
            store.link(b"t", key.hex(), key)
        await store.flush()
        assert store.dropped == 0 and not store.warnings, store.warnings
        os.write(1, b"".join(key.hex().encode() + b"\\n" for key in keys))

asyncio.run(main())
"""


def _kill_while_writing(folder: Path, seed: int, wait_s: float) -> list[bytes]:
    """Return the keys that were said to be on the disk."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"start\n"
    killer = threading.Timer(wait_s, child.kill)
    killer.start()
    shown, errors = child.communicate(timeout=30)
    assert child.returncode == -9, errors.decode()
    lines = shown.split(b"\n")[:-1]  # a line cut short by the kill was not promised
    return [bytes.fromhex(line.decode()) for line in lines]


def _check(folder: Path, promised: list[bytes], *, whole: bool) -> None:
    connection = sqlite3.connect(folder / "store.db")
    if whole:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        sums = connection.execute("SELECT entries, bytes, links, link_bytes FROM meta").fetchone()
        entries = connection.execute("SELECT count(*), sum(size) FROM entries").fetchone()
        links = connection.execute("SELECT count(*), sum(length(state)) FROM links").fetchone()
        assert sums == (*entries, *links)
        trips = connection.execute("SELECT sum(calls) FROM totals").fetchone()
        assert trips[0] >= entries[0]
    for key in promised:
        row = connection.execute(
            "SELECT frame, fingerprint FROM bodies JOIN entries USING(id) WHERE key = ?", (key,)
        ).fetchone()
        assert row is not None, f"{key.hex()} was committed and is lost"
        entry = unpack(*row)
        assert entry.key == key
        assert entry.body.startswith(key)
    connection.close()


def _run(folder: Path, kills: int) -> None:
    chance = random.Random(20)
    promised: list[bytes] = []
    for seed in range(kills):
        # Some of the kills fall into opening, most of them into writing.
        latest = _kill_while_writing(folder, seed, chance.choice([0.0, 0.02, 0.05, 0.1, 0.2]) * chance.random())
        promised += latest
        _check(folder, latest, whole=bool(promised))
    _check(folder, promised, whole=True)
    assert len(promised) > kills
    assert not list(folder.glob("*.corrupt-*"))


def test_nothing_committed_is_lost_by_ten_kills_at_random_moments(tmp_path: Path) -> None:
    _run(tmp_path / "state", 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_committed_is_lost_by_two_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    _run(tmp_path / "state", 200)
