"""Anthropic's ``POST /v1/messages/count_tokens``: a JSON object with ``input_tokens``, never a stream.

Counting costs no tokens, so the answer's usage stays empty.
"""

from dataclasses import dataclass

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields
from promptweir.layers.dialects.shape import as_count, as_object, model_of
from promptweir.layers.frames import Frame, Slot
from promptweir.layers.wire import dumps


@dataclass(frozen=True, slots=True)
class AnthropicCountTokens:
    """The codec of Anthropic's token counter."""

    dialect: Dialect = Dialect.ANTHROPIC_COUNT_TOKENS

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the model, on Vertex too: there the path only says ``count-tokens:rawPredict``."""
        del path, query
        return Facts(model=model_of(fields), encoding=Encoding.JSON)

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the count; ``ValueError`` when there is none."""
        if encoding is not Encoding.JSON:
            raise ValueError("a token count is JSON")
        (frame,) = frames
        doc = as_object(frame.doc, "the answer")
        as_count(doc.get("input_tokens"), "input_tokens")
        return Answer(doc=dict(doc), ending=Ending.CLEAN, reason="counted")

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return nothing: a count holds no names and no ids."""
        del frames, encoding
        return []

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write the count as JSON."""
        del facts
        if encoding is not Encoding.JSON:
            raise ValueError("a token count is JSON")
        return dumps(answer.doc)


CODEC = AnthropicCountTokens()
