"""Single flight, without any proxy: roles, promotion, late joiners, bounds."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from promptweir.layers.attempt import BURST_BYTES
from promptweir.layers.flight import (
    Boarded,
    Expired,
    FlightBrokenError,
    Flights,
    Follow,
    Landed,
    Lead,
    Promoted,
    Unjoinable,
)

KEY = b"k"
HEADERS = ((b"content-type", b"text/event-stream"),)
WAIT_S = 5.0


def flights(*, max_bytes: int = 1 << 20, max_flights: int = 16, idle_s: float = WAIT_S) -> Flights:
    return Flights(max_bytes=max_bytes, max_flights=max_flights, idle_s=idle_s)


def lead_of(registry: Flights, key: bytes = KEY) -> Lead:
    role = registry.join(key)
    assert isinstance(role, Lead)
    return role


def follow_of(registry: Flights, key: bytes = KEY) -> Follow:
    role = registry.join(key)
    assert isinstance(role, Follow)
    return role


async def boarded(follow: Follow) -> Boarded:
    outcome = await follow.board(WAIT_S)
    assert isinstance(outcome, Boarded)
    return outcome


async def read_all(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_the_first_call_of_a_key_leads_and_the_next_ones_follow():
    registry = flights()

    lead_of(registry)

    assert isinstance(registry.join(KEY), Follow)
    assert isinstance(registry.join(b"other"), Lead)
    assert len(registry) == 2


async def test_a_follower_gets_head_and_chunks_as_they_are_published():
    registry = flights()
    lead = lead_of(registry)
    waiting = asyncio.create_task(boarded(follow_of(registry)))
    await asyncio.sleep(0)
    lead.head(200, HEADERS)
    board = await waiting

    assert (board.status, board.headers) == (200, HEADERS)
    for piece in (b"one", b"two"):
        lead.chunk(piece)
        assert await anext(board.chunks) == piece
    lead.end()
    assert await read_all(board.chunks) == b""


async def test_a_late_joiner_gets_every_byte_from_the_first_even_after_the_end():
    registry = flights()
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    lead.chunk(b"one ")
    middle = await boarded(follow_of(registry))
    lead.chunk(b"two")
    lead.end()
    late = await boarded(follow_of(registry))

    assert await read_all(middle.chunks) == b"one two"
    assert await read_all(late.chunks) == b"one two"


async def test_a_late_joiner_gets_a_long_answer_in_bounded_bursts():
    registry = flights()
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    for _ in range(300):
        lead.chunk(b"x" * 1000)
    lead.end()
    board = await boarded(follow_of(registry))
    sizes = [len(chunk) async for chunk in board.chunks]

    assert sum(sizes) == 300_000
    assert max(sizes) < BURST_BYTES + 1000
    assert len(sizes) < 10


async def test_after_landing_a_new_call_leads_anew_and_those_who_wait_for_the_outcome_are_told():
    registry = flights()
    lead = lead_of(registry)
    waiting = asyncio.create_task(follow_of(registry).landed(WAIT_S))
    await asyncio.sleep(0)
    lead.head(200, HEADERS)
    lead.chunk(b"x")
    lead.end()
    await asyncio.sleep(0)
    assert not waiting.done()
    lead.land()

    assert await waiting == Landed()
    assert len(registry) == 0
    assert isinstance(registry.join(KEY), Lead)


@pytest.mark.parametrize("failure", ["before head", "status", "outcome"])
async def test_exactly_one_waiting_follower_is_promoted_and_the_others_follow_it(failure: str):
    registry = flights()
    lead = lead_of(registry)
    follows = [follow_of(registry) for _ in range(3)]
    if failure == "outcome":
        tasks = [asyncio.create_task(follow.landed(WAIT_S)) for follow in follows]
    else:
        tasks = [asyncio.create_task(follow.board(WAIT_S)) for follow in follows]  # type: ignore[misc]
    await asyncio.sleep(0)
    if failure == "before head":
        lead.fail("connection refused")
    elif failure == "status":
        lead.head(429, HEADERS)
    else:
        lead.head(200, HEADERS)
        lead.chunk(b"half")
        lead.fail("cut")
    done, pending = await asyncio.wait(tasks, timeout=0.05)

    (promoted,) = [task.result() for task in done]
    assert isinstance(promoted, Promoted)
    assert len(pending) == 2
    assert promoted.lead.followers == 2
    promoted.lead.head(200, HEADERS)
    promoted.lead.chunk(b"whole")
    promoted.lead.end()
    promoted.lead.land()
    outcomes = await asyncio.gather(*pending)
    if failure == "outcome":
        assert outcomes == [Landed(), Landed()]
    else:
        assert [await read_all(outcome.chunks) for outcome in outcomes if isinstance(outcome, Boarded)] == [
            b"whole",
            b"whole",
        ]


async def test_promotion_goes_round_until_someone_succeeds_and_leaves_nothing_behind():
    registry = flights()
    upstream_calls = 0

    async def call() -> str:
        nonlocal upstream_calls
        role = registry.join(KEY)
        if isinstance(role, Follow):
            match await role.board(WAIT_S):
                case Promoted(lead=lead):
                    role = lead
                case outcome:
                    assert isinstance(outcome, Boarded)
                    return (await read_all(outcome.chunks)).decode()
        upstream_calls += 1
        await asyncio.sleep(0)
        if upstream_calls < 4:
            role.head(500, ())
            return "error"
        role.head(200, HEADERS)
        role.chunk(b"ok")
        role.end()
        role.land()
        return "led"

    outcomes = await asyncio.gather(*(call() for _ in range(8)))

    assert sorted(outcomes) == ["error"] * 3 + ["led"] + ["ok"] * 4
    assert upstream_calls == 4
    assert len(registry) == 0


async def test_a_promotion_is_not_lost_when_the_first_in_line_is_cancelled_in_the_same_moment():
    registry = flights()
    lead = lead_of(registry)
    first = asyncio.create_task(follow_of(registry).board(WAIT_S))
    second = asyncio.create_task(follow_of(registry).board(WAIT_S))
    await asyncio.sleep(0)
    lead.fail("cut")
    first.cancel()

    assert isinstance(await second, Promoted)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_flight_that_everybody_left_is_forgotten():
    registry = flights()
    lead = lead_of(registry)
    tasks = [asyncio.create_task(follow_of(registry).board(WAIT_S)) for _ in range(2)]
    await asyncio.sleep(0)
    lead.fail("cut")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert len(registry) == 0
    assert isinstance(registry.join(KEY), Lead)


async def test_a_new_call_takes_a_vacant_flight_and_those_who_wait_follow_it():
    registry = flights()
    lead = lead_of(registry)
    waiting = asyncio.create_task(follow_of(registry).board(WAIT_S))
    await asyncio.sleep(0)
    lead.fail("cut")
    newcomer = lead_of(registry)
    newcomer.head(200, HEADERS)
    newcomer.chunk(b"whole")
    newcomer.end()

    outcome = await waiting
    assert isinstance(outcome, Boarded)
    assert await read_all(outcome.chunks) == b"whole"


async def test_a_follower_that_has_had_bytes_breaks_when_the_leader_fails():
    registry = flights()
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    lead.chunk(b"half")
    board = await boarded(follow_of(registry))
    assert await anext(board.chunks) == b"half"
    lead.fail("cut by the provider")

    with pytest.raises(FlightBrokenError, match="cut by the provider"):
        await anext(board.chunks)
    assert len(registry) == 0


async def test_a_follower_that_waits_too_long_goes_on_alone():
    registry = flights()
    lead = lead_of(registry)

    assert await follow_of(registry).board(0.01) == Expired()
    assert await follow_of(registry).landed(0.01) == Expired()
    assert not lead.followed


async def test_a_reader_breaks_when_no_byte_comes_for_too_long():
    registry = flights(idle_s=0.02)
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    board = await boarded(follow_of(registry))

    with pytest.raises(FlightBrokenError, match="no byte"):
        await anext(board.chunks)
    assert not lead.followed


async def test_beyond_the_limit_nobody_boards_but_attached_readers_go_on():
    registry = flights(max_bytes=10)
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    board = await boarded(follow_of(registry))
    got = b""
    for _ in range(5):
        lead.chunk(b"12345")
        got += await anext(board.chunks)

    assert got == b"12345" * 5
    assert await follow_of(registry).board(WAIT_S) == Unjoinable()
    lead.end()
    assert await read_all(board.chunks) == b""


async def test_a_reader_that_lags_by_more_than_the_limit_breaks_and_the_others_do_not():
    registry = flights(max_bytes=10)
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    slow = await boarded(follow_of(registry))
    fast = await boarded(follow_of(registry))
    lead.chunk(b"12345")
    assert await anext(fast.chunks) == b"12345"
    for _ in range(2):
        lead.chunk(b"67890")
        assert await anext(fast.chunks) == b"67890"

    with pytest.raises(FlightBrokenError, match="lags"):
        await anext(slow.chunks)
    assert lead.followers == 1


async def test_one_piece_larger_than_the_limit_is_not_kept():
    registry = flights(max_bytes=10)
    lead = lead_of(registry)
    waiting = asyncio.create_task(follow_of(registry).board(WAIT_S))
    await asyncio.sleep(0)
    lead.head(200, HEADERS)
    lead.chunk(b"x" * 11)

    assert await waiting == Unjoinable()


async def test_calls_beyond_the_number_of_flights_lead_alone():
    registry = flights(max_flights=1)
    lead_of(registry)

    assert isinstance(registry.join(b"second"), Lead)
    assert isinstance(registry.join(b"second"), Lead)
    assert len(registry) == 1


async def test_the_leader_learns_when_the_last_follower_leaves():
    registry = flights()
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    board = await boarded(follow_of(registry))
    waiting = asyncio.create_task(follow_of(registry).landed(WAIT_S))
    deserted = asyncio.create_task(lead.deserted())
    await asyncio.sleep(0)
    assert lead.followers == 2

    waiting.cancel()
    await asyncio.wait([waiting])
    assert not deserted.done()
    await board.chunks.aclose()

    assert await deserted is True


async def test_an_answer_that_is_over_was_not_deserted():
    registry = flights()
    lead = lead_of(registry)
    lead.head(200, HEADERS)
    await boarded(follow_of(registry))
    deserted = asyncio.create_task(lead.deserted())
    await asyncio.sleep(0)
    lead.end()

    assert await deserted is False


async def test_a_leader_that_was_replaced_can_no_longer_publish():
    registry = flights()
    stale = lead_of(registry)
    waiting = asyncio.create_task(follow_of(registry).board(WAIT_S))
    await asyncio.sleep(0)
    stale.head(503, ())
    promoted = await waiting
    assert isinstance(promoted, Promoted)
    late = await asyncio.gather(_board_after(registry, promoted.lead), _publish(stale))

    assert await read_all(late[0].chunks) == b"whole"


async def _board_after(registry: Flights, lead: Lead) -> Boarded:
    follow = follow_of(registry)
    lead.head(200, HEADERS)
    lead.chunk(b"whole")
    lead.end()
    return await boarded(follow)


async def _publish(stale: Lead) -> None:
    stale.head(200, ())
    stale.chunk(b"stale")
    stale.fail("again")
    stale.land()
