"""What every dialect can do: read a request's facts, understand a whole answer, and write one.

A dialect never guesses: an answer that is not whole (no terminal event, a block left open, JSON that does not parse)
raises ``ValueError`` and is not learned.
"""

from typing import Protocol

from promptweir.layers.contract import Answer, Dialect, Encoding, Facts, Fields
from promptweir.layers.frames import Frame, Slot


class Codec(Protocol):
    """One wire format."""

    @property
    def dialect(self) -> Dialect:
        """The format's name."""
        ...

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the steering fields of a request.

        Fields of a wrong type raise ``ValueError``: such a call passes, and the provider says what is wrong with it.
        """
        ...

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer held by *frames*; raise ``ValueError`` when it is not whole."""
        ...

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place of *frames* that a replay may have to change or must not touch."""
        ...

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write *answer* in *encoding*: ids, usage, tool calls and terminal events in the provider's own order."""
        ...
