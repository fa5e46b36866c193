"""The clock jumps: nothing expired is served, nothing is lost for good, nothing breaks."""

import asyncio
from pathlib import Path

from promptweir.layers.sessions import Repeat, SessionLog
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry, Trip

HOUR_NS = 3600 * 10**9
NOW_NS = 1_800_000_000 * 10**9


class Clock:
    def __init__(self) -> None:
        self.ns = NOW_NS

    def __call__(self) -> int:
        return self.ns


def _store(folder: Path, clock: Clock) -> SqliteStore:
    store = SqliteStore(
        folder, max_bytes=1 << 20, max_entries=100, front_max_bytes=0, max_trips=100, now_ns=clock
    )  # fmt: skip
    store.open()
    return store


def _entry(key: bytes, clock: Clock, ttl_ns: int = HOUR_NS) -> Entry:
    return Entry(
        key=key, tenant=b"t" * 32, dialect="openai-chat", model="m", status=200, content_type="application/json",
        encoding="json", body=b"{}", atoms=(), effect="none", ending="stop", client="", created_ns=clock(),
        expires_ns=clock() + ttl_ns,
    )  # fmt: skip


async def test_an_entry_is_served_before_and_not_after_its_time_whichever_way_the_clock_jumps(tmp_path: Path) -> None:
    clock = Clock()
    store = _store(tmp_path, clock)
    store.put(_entry(b"k" * 32, clock))
    await store.flush()
    clock.ns += 2 * HOUR_NS
    assert await store.get(b"k" * 32) is None
    clock.ns = NOW_NS + HOUR_NS // 2
    store.put(_entry(b"l" * 32, clock))
    await store.flush()
    assert await store.get(b"l" * 32) is not None
    store.close()


async def test_a_clock_set_back_by_years_stops_neither_reading_nor_writing(tmp_path: Path) -> None:
    clock = Clock()
    store = _store(tmp_path, clock)
    store.put(_entry(b"k" * 32, clock))
    await store.flush()
    clock.ns = 0
    store.put(_entry(b"l" * 32, clock))
    store.record(Trip(id="x", at_ns=-5, layer="l3"))
    await store.flush()
    assert await store.get(b"l" * 32) is not None
    clock.ns = 2**62
    assert await store.get(b"l" * 32) is None
    store.put(_entry(b"m" * 32, clock))
    await store.flush()
    assert await store.get(b"m" * 32) is not None
    store.close()


async def test_a_clock_that_jumps_while_entries_are_written_loses_none_of_them(tmp_path: Path) -> None:
    clock = Clock()
    store = _store(tmp_path, clock)
    for number in range(50):
        clock.ns += (-1) ** number * number * HOUR_NS // 100
        store.put(_entry(bytes([number]) * 32, clock, 1000 * HOUR_NS))
        await asyncio.sleep(0)
    await store.flush()
    found = [await store.get(bytes([number]) * 32) for number in range(50)]
    assert all(found)
    store.close()


def test_a_repeat_after_the_clock_was_set_back_is_no_retry() -> None:
    log = SessionLog(retry_window_ns=HOUR_NS, loop_repeats=3)
    log.answered(b"t", "session", b"key", NOW_NS)
    assert log.repeat_of(b"t", "session", b"key", NOW_NS - HOUR_NS, retry=False) is Repeat.AGAIN
    assert log.repeat_of(b"t", "session", b"key", NOW_NS + 1, retry=False) is Repeat.RETRY
