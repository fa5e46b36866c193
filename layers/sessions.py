"""Repeats inside one session: a retry is served, a loop is let through.

A client that asks the very same thing again in the same conversation either lost the first answer (a retry) or goes
round in circles.  Replaying the cached answer to a loop would freeze it for ever; the provider, asked again, may break
it.  The log counts, per session and key, how often an answer was handed out; it is bounded and forgets the oldest.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

MAX_REMEMBERED = 50_000
"""Pairs of session and key; about 10 MB."""


class Repeat(StrEnum):
    """What a call is to its session."""

    FIRST = "first"
    RETRY = "retry"
    AGAIN = "again"
    """Asked again, later than a retry would be."""
    LOOP = "loop"


@dataclass(slots=True)
class _Seen:
    times: int
    last_ns: int


class SessionLog:
    """Counts answers handed out."""

    def __init__(self, *, retry_window_ns: int, loop_repeats: int, max_remembered: int = MAX_REMEMBERED) -> None:
        self._retry_window_ns = retry_window_ns
        self._loop_repeats = loop_repeats
        self._max_remembered = max_remembered
        self._seen: OrderedDict[tuple[bytes, str, bytes], _Seen] = OrderedDict()

    def repeat_of(self, tenant: bytes, session: str, key: bytes, now_ns: int, *, retry: bool) -> Repeat:
        """Say what a call with *key* is to its *session*; *retry* is the client's own word for it."""
        seen = self._seen.get((tenant, session, key)) if session else None
        if seen is None:
            return Repeat.FIRST
        if seen.times >= self._loop_repeats:
            return Repeat.LOOP
        if retry or 0 <= now_ns - seen.last_ns <= self._retry_window_ns:
            return Repeat.RETRY
        return Repeat.AGAIN

    def answered(self, tenant: bytes, session: str, key: bytes, now_ns: int) -> None:
        """Note that an answer, ours or the provider's, went out."""
        if not session:
            return
        name = (tenant, session, key)
        seen = self._seen.get(name)
        if seen is None:
            self._seen[name] = _Seen(1, now_ns)
            if len(self._seen) > self._max_remembered:
                self._seen.popitem(last=False)
        else:
            seen.times += 1
            seen.last_ns = now_ns
            self._seen.move_to_end(name)
