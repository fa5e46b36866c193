"""Where an answer of Anthropic may be changed by a replay, and where it must not be.

Ids, text, tool input: may be changed.  Thinking under a signature, and everything that this module does not know by
name (blocks of the provider's own tools, citations, fields yet to come): sealed.

A streamed answer has hundreds of deltas, and each hit comes through here: their path is plain look-ups.
"""

from promptweir.layers.contract import Encoding, Json
from promptweir.layers.dialects.shape import sealed
from promptweir.layers.frames import Frame, Slot, SlotKind

_PLAIN = frozenset(("type", "role", "model", "usage", "stop_reason"))
"""Fields of a message whose values are words of the protocol, or numbers."""

_PIECES = {
    "text_delta": ("text", SlotKind.TEXT, "text:"),
    "thinking_delta": ("thinking", SlotKind.TEXT, "thinking:"),
    "input_json_delta": ("partial_json", SlotKind.ARGUMENTS, "input:"),
}
"""Of each delta that carries a piece of a text: the piece's field, its kind, and the name of its channel."""


def slots(frames: list[Frame], encoding: Encoding) -> list[Slot]:
    """Return the slots of a whole answer."""
    found: list[Slot] = []
    if encoding is Encoding.JSON:
        for index, frame in enumerate(frames):
            _message(found, index, frame.doc)
        return found
    signed = _signed_blocks(frames)
    for index, frame in enumerate(frames):
        if isinstance(frame.doc, dict):
            _event(found, index, frame.doc, signed)
    return found


def _signed_blocks(frames: list[Frame]) -> set[int]:
    """Return the indices of the blocks whose thinking stands under a signature, which comes after it."""
    signed: set[int] = set()
    for frame in frames:
        if isinstance(frame.doc, dict):
            holder = frame.doc.get("delta") or frame.doc.get("content_block")
            if isinstance(holder, dict) and holder.get("signature"):
                signed.add(_index(frame.doc))
    return signed


def _index(event: dict[str, Json]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else -1


def _event(found: list[Slot], frame: int, event: dict[str, Json], signed: set[int]) -> None:
    kind = event.get("type")
    if kind == "content_block_delta":
        delta = event.get("delta")
        if isinstance(delta, dict):
            _delta(found, frame, delta, _index(event), signed)
    elif kind == "content_block_start":
        block = event.get("content_block")
        if isinstance(block, dict):
            _block(found, frame, block, _index(event), _index(event) in signed)
    elif kind == "message_start":
        _message(found, frame, event.get("message"))
    elif kind == "message_delta":
        _message(found, frame, event.get("delta"))


def _delta(found: list[Slot], frame: int, delta: dict[str, Json], index: int, signed: set[int]) -> None:
    piece = _PIECES.get(str(delta.get("type")))
    if piece is None or piece[0] not in delta:
        for name in delta:
            if name != "type":
                found.extend(sealed(frame, delta, name))
        return
    key, kind, channel = piece
    if key == "thinking" and index in signed:
        kind = SlotKind.SIGNED_TEXT
    found.append(Slot(frame, delta, key, kind, f"{channel}{index}"))


def _message(found: list[Slot], frame: int, message: Json) -> None:
    if not isinstance(message, dict):
        return
    for name, value in message.items():
        match name, value:
            case "id", str():
                found.append(Slot(frame, message, name, SlotKind.RESPONSE_ID))
            case "content", list(blocks):
                for index, block in enumerate(blocks):
                    if isinstance(block, dict):
                        _block(found, frame, block, index, bool(block.get("signature")))
            case _ if name not in _PLAIN:
                found.extend(sealed(frame, message, name))


def _block(found: list[Slot], frame: int, block: dict[str, Json], index: int, signed: bool) -> None:
    kind = block.get("type")
    for name, value in block.items():
        match kind, name, value:
            case _, "type", _:
                pass
            case "text", "text", str():
                found.append(Slot(frame, block, name, SlotKind.TEXT, f"text:{index}"))
            case "thinking", "thinking", str():
                held = SlotKind.SIGNED_TEXT if signed else SlotKind.TEXT
                found.append(Slot(frame, block, name, held, f"thinking:{index}"))
            case "tool_use", "id", str():
                found.append(Slot(frame, block, name, SlotKind.TOOL_ID))
            case "tool_use", "input", _ if value:
                found.append(Slot(frame, block, name, SlotKind.VALUE))
            case "redacted_thinking", "data", _:
                found.append(Slot(frame, block, name, SlotKind.OPAQUE))
            case _:
                found.extend(sealed(frame, block, name))
