"""Frames and slots: the anatomy of a recorded answer, so that few of its bytes can be changed and the rest stay.

A recorded body is cut into *frames* (one SSE event, one AWS event-stream message, or the whole JSON document).  Each
frame keeps its bytes and its decoded document.  A dialect points at the places of those documents that a replay may
have to change: *slots*.  A frame none of whose slots changed is sent again as the bytes it came in.

Text that the model produced is often cut across frames.  Slots with the same *channel* are consecutive pieces of one
string, so that a path split as ``/home/al`` + ``ice/app`` is still found.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from promptweir.layers.contract import Json


class SlotKind(StrEnum):
    """What a slot holds, and so what a replay may do to it."""

    TEXT = "text"
    """Prose or code of the model: a piece of its channel's text."""
    ARGUMENTS = "arguments"
    """JSON text of a tool call's arguments (or a custom tool's free text): a piece of its channel's text."""
    VALUE = "value"
    """A decoded JSON value with strings inside (Anthropic ``input``, Gemini ``args``)."""
    RESPONSE_ID = "response-id"
    """The id of the answer or of one of its items; replays mint a fresh one, the same for equal old ids."""
    TOOL_ID = "tool-id"
    """The id by which a tool result will name this call; minted afresh like RESPONSE_ID."""
    CREATED = "created"
    """Seconds since the epoch at which the answer was made."""
    SIGNED_TEXT = "signed-text"
    """Text under a signature (thinking): never altered; if renaming would alter it, the entry does not serve."""
    OPAQUE = "opaque"
    """Signatures, encrypted content, log probabilities: never altered, whatever they hold."""
    ECHO = "echo"
    """A copy of a field of the request; ``echo_of`` names that top-level field."""


@dataclass(slots=True)
class Frame:
    """One frame of a recorded answer.  The only mutable type of the core: a replay edits its own copy."""

    raw: bytes
    """Exactly the bytes of this frame, its terminator included."""
    event: str | None = None
    """The SSE ``event:`` field, if there was one."""
    doc: Json = None
    """The decoded data; None where the data is not JSON (``[DONE]``, comments)."""
    dirty: bool = False
    """The document was changed, so the bytes have to be made anew."""


class Slot(msgspec.Struct, frozen=True):
    """A place in a frame's document: ``container[key]``.  A struct, because a long answer has thousands of them."""

    frame: int
    """Index of the frame."""
    container: dict[str, Json] | list[Json]
    key: str | int
    kind: SlotKind
    channel: str = ""
    """Pieces with an equal, non-empty channel are consecutive parts of one text."""
    echo_of: str = ""
