import asyncio
import random
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from promptweir.layers.stores import inbox, ledger, rows
from promptweir.layers.stores.purge import purge
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry, Totals, Trip

type Open = Callable[..., SqliteStore]
type Make = Callable[..., Entry]

HOUR_NS = 3600 * 10**9


async def test_an_entry_comes_back_whole_from_memory_and_from_the_disk(open_store: Open, make_entry: Make) -> None:
    entry = make_entry(1, body=bytes(range(256)) * 40)
    first = open_store()
    first.put(entry)
    assert await first.get(entry.key) is entry
    await first.flush()
    first.close()

    again = open_store()
    assert await again.get(entry.key) == entry
    assert again.warnings == []
    assert again.dropped == 0


async def test_an_entry_read_from_the_disk_is_answered_from_memory_the_next_time(
    open_store: Open, make_entry: Make
) -> None:
    store = open_store()
    store.put(make_entry(1))
    store.close()
    again = open_store()

    assert await again.get(make_entry(1).key) is await again.get(make_entry(1).key)


async def test_a_queued_entry_is_readable_even_where_the_front_has_no_room_for_it(
    open_store: Open, make_entry: Make
) -> None:
    store = open_store(front_max_bytes=10)
    store.put(make_entry(1, body=b"old"))
    await store.flush()
    store.put(make_entry(1, body=b"new"))

    entry = await store.get(make_entry(1).key)
    assert entry is not None
    assert entry.body == b"new"
    await store.flush()
    entry = await store.get(make_entry(1).key)
    assert entry is not None
    assert entry.body == b"new"


async def test_an_unknown_key_is_a_miss(open_store: Open) -> None:
    assert await open_store().get(b"\x07" * 32) is None


async def test_a_later_entry_replaces_the_earlier_one_and_is_counted_once(open_store: Open, make_entry: Make) -> None:
    store = open_store()
    for number in range(20):
        store.put(make_entry(1, body=b"%d" % number))
        await store.flush()
    store.close()

    entry = await open_store().get(make_entry(1).key)
    assert entry is not None
    assert entry.body == b"19"
    assert Reader(_folder(store)).usage()[0] == 1


@pytest.mark.parametrize(
    ("moved_ns", "served"),
    [
        (0, True),
        (HOUR_NS - 1, True),
        (HOUR_NS, False),
        (400 * 24 * HOUR_NS, False),
        (-HOUR_NS, True),
        (-HOUR_NS - 1, False),
        (-400 * 24 * HOUR_NS, False),
    ],
)
@pytest.mark.parametrize("reopened", [False, True])
async def test_an_entry_serves_in_its_time_whichever_way_the_clock_jumps(
    open_store: Open, make_entry: Make, clock, moved_ns: int, served: bool, reopened: bool
) -> None:
    store = open_store()
    store.put(make_entry(1))
    await store.flush()
    if reopened:
        store.close()
        store = open_store()

    clock.ns += moved_ns
    assert (await store.get(make_entry(1).key) is not None) is served


async def test_expired_entries_leave_the_disk_by_themselves(open_store: Open, make_entry: Make, clock) -> None:
    store = open_store()
    for number in range(5):
        store.put(make_entry(number))
    await store.flush()
    clock.ns += HOUR_NS
    store.put(make_entry(9))
    await store.flush()

    assert [one.prompt_id for one in Reader(_folder(store)).entries(10)] == ["p9"]


async def test_the_least_recently_used_entries_are_evicted_beyond_the_limit_in_entries(
    open_store: Open, make_entry: Make
) -> None:
    store = open_store(max_entries=3)
    for number in range(3):
        store.put(make_entry(number))
    await store.flush()
    await store.get(make_entry(0).key)
    store.put(make_entry(3))
    await store.flush()

    assert {one.prompt_id for one in Reader(_folder(store)).entries(10)} == {"p0", "p2", "p3"}


