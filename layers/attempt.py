"""One leader's try at an answer: the bytes so far, and how far each reader has come.

Goals: a reader that comes late gets every byte from the first; memory stays within a limit.

Plan.  Until the limit is reached everything is kept, since anybody may still come.  Beyond it the attempt is *sealed*:
nobody may begin any more, what every reader has had is dropped, and who lags by more than the limit is lost.

What it does not do: waiting, and who may lead next, are ``promptweir.layers.flight``'s part.
"""

import asyncio
from enum import Enum, auto

BURST_BYTES = 64 << 10
"""How much buffered answer a late joiner gets in one piece: a socket's default high-water mark, so that it is throttled."""

type RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields as they were on the wire."""


class Phase(Enum):
    """How far an attempt has come."""

    UNDER_WAY = auto()
    ENDED = auto()
    LANDED = auto()
    FAILED = auto()


class Bell:
    """Wakes everybody who waits for the next change, in the order in which they came."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def ring(self) -> None:
        """Wake everybody who waits now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next change."""
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class Reader:
    """How far one follower has read in an attempt."""

    __slots__ = ("cursor", "lost")

    def __init__(self) -> None:
        self.cursor = 0
        self.lost = False


class Attempt:
    """What one leader has published."""

    def __init__(self, max_bytes: int) -> None:
        self.phase = Phase.UNDER_WAY
        self.status: int | None = None
        self.headers: RawHeaders = ()
        self.failure = ""
        self.sealed = False
        self.readers: set[Reader] = set()
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._dropped = 0
        self._held_bytes = 0

    def board(self) -> Reader | None:
        """Return a reader at the first byte; None when that byte is gone."""
        if self.sealed:
            return None
        reader = Reader()
        self.readers.add(reader)
        return reader

    def add(self, data: bytes) -> None:
        """Append *data*."""
        self._chunks.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._max_bytes:
            self.sealed = True
        if self.sealed:
            self.trim()

    def take(self, reader: Reader) -> bytes:
        """Return the next bytes of *reader*, about ``BURST_BYTES`` at most; empty when it has had all there is."""
        start = stop = reader.cursor - self._dropped
        size = 0
        while stop < len(self._chunks) and size < BURST_BYTES:
            size += len(self._chunks[stop])
            stop += 1
        taken = self._chunks[start:stop]
        reader.cursor += len(taken)
        if self.sealed:
            self.trim()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def trim(self) -> None:
        """Drop what every reader has had, then what the limit demands."""
        ends = self._dropped + len(self._chunks)
        keep_from = min((reader.cursor for reader in self.readers), default=ends)
        count = keep_from - self._dropped
        held = self._held_bytes - sum(len(chunk) for chunk in self._chunks[:count])
        while held > self._max_bytes:
            held -= len(self._chunks[count])
            count += 1
        self._held_bytes = held
        self._dropped += count
        del self._chunks[:count]
        for reader in [reader for reader in self.readers if reader.cursor < self._dropped]:
            reader.lost = True
            self.readers.discard(reader)

    def leave(self, reader: Reader) -> None:
        """Stop keeping bytes for *reader*."""
        self.readers.discard(reader)
        if self.sealed:
            self.trim()
