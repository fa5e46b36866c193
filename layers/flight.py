"""Single flight: identical calls under way at the same time share one call to the provider.

Goals: k identical calls make one upstream call; whoever joins late gets every byte from the first; a leader that fails
hands its place to one of those who wait, and only to one; nothing waits for ever and nothing grows for ever.

Plan.  ``Flights.join(key)`` names the role.  The *leader* makes the call and publishes what comes back.  A *follower*
waits, either for the bytes (``board``) or, where it cannot share them (another encoding, other names in its prompt),
only for the outcome (``landed``) to look into the cache then.  Each try of a leader is an *attempt* with its own bytes.
If an attempt fails, the flight is vacant until a waiting follower takes it over.  It is taken by the waiting task
itself while it runs, never handed to it: a task that was cancelled in between cannot lose the place for the others.

Bounds.  An attempt holds ``max_bytes``.  Beyond that nobody may board any more, bytes that every reader has had are
dropped, and a reader that lags by more than ``max_bytes`` is broken.  ``max_flights`` bounds the registry; a call beyond
it leads alone.  Every wait takes seconds.

What it does not do: it knows no HTTP, does not decide whether an answer is whole (the leader says ``land`` or ``fail``),
and is for one event loop.

Usage::

    match flights.join(key):
        case Lead() as lead:                       # make the call
            lead.head(200, headers)                # at the response headers; a status outside 2xx fails the attempt
            lead.chunk(data)                       # every piece
            lead.end()                             # the last byte is out and the answer is whole: streams end
            lead.land()                            # it is in the cache: those who wait for the outcome look there
            lead.fail("cut")                       # instead: readers break, one of those waiting leads on
        case Follow() as follow:
            match await follow.board(wait_s=30.0):  # or: await follow.landed(wait_s=30.0)
                case Boarded(status=status, headers=headers, chunks=chunks): ...   # async for data in chunks
                case Promoted(lead=lead): ...      # you lead now
                case Unjoinable() | Expired(): ...  # make the call alone
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from promptweir.layers.attempt import Attempt, Bell, Phase, RawHeaders, Reader


class FlightBrokenError(Exception):
    """The answer that this reader was following will not be completed."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """The leader failed before this follower had a byte; it leads now."""

    lead: "Lead"


@dataclass(frozen=True, slots=True)
class Boarded:
    """The answer is under way (or just over): its head, and all of its bytes from the first."""

    status: int
    headers: RawHeaders
    chunks: "Chunks"


@dataclass(frozen=True, slots=True)
class Landed:
    """The leader's answer is whole and has been learned."""


@dataclass(frozen=True, slots=True)
class Unjoinable:
    """The beginning of the answer is no longer held."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Nothing happened within the time that the follower was ready to wait."""


class _Flight:
    """All attempts at one key.  Vacant (``attempt is None``) between a failure and a promotion."""

    def __init__(self, key: bytes, registry: "Flights", max_bytes: int) -> None:
        self.key = key
        self.registry = registry
        self.max_bytes = max_bytes
        self.bell = Bell()
        self.waiting: set[Follow] = set()
        self.attempt: Attempt | None = None

    def lead(self) -> "Lead":
        self.attempt = Attempt(self.max_bytes)
        for follow in self.waiting:
            follow.reboard(self.attempt)
        return Lead(self, self.attempt)

    def settle(self) -> None:
        """Tell of a change; a flight that nobody leads and nobody waits for is over."""
        if self.attempt is None and not self.waiting:
            self.registry.remove(self)
        self.bell.ring()


class Lead:
    """The side of the one who makes the call.  After ``land`` or ``fail`` every method is a no-op."""

    def __init__(self, flight: _Flight, attempt: Attempt) -> None:
        self._flight = flight
        self._attempt = attempt

    @property
    def followers(self) -> int:
        """How many calls wait for this answer or read it."""
        waiting = self._flight.waiting if self._flight.attempt is self._attempt else ()
        reading = self._attempt.readers - {follow.reader for follow in waiting if follow.reader is not None}
        return len(reading) + len(waiting)

    @property
    def followed(self) -> bool:
        """Whether somebody other than the leader's own client wants this answer."""
        return self.followers > 0

    async def deserted(self) -> bool:
        """Wait until nobody follows any more (true), or until the answer is over (false)."""
        while self._attempt.phase is Phase.UNDER_WAY:
            if not self.followed:
                return True
            await self._flight.bell.wait()
        return False

    def head(self, status: int, headers: RawHeaders) -> None:
        """Publish the head.  Nobody wants to share an error: a status outside 2xx fails the attempt."""
        if not 200 <= status < 300:
            self.fail(f"status {status}")
        elif self._attempt.phase is Phase.UNDER_WAY:
            self._attempt.status = status
            self._attempt.headers = headers
            self._flight.bell.ring()

    def chunk(self, data: bytes) -> None:
        """Publish the next bytes of the body."""
        if data and self._attempt.phase is Phase.UNDER_WAY:
            self._attempt.add(data)
            self._flight.bell.ring()

    def end(self) -> None:
        """Say that the published bytes are a whole answer.  Readers end; who joins now still gets all of it."""
        if self._attempt.phase is Phase.UNDER_WAY:
            self._attempt.phase = Phase.ENDED
            self._flight.bell.ring()

    def land(self) -> None:
        """Say that the answer has been learned: from now on the cache answers, and a new call leads anew."""
        if self._attempt.phase in (Phase.UNDER_WAY, Phase.ENDED):
            self._attempt.phase = Phase.LANDED
            self._flight.registry.remove(self._flight)
            self._flight.bell.ring()

    def fail(self, reason: str) -> None:
        """Give up.  Readers who already had the head break (unless ``end`` was said); one of those waiting leads on."""
        if self._attempt.phase in (Phase.LANDED, Phase.FAILED):
            return
        if self._attempt.phase is Phase.UNDER_WAY:
            self._attempt.failure = reason
        self._attempt.phase = Phase.FAILED
        if self._flight.attempt is self._attempt:
            self._flight.attempt = None
        self._flight.settle()