async def test_the_limit_in_bytes_is_kept_and_counts_compressed_sizes(open_store: Open, make_entry: Make) -> None:
    store = open_store(max_bytes=20_000)
    for number in range(50):
        store.put(make_entry(number, body=b"x" * 100_000))  # compresses to next to nothing
    await store.flush()
    assert Reader(_folder(store)).usage()[0] == 50

    noise = random.Random(7)
    for number in range(50, 80):
        store.put(make_entry(number, body=noise.randbytes(3000)))
    await store.flush()
    entries, size = Reader(_folder(store)).usage()
    assert 3 <= entries < 50
    assert 10_000 < size <= 20_000


async def test_an_entry_larger_than_the_whole_store_is_dropped_with_the_one_it_replaces(
    open_store: Open, make_entry: Make
) -> None:
    store = open_store(max_bytes=2000)
    store.put(make_entry(1))
    await store.flush()
    store.put(make_entry(1, body=random.Random(7).randbytes(5000)))
    await store.flush()

    assert store.dropped == 1
    assert Reader(_folder(store)).usage() == (0, 0)


async def test_eviction_is_in_order_of_use_even_after_the_clock_was_wrong(
    open_store: Open, make_entry: Make, clock
) -> None:
    store = open_store(max_entries=2)
    clock.ns += 10**18
    store.put(make_entry(0, expires_ns=2**62))
    store.put(make_entry(1, expires_ns=2**62))
    await store.flush()
    clock.ns -= 10**18
    store.put(make_entry(2))
    store.put(make_entry(3))
    await store.flush()

    assert {one.prompt_id for one in Reader(_folder(store)).entries(10)} == {"p2", "p3"}


