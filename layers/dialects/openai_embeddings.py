"""OpenAI embeddings: one JSON document in, one JSON document out.

The vectors are numbers or base64; either way they are the provider's and no replay looks into them.

What it does not do: embeddings are never streamed, so any other encoding is refused.
"""

from dataclasses import dataclass

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields, Usage
from promptweir.layers.dialects.openai_common import (
    as_array,
    as_object,
    count,
    model_of,
    opaque_rest,
    whole_document,
)
from promptweir.layers.frames import Frame, Slot, SlotKind
from promptweir.layers.wire import dumps

_KNOWN = frozenset({"id", "created", "object", "model", "usage"})


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddings:
    """The codec of embeddings."""

    @property
    def dialect(self) -> Dialect:
        """Name the format."""
        return Dialect.OPENAI_EMBEDDINGS

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the steering fields of a request; wrong types raise ``ValueError``."""
        return Facts(model=model_of(path, fields), encoding=Encoding.JSON)

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer held by *frames*; raise ``ValueError`` when it is not whole."""
        _json_only(encoding)
        doc = whole_document(frames)
        for item in as_array(doc.get("data"), "data"):
            if not isinstance(as_object(item, "an entry of data").get("embedding"), list | str):
                raise ValueError("an entry of data without an embedding")
        usage = Usage(input_tokens=count(doc, "usage", "prompt_tokens"))
        # Embeddings have no word for their ending: a whole document is a clean one.
        return Answer(doc=doc, ending=Ending.CLEAN, reason="", usage=usage)

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place that a replay may have to change or must not touch."""
        out: list[Slot] = []
        for at, frame in enumerate(frames):
            doc = frame.doc
            if not isinstance(doc, dict):
                continue
            # OpenAI sends neither; Mistral, vLLM and others do.
            if isinstance(doc.get("id"), str) and doc["id"]:
                out.append(Slot(at, doc, "id", SlotKind.RESPONSE_ID))
            if doc.get("created"):
                out.append(Slot(at, doc, "created", SlotKind.CREATED))
            opaque_rest(out, at, doc, _KNOWN)
        return out

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write *answer* as one document."""
        _json_only(encoding)
        return dumps(answer.doc)


CODEC = OpenAIEmbeddings()


def _json_only(encoding: Encoding) -> None:
    if encoding is not Encoding.JSON:
        raise ValueError(f"embeddings are not sent as {encoding}")