class Chunks(AsyncIterator[bytes]):
    """All bytes of one attempt, from the first; ``FlightBrokenError`` where there will be no clean end."""

    def __init__(self, flight: _Flight, attempt: Attempt, reader: Reader, idle_s: float) -> None:
        self._flight = flight
        self._attempt = attempt
        self._reader = reader
        self._idle_s = idle_s

    async def __anext__(self) -> bytes:
        while True:
            if self._reader.lost:
                raise FlightBrokenError("reader lags too far behind")
            if data := self._attempt.take(self._reader):
                return data
            if self._attempt.phase is not Phase.UNDER_WAY:
                break
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._flight.bell.wait()
            except TimeoutError:
                self.leave()
                raise FlightBrokenError(f"no byte for {self._idle_s:g} s") from None
        self.leave()
        if self._attempt.failure:
            raise FlightBrokenError(self._attempt.failure)
        raise StopAsyncIteration

    def leave(self) -> None:
        """Stop reading.  Do so whenever the bytes are not read to the end: a reader keeps the call alive."""
        self._attempt.leave(self._reader)
        self._flight.settle()

    async def aclose(self) -> None:
        """Stop reading."""
        self.leave()


class Follow:
    """The side of one who waits.  Ask once, by ``board`` or ``landed``; cancelling the question leaves the flight."""

    def __init__(self, flight: _Flight, attempt: Attempt, idle_s: float) -> None:
        self._flight = flight
        self._idle_s = idle_s
        self._wants_bytes = True
        self.reader = attempt.board()
        flight.waiting.add(self)

    def reboard(self, attempt: Attempt) -> None:
        """Wait for another leader's *attempt*."""
        self.reader = attempt.board() if self._wants_bytes else None

    async def board(self, wait_s: float) -> Boarded | Promoted | Unjoinable | Expired:
        """Wait at most *wait_s* seconds for the head of an answer whose bytes can be shared."""
        boarded: Boarded | None = None
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    if (attempt := self._flight.attempt) is None:
                        return Promoted(self._promoted())
                    if self.reader is None or self.reader.lost:
                        return Unjoinable()
                    if attempt.status is not None:
                        chunks = Chunks(self._flight, attempt, self.reader, self._idle_s)
                        boarded = Boarded(attempt.status, attempt.headers, chunks)
                        return boarded
                    await self._flight.bell.wait()
        except TimeoutError:
            return Expired()
        finally:
            self.leave(keep_reading=boarded is not None)

    async def landed(self, wait_s: float) -> Landed | Promoted | Expired:
        """Wait at most *wait_s* seconds until the answer has been learned."""
        self._wants_bytes = False
        self._stop_reading()
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    if (attempt := self._flight.attempt) is None:
                        return Promoted(self._promoted())
                    if attempt.phase is Phase.LANDED:
                        return Landed()
                    await self._flight.bell.wait()
        except TimeoutError:
            return Expired()
        finally:
            self.leave()

    def leave(self, *, keep_reading: bool = False) -> None:
        """Wait no longer."""
        if not keep_reading:
            self._stop_reading()
        self._flight.waiting.discard(self)
        self._flight.settle()

    def _promoted(self) -> Lead:
        self._flight.waiting.discard(self)
        return self._flight.lead()

    def _stop_reading(self) -> None:
        if self.reader is not None and self._flight.attempt is not None:
            self._flight.attempt.leave(self.reader)
        self.reader = None


class Flights:
    """The calls under way, by key.

    Args:
        max_bytes: What one flight holds of its answer for those who come late.
        max_flights: How many keys may be under way; further calls lead alone.
        idle_s: How long a reader waits for the next byte before it breaks.
    """

    def __init__(self, *, max_bytes: int, max_flights: int, idle_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_flights = max_flights
        self._idle_s = idle_s
        self._by_key: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def join(self, key: bytes) -> Lead | Follow:
        """Return the caller's role for *key*: the first one leads."""
        flight = self._by_key.get(key)
        if flight is None:
            flight = _Flight(key, self, self._max_bytes)
            if len(self._by_key) < self._max_flights:
                self._by_key[key] = flight
        if flight.attempt is None:
            return flight.lead()
        return Follow(flight, flight.attempt, self._idle_s)

    def remove(self, flight: _Flight) -> None:
        """Forget *flight*, if it is still the one under its key."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
