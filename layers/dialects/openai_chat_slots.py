"""The places of a recorded chat completion that a replay may have to change, or must not touch.

Text runs through the chunks of a choice, so its channel is named after the choice and the member, not after the chunk.
Members that this module has never heard of are opaque: they go out as they came.

Reasoning that a provider has signed (OpenRouter passes on Anthropic's signatures in ``reasoning_details``) is signed
text.  The signature comes in a later chunk than the text, hence the second look at the details of a signed choice.

A stream has hundreds of chunks and this runs while a client waits, so every object is walked once, member by member.
"""

from dataclasses import dataclass, field

from promptweir.layers.contract import Json
from promptweir.layers.dialects.openai_common import holds_text, objects
from promptweir.layers.frames import Frame, Slot, SlotKind

# Words of the protocol and names of the provider's own choosing: never a place for anything of the user's.
_TOP_PLAIN = frozenset({"object", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"})
_CHOICE_PLAIN = frozenset({"index", "finish_reason", "native_finish_reason"})
_CALL_PLAIN = frozenset({"type", "index"})
_DETAIL_PLAIN = frozenset({"type", "format", "index"})
_MESSAGE_TEXTS = frozenset({"content", "refusal", "reasoning", "reasoning_content"})
_DETAIL_TEXTS = frozenset({"text", "summary"})
# The member of a call's body that holds its arguments.
_CALL_BODIES = {"function": "arguments", "custom": "input"}


def find_slots(frames: list[Frame]) -> list[Slot]:
    """Return the slots of all *frames* in the order in which they are read."""
    finder = _Finder()
    for at, frame in enumerate(frames):
        if isinstance(frame.doc, dict):
            finder.chunk(at, frame.doc)
    return finder.sealed()


@dataclass(slots=True)
class _Finder:
    out: list[Slot] = field(default_factory=list)
    details: list[tuple[int, str]] = field(default_factory=list)
    """Where in ``out`` a text of reasoning details stands, and its choice."""
    signed: set[str] = field(default_factory=set)
    """The choices with a signature."""

    def sealed(self) -> list[Slot]:
        """Return what was found, the reasoning of signed choices as signed text."""
        for position, choice in self.details:
            if choice in self.signed:
                text = self.out[position]
                self.out[position] = Slot(text.frame, text.container, text.key, SlotKind.SIGNED_TEXT, text.channel)
        return self.out

    def chunk(self, at: int, doc: dict[str, Json]) -> None:
        for key, value in doc.items():
            if key in _TOP_PLAIN:
                continue
            if key == "id":
                self._id(at, doc, SlotKind.RESPONSE_ID)
            elif key == "created":
                if value:
                    self.out.append(Slot(at, doc, key, SlotKind.CREATED))
            elif key == "metadata":
                self.out.append(Slot(at, doc, key, SlotKind.ECHO, echo_of=key))
            else:
                self._opaque(at, doc, key, value)
        for choice in objects(doc.get("choices")):
            self._choice(at, choice)

    def _choice(self, at: int, choice: dict[str, Json]) -> None:
        index = str(choice.get("index", 0))
        for key, value in choice.items():
            if key in _CHOICE_PLAIN:
                continue
            if key == "delta" and isinstance(value, dict):
                self._message(at, value, index, index)
            elif key == "message" and isinstance(value, dict):
                self._message(at, value, index, f"{at}/{index}")
            else:
                self._opaque(at, choice, key, value)

    def _message(self, at: int, message: dict[str, Json], index: str, channel: str) -> None:
        for key, value in message.items():
            if not value or key == "role":
                continue
            if key in _MESSAGE_TEXTS and isinstance(value, str):
                self.out.append(Slot(at, message, key, SlotKind.TEXT, f"{channel}/{key}"))
            elif key in _MESSAGE_TEXTS and isinstance(value, list):
                self._parts(at, value, f"{channel}/{key}")
            elif key == "tool_calls" and isinstance(value, list):
                for position, call in enumerate(objects(value)):
                    self._call(at, call, f"{channel}/call/{call.get('index', position)}")
            elif key == "function_call" and isinstance(value, dict):
                self._body(at, value, "arguments", f"{channel}/{key}")
            elif key == "reasoning_details" and isinstance(value, list):
                for position, detail in enumerate(objects(value)):
                    self._detail(at, detail, index, f"{channel}/details/{detail.get('index', position)}")
            else:
                self._opaque(at, message, key, value)

    def _parts(self, at: int, parts: list[Json], channel: str) -> None:
        """Take content in parts (Mistral's reasoning models): thinking and text, each in pieces of their own."""
        pending = [(part, f"{channel}/{part.get('type')}") for part in reversed(objects(parts))]
        while pending:
            part, own = pending.pop()
            for key, value in part.items():
                if key == "text" and isinstance(value, str):
                    self.out.append(Slot(at, part, key, SlotKind.TEXT, own))
                elif key == "thinking" and isinstance(value, list):
                    pending.extend((inner, f"{own}/{inner.get('type')}") for inner in reversed(objects(value)))
                elif key != "type":
                    self._opaque(at, part, key, value)

    def _detail(self, at: int, detail: dict[str, Json], index: str, channel: str) -> None:
        for key, value in detail.items():
            if key in _DETAIL_PLAIN or not value:
                continue
            if key == "signature":
                self.signed.add(index)
            if key in _DETAIL_TEXTS and isinstance(value, str):
                self.details.append((len(self.out), index))
                self.out.append(Slot(at, detail, key, SlotKind.TEXT, f"{channel}/{key}"))
            else:
                self._opaque(at, detail, key, value)

    def _call(self, at: int, call: dict[str, Json], channel: str) -> None:
        for key, value in call.items():
            if key in _CALL_PLAIN:
                continue
            if key == "id":
                self._id(at, call, SlotKind.TOOL_ID)
            elif key in _CALL_BODIES and isinstance(value, dict):
                self._body(at, value, _CALL_BODIES[key], channel)
            else:
                self._opaque(at, call, key, value)

    def _body(self, at: int, body: dict[str, Json], member: str, channel: str) -> None:
        for key, value in body.items():
            if key == member and isinstance(value, str):
                if value:
                    self.out.append(Slot(at, body, key, SlotKind.ARGUMENTS, channel))
            elif key != "name":
                self._opaque(at, body, key, value)

    def _id(self, at: int, container: dict[str, Json], kind: SlotKind) -> None:
        if isinstance(container["id"], str) and container["id"]:
            self.out.append(Slot(at, container, "id", kind))

    def _opaque(self, at: int, container: dict[str, Json], key: str, value: Json) -> None:
        if value and holds_text(value):
            self.out.append(Slot(at, container, key, SlotKind.OPAQUE))
