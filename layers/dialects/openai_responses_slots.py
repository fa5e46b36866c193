"""The places of a recorded response that a replay may have to change, or must not touch.

A stream tells a text in deltas and then whole, up to four times.  The deltas of one text share a channel, named after
the item's position; each whole telling is a channel of its own, named after its frame.

Ids change on replay, with one exception.  An item with ``encrypted_content`` is bound to its id: sent back under
another one, the provider answers that the encrypted content could not be verified.  So the id of such an item is opaque
wherever it occurs, which takes a look ahead, as the deltas come before the content.

Of the request's fields that a response repeats, those are marked that can hold something of the caller's; the rest
(``tools``, ``temperature``, ``text`` ...) is part of the key and equal by that.
"""

from dataclasses import dataclass, field

from promptweir.layers.contract import Encoding, Json
from promptweir.layers.dialects.openai_common import holds_text, objects
from promptweir.layers.frames import Frame, Slot, SlotKind

_ECHOES = frozenset(
    {"instructions", "metadata", "user", "safety_identifier", "prompt_cache_key", "previous_response_id"}
)
# Words of the protocol, settings and names of the provider's own choosing.
_RESPONSE_PLAIN = frozenset(
    {
        "object", "status", "error", "incomplete_details", "model", "output", "usage", "tools", "tool_choice", "text",
        "truncation", "reasoning", "service_tier", "prompt", "conversation", "include", "prompt_cache_retention",
        "prompt_cache_options", "access_programs",
    }
)  # fmt: skip
_ITEM_PLAIN = frozenset({"type", "role", "status", "phase", "name", "namespace", "execution"})
_EVENT_PLAIN = frozenset(
    {
        "type", "obfuscation", "sequence_number", "output_index", "content_index", "summary_index", "command_index",
        "annotation_index",
    }
)  # fmt: skip
# Members that hold text of the model's, in items and in events alike.
_TEXTS = {
    "text": SlotKind.TEXT,
    "refusal": SlotKind.TEXT,
    "arguments": SlotKind.ARGUMENTS,
    "input": SlotKind.ARGUMENTS,
    "command": SlotKind.ARGUMENTS,
    "diff": SlotKind.ARGUMENTS,
}
# Members that hold decoded arguments: of shells, patches, computers, and of the client's tool search.
_VALUES = frozenset({"action", "actions", "operation", "arguments"})
# A delta is prose unless the event's type says that it is part of a call.
_ARGUMENT_EVENTS = ("arguments", "input", "command", "diff")


def find_slots(frames: list[Frame], encoding: Encoding) -> list[Slot]:
    """Return the slots of all *frames* in the order in which they are read."""
    finder = _Finder(bound=_bound_ids(frames))
    for at, frame in enumerate(frames):
        if not isinstance(frame.doc, dict):
            continue
        if encoding is Encoding.JSON:
            finder.response(at, frame.doc)
        else:
            finder.event(at, frame.doc)
    return finder.out


def _bound_ids(frames: list[Frame]) -> frozenset[str]:
    """Return the ids of the items that carry encrypted content."""
    items: list[dict[str, Json]] = []
    for frame in frames:
        doc = frame.doc
        if not isinstance(doc, dict):
            continue
        if "item" in doc:
            items += objects([doc["item"]])
        response = doc.get("response", doc)
        if isinstance(response, dict):
            items += objects(response.get("output"))
    ids = (item.get("id") for item in items if item.get("encrypted_content"))
    return frozenset(item_id for item_id in ids if isinstance(item_id, str))


@dataclass(slots=True)
class _Finder:
    bound: frozenset[str]
    out: list[Slot] = field(default_factory=list)

    def event(self, at: int, event: dict[str, Json]) -> None:
        """Take one event of a stream."""
        for key, value in event.items():
            if key in _EVENT_PLAIN or not value:
                continue
            if key in ("item_id", "response_id"):
                self._id(at, event, key)
            elif key == "delta" and isinstance(value, str):
                kind = str(event.get("type"))
                holds = SlotKind.ARGUMENTS if any(word in kind for word in _ARGUMENT_EVENTS) else SlotKind.TEXT
                self.out.append(Slot(at, event, key, holds, _delta_channel(event, kind)))
            elif key == "response" and isinstance(value, dict):
                self.response(at, value)
            elif key == "item" and isinstance(value, dict):
                self._item(at, value, f"{at}/item")
            elif key == "part" and isinstance(value, dict):
                self._part(at, value, f"{at}/part")
            elif key == "call_id":
                self._tool_id(at, event, key)
            else:
                self._text(at, event, key, f"{at}/event")

    def response(self, at: int, response: dict[str, Json]) -> None:
        """Take a response object."""
        for key, value in response.items():
            if key in _RESPONSE_PLAIN:
                continue
            if key in _ECHOES:
                # The provider writes {} for metadata that was not sent, so that even null says something there.
                if value is not None or key == "metadata":
                    self.out.append(Slot(at, response, key, SlotKind.ECHO, echo_of=key))
            elif key in ("created_at", "completed_at"):
                if value:
                    self.out.append(Slot(at, response, key, SlotKind.CREATED))
            elif key == "id":
                self._id(at, response, key)
            else:
                self._opaque(at, response, key)
        for position, item in enumerate(objects(response.get("output"))):
            self._item(at, item, f"{at}/output/{position}")

    def _item(self, at: int, item: dict[str, Json], channel: str) -> None:
        for key, value in item.items():
            if key in _ITEM_PLAIN or not value:
                continue
            if key == "id":
                self._id(at, item, key)
            elif key == "call_id":
                self._tool_id(at, item, key)
            elif key in ("summary", "content") and isinstance(value, list):
                for position, part in enumerate(objects(value)):
                    self._part(at, part, f"{channel}/{key}/{position}")
            elif key in _VALUES and isinstance(value, dict | list):
                self.out.append(Slot(at, item, key, SlotKind.VALUE))
            elif key == "caller" and isinstance(value, dict):
                self._tool_id(at, value, "caller_id")  # a program's call of a function names the program's own call
            else:
                self._text(at, item, key, channel)

    def _part(self, at: int, part: dict[str, Json], channel: str) -> None:
        for key in part:
            if key != "type":
                self._text(at, part, key, channel)

    def _text(self, at: int, container: dict[str, Json], key: str, channel: str) -> None:
        """Mark a text as a channel of its own; a member that is no known text is opaque."""
        value = container[key]
        if key in _TEXTS and isinstance(value, str):
            if value:
                self.out.append(Slot(at, container, key, _TEXTS[key], f"{channel}/{key}"))
        else:
            self._opaque(at, container, key)

    def _opaque(self, at: int, container: dict[str, Json], key: str) -> None:
        value = container[key]
        if value and holds_text(value):
            self.out.append(Slot(at, container, key, SlotKind.OPAQUE))

    def _id(self, at: int, container: dict[str, Json], key: str) -> None:
        value = container.get(key)
        if isinstance(value, str) and value:
            kind = SlotKind.OPAQUE if value in self.bound else SlotKind.RESPONSE_ID
            self.out.append(Slot(at, container, key, kind))

    def _tool_id(self, at: int, container: dict[str, Json], key: str) -> None:
        if isinstance(container.get(key), str) and container[key]:
            self.out.append(Slot(at, container, key, SlotKind.TOOL_ID))


def _delta_channel(event: dict[str, Json], kind: str) -> str:
    """Name the text of which a delta is a piece: by the item's position, as some backends change its id in between."""
    item = event.get("output_index", event.get("item_id"))
    return f"{item}/{event.get('content_index')}/{event.get('summary_index')}/{event.get('command_index')}/{kind}"