async def test_a_limit_lowered_far_below_what_is_stored_is_reached_in_several_transactions(
    open_store: Open, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_EVICTED_ROWS", 10)
    store = open_store()
    for number in range(100):
        store.put(make_entry(number))
    store.close()
    again = open_store(max_entries=5)
    again.put(make_entry(200))
    await again.flush()
    for _ in range(100):
        if Reader(_folder(again)).usage()[0] == 5:
            break
        await asyncio.sleep(0.05)

    assert Reader(_folder(again)).usage()[0] == 5
    assert (await again.get(make_entry(99).key)) is not None


async def test_the_memory_front_stays_within_its_bytes(open_store: Open, make_entry: Make) -> None:
    store = open_store(front_max_bytes=50_000)
    for number in range(100):
        store.put(make_entry(number, body=b"y" * 2000))
        assert store._front.bytes <= 50_000
    assert 10 < len(store._front) < 25


async def test_a_touch_counts_as_a_hit_and_a_get_does_not(open_store: Open, make_entry: Make, clock) -> None:
    store = open_store()
    store.put(make_entry(1))
    clock.ns += 5
    await store.get(make_entry(1).key)
    store.touch(make_entry(1).key)
    store.touch(make_entry(1).key)
    await store.flush()

    (summary,) = Reader(_folder(store)).entries(10)
    assert summary.hits == 2
    assert summary.last_used_ns == clock.ns
    assert summary.fingerprint == make_entry(1).fingerprint


async def test_a_full_queue_drops_and_counts_and_never_waits(
    open_store: Open, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_JOB_BYTES", 100_000)
    store = open_store()
    started = time.perf_counter()
    for number in range(60):
        store.put(make_entry(number, body=b"z" * 10_000))
    assert time.perf_counter() - started < 1
    await store.flush()

    assert store.dropped > 0
    assert Reader(_folder(store)).usage()[0] == 60 - store.dropped


@pytest.mark.parametrize("odd", [{"model": "\ud800"}, {"expires_ns": 2**80}, {"prompt_id": "\udfff"}])
async def test_an_entry_that_no_column_holds_is_dropped_alone(
    open_store: Open, make_entry: Make, odd: dict[str, object]
) -> None:
    store = open_store()
    store.put(make_entry(1))
    store.put(make_entry(2, **odd))
    store.put(make_entry(3))
    await store.flush()

    assert store.dropped == 1
    assert {one.prompt_id for one in Reader(_folder(store)).entries(9)} == {"p1", "p3"}


async def test_links_are_seen_by_their_own_tenant_only_and_survive_a_restart(open_store: Open) -> None:
    store = open_store()
    store.link(b"a", "resp_1", b"state of a")
    assert await store.linked(b"a", "resp_1") == b"state of a"
    assert await store.linked(b"b", "resp_1") is None
    store.close()

    again = open_store()
    assert await again.linked(b"a", "resp_1") == b"state of a"
    assert await again.linked(b"b", "resp_1") is None
    assert await again.linked(b"a", "\ud800") is None


async def test_links_are_bounded_and_the_used_ones_stay(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINKS", 3)
    store = open_store()
    for number in range(3):
        store.link(b"a", f"r{number}", b"s")
    await store.flush()
    await store.linked(b"a", "r0")
    store.link(b"a", "r3", b"s")
    store.close()

    again = open_store()
    assert [await again.linked(b"a", f"r{number}") for number in range(4)] == [b"s", None, b"s", b"s"]


async def test_proofs_survive_a_restart_and_are_bounded(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_PROOFS", 3)
    store = open_store()
    for number in range(5):
        store.prove(b"token%d" % number, f"account{number}")
    store.prove(b"token4", "another")
    assert store.proven(b"token0") is None
    store.close()

    again = open_store()
    proofs = [again.proven(b"token%d" % number) for number in range(5)]
    assert proofs[:2] == [None, None]
    assert proofs[4] == "another"
    assert sum(proof is not None for proof in proofs) in (2, 3)


def _trip(number: int, **changes: object) -> Trip:
    hit = number % 2 == 0
    values: dict[str, object] = {
        "id": f"t{number}",
        "at_ns": number,
        "layer": "l1a" if hit else "l3",
        "tenant": b"\x01",
        "client": "claude/2",
        "model": "m",
        "reason": "exact",
        "status": 200,
        "deflected": hit,
        "upstream": not hit,
        "input_tokens": 100,
        "output_tokens": 10,
        "cached_tokens": 1,
        "elapsed_ns": 1000 if hit else 50_000,
        "fingerprint": b"fp",
        "key": b"k" * 32,
    }
    return Trip(**(values | changes))  # type: ignore[arg-type]


async def test_trips_are_a_ring_whose_totals_outlive_it(open_store: Open) -> None:
    store = open_store(max_trips=10)
    for number in range(100):
        store.record(_trip(number))
    await store.flush()

    reader = Reader(_folder(store))
    assert reader.totals() == Totals(
        calls=100,
        deflected=50,
        provider_calls=50,
        layers={"l1a": 50, "l3": 50},
        saved_input_tokens=5000,
        saved_output_tokens=500,
        saved_cached_tokens=50,
        spent_input_tokens=5000,
        spent_output_tokens=500,
        spent_cached_tokens=50,
        deflected_elapsed_ns=50_000,
        provider_elapsed_ns=2_500_000,
    )
    assert reader.totals().saved_elapsed_ns == 2_450_000
    assert [trip.id for trip in reader.recent(99)] == [f"t{number}" for number in range(99, 89, -1)]
    assert [trip.id for trip in reader.recent(2, deflected=True)] == ["t98", "t96"]
    assert [trip.id for trip in reader.recent(2, deflected=False)] == ["t99", "t97"]
    assert reader.since(97).calls == 3
    assert reader.since(97).layers == {"l1a": 1, "l3": 2}
    assert reader.trip("t98") == _trip(98)
    assert reader.trip("t1") is None
    assert reader.trip("ü\ud800") is None


async def test_a_trip_with_odd_values_is_recorded_within_bounds(open_store: Open) -> None:
    store = open_store()
    store.record(_trip(0, model="\ud800" + "m" * 9999, input_tokens=10**30, output_tokens=-5, fingerprint=b"f" * 10**6))
    store.record(_trip(2))
    await store.flush()

    odd, _ = sorted(Reader(_folder(store)).recent(5), key=lambda trip: trip.at_ns)
    assert store.dropped == 0
    assert len(odd.model) <= ledger.MAX_TRIP_TEXT_CHARS
    assert (odd.input_tokens, odd.output_tokens, odd.fingerprint) == (ledger.MAX_COUNT, 0, b"")


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({}, {"p0", "p1", "p2", "p3"}),
        ({"all": True}, set()),
        ({"tenant": b"tenant-b"}, {"p0", "p2", "p3"}),
        ({"model": "model-b"}, {"p0", "p1", "p3"}),
        ({"tenant": b"tenant-b", "model": "model-b"}, {"p0", "p1", "p2", "p3"}),
        ({"older_than_ns": 6}, {"p0", "p1", "p2"}),
        ({"older_than_ns": 5}, {"p0", "p1", "p2", "p3"}),
    ],
)
@pytest.mark.parametrize("way", ["store", "other process"])
async def test_a_purge_deletes_what_fits_every_filter(
    open_store: Open, make_entry: Make, clock, chosen: dict[str, object], left: set[str], way: str
) -> None:
    store = open_store()
    entries = [
        make_entry(0),
        make_entry(1, tenant=b"tenant-b"),
        make_entry(2, model="model-b"),
        make_entry(3, created_ns=5, expires_ns=2**62),
    ]
    for entry in entries:
        store.put(entry)
    await store.flush()
    if way == "store":
        count = await store.purge(**chosen)  # type: ignore[arg-type]
    else:
        count = _purge_elsewhere(_folder(store), chosen)

    found = {entry.prompt_id for entry in entries if await store.get(entry.key) is not None}
    assert found == left
    assert count == 4 - len(left)
    assert {one.prompt_id for one in Reader(_folder(store)).entries(9)} == left
    _sums_are_right(_folder(store))


async def test_a_purge_takes_the_links_of_the_tenant_along(open_store: Open) -> None:
    store = open_store()
    store.link(b"a", "r", b"s")
    store.link(b"b", "r", b"s")
    await store.flush()
    purge(_folder(store), tenant=b"a")

    assert await store.linked(b"a", "r") is None
    assert await store.linked(b"b", "r") == b"s"


async def test_an_entry_purged_while_it_was_queued_does_not_come_back(open_store: Open, make_entry: Make) -> None:
    store = open_store()
    await store.flush()
    blocker = sqlite3.connect(_folder(store) / "store.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # the writer has to wait, and the entry stays in the queue
    store.put(make_entry(1))
    assert await store.get(make_entry(1).key) is not None
    await asyncio.sleep(0.1)
    blocker.execute("UPDATE meta SET generation = generation + 1")  # what a purge does
    blocker.execute("COMMIT")
    blocker.close()

    assert await store.get(make_entry(1).key) is None
    await store.flush()
    assert await store.get(make_entry(1).key) is None
    store.put(make_entry(1))
    await store.flush()
    store.close()
    assert await open_store().get(make_entry(1).key) is not None


async def test_a_purge_gives_the_space_back(open_store: Open, make_entry: Make) -> None:
    store = open_store()
    noise = random.Random(7)
    for number in range(50):
        store.put(make_entry(number, body=noise.randbytes(50_000)))
    await store.flush()
    file = _folder(store) / "store.db"
    assert await store.purge(all=True) == 50

    assert file.stat().st_size < 200_000


async def test_two_stores_on_one_folder_see_each_others_entries(open_store: Open, make_entry: Make) -> None:
    one, two = open_store(), open_store()
    for number in range(50):
        (one if number % 2 else two).put(make_entry(number))
    await asyncio.gather(one.flush(), two.flush())

    assert all([await one.get(make_entry(number).key) for number in range(50)])
    assert all([await two.get(make_entry(number).key) for number in range(50)])
    assert one.dropped == two.dropped == 0
    _sums_are_right(_folder(one))


def test_folders_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    program = (
        "import os, sys, asyncio, time, pathlib; os.umask(0)\n"
        "from promptweir.layers.stores.sqlite import SqliteStore\n"
        "s = SqliteStore(pathlib.Path(sys.argv[1]), max_bytes=9, max_entries=9, front_max_bytes=9, max_trips=9,"
        " now_ns=time.time_ns)\n"
        "s.open(); s.prove(b'a', 'b'); asyncio.run(s.flush())\n"
        "print(*sorted((p.name, oct(p.stat().st_mode & 0o7777)) for p in pathlib.Path(sys.argv[1]).iterdir()))\n"
        "s.close()\n"
    )
    folder = tmp_path / "new" / "deeper" / "state"
    shown = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)

    assert "store.db-wal" in shown.stdout
    assert shown.stdout.count("'0o600'") == shown.stdout.count("store.")
    for made in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize(("holds", "mode"), [("nothing", 0o700), ("a store", 0o700), ("another's file", 0o755)])
def test_a_folder_open_to_others_is_narrowed_only_when_it_is_ours(
    open_store: Open, tmp_path: Path, holds: str, mode: int
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    match holds:
        case "a store":
            open_store().close()
            folder.chmod(0o755)
            (folder / "store.db").chmod(0o644)
        case "another's file":
            (folder / "letter").touch()
    store = open_store()

    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert stat.S_IMODE((folder / "store.db").stat().st_mode) == 0o600
    assert len(store.warnings) == (mode == 0o755)


def test_a_reader_of_nothing_gives_empty_results(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        reader = Reader(folder)
        assert reader.totals() == reader.since(0) == Totals()
        assert reader.recent(5) == reader.entries(5) == []
        assert reader.trip("x") is None
        assert reader.usage() == (0, 0)
        assert purge(folder, all=True) == 0
        assert reader.warnings == []
    assert list(tmp_path.iterdir()) == []


async def test_after_closing_everything_is_a_miss_and_nothing_is_reopened(open_store: Open, make_entry: Make) -> None:
    store = open_store()
    store.put(make_entry(1))
    store.close()
    store.close()
    store.put(make_entry(2))
    store.record(_trip(1))
    await store.flush()

    assert store.dropped == 2
    assert await open_store().get(make_entry(1).key) is not None
    assert await store.get(make_entry(1).key) is None


async def test_looking_for_purges_costs_some_microseconds(open_store: Open, make_entry: Make) -> None:
    store = open_store()
    store.put(make_entry(1))
    await store.flush()
    rounds = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(200):
            store._notice_purges()
        rounds.append((time.perf_counter() - started) / 200)

    assert min(rounds) < 50e-6  # measured 5 us; the bound leaves room for a loaded machine


def _folder(store: SqliteStore) -> Path:
    return store._database.path.parent


def _purge_elsewhere(folder: Path, chosen: dict[str, object]) -> int:
    program = (
        "import sys, pathlib; from promptweir.layers.stores.purge import purge\n"
        f"print(purge(pathlib.Path(sys.argv[1]), **{chosen!r}))"
    )
    shown = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    return int(shown.stdout)


def _sums_are_right(folder: Path) -> None:
    connection = sqlite3.connect(folder / "store.db")
    sums = connection.execute("SELECT entries, bytes, links, link_bytes FROM meta").fetchone()
    entries = connection.execute("SELECT count(*), ifnull(sum(size), 0) FROM entries").fetchone()
    links = connection.execute("SELECT count(*), ifnull(sum(length(state)), 0) FROM links").fetchone()
    bodies = connection.execute("SELECT count(*) FROM bodies").fetchone()
    connection.close()
    assert sums == (*entries, *links)
    assert bodies[0] == entries[0]
