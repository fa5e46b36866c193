"""The native call: ``POST /api/chat {"prompt": …, "model"?: …}`` is answered by ``{"layer", "message", "model"}``.

Always JSON, never a stream.  Ollama serves another protocol at the same path, with ``messages`` for ``prompt``: such a
call is none of ours.
"""

from dataclasses import dataclass

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields
from promptweir.layers.dialects.shape import as_object, as_text, read_flag, read_text
from promptweir.layers.frames import Frame, Slot, SlotKind
from promptweir.layers.wire import dumps


@dataclass(frozen=True, slots=True)
class NativeChat:
    """The codec of the native call."""

    dialect: Dialect = Dialect.NATIVE_CHAT

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the model, empty where the caller leaves the choice to us."""
        del path, query
        if "messages" in fields or read_text(fields, "prompt") is None:
            raise ValueError("a native call has a prompt and no messages")
        if read_flag(fields, "stream"):
            raise ValueError("a native call is not streamed")
        return Facts(model=read_text(fields, "model") or "", encoding=Encoding.JSON)

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer; ``ValueError`` when one of its three fields is missing."""
        if encoding is not Encoding.JSON:
            raise ValueError("a native answer is JSON")
        (frame,) = frames
        doc = as_object(frame.doc, "the answer")
        for name in ("layer", "message", "model"):
            as_text(doc.get(name), name)
        return Answer(doc=dict(doc), ending=Ending.CLEAN, reason="stop")

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return the place of the message."""
        del encoding
        return [
            Slot(frame=index, container=frame.doc, key="message", kind=SlotKind.TEXT, channel="message")
            for index, frame in enumerate(frames)
            if isinstance(frame.doc, dict) and isinstance(frame.doc.get("message"), str)
        ]

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write the answer as JSON."""
        del facts
        if encoding is not Encoding.JSON:
            raise ValueError("a native answer is JSON")
        return dumps(answer.doc)


CODEC = NativeChat()
