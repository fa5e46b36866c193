"""Gemini: generateContent, streamGenerateContent (as SSE or as a JSON array) and countTokens, on AI Studio and Vertex.

Goals
    Read the few fields that steer us, understand an answer in each encoding, and write one in each.

Plan
    Model and method stand in the path, ``alt=sse`` in the query.  `gemini_chunks` folds a stream into the document of a
    JSON answer; a stream of ours is that document as its only chunk, which is a legal one.  Code Assist
    (``/v1internal:generateContent``) wraps request and answer once more: such calls pass.

What it does not do
    It does not speak for calls that ask for pictures or sound.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
from promptweir.layers.dialects import gemini_slots
from promptweir.layers.dialects.gemini_chunks import candidates_of, fold, parts_of
from promptweir.layers.dialects.shape import (
    as_array,
    as_count,
    as_object,
    as_text,
    read_fields,
    read_number,
    read_text,
    read_texts,
    tally,
)
from promptweir.layers.frames import Frame, Slot
from promptweir.layers.wire import dumps, events, sse

_PATH = re.compile(
    r"/(?:models|tunedModels|endpoints)/(?P<model>[^/:]+):(?P<method>generateContent|streamGenerateContent|countTokens)$"
)
_WRAPPED_PATH = re.compile(r"/v1internal:(?P<method>generateContent|streamGenerateContent|countTokens)$")

_RESHAPING = frozenset(("fields", "$fields", "callback", "$callback"))
"""Query parameters by which Google's front end sends another body than the one that we know."""

_ENCODINGS = {
    ("generateContent", "json"): Encoding.JSON,
    ("streamGenerateContent", "json"): Encoding.JSON_ARRAY,
    ("streamGenerateContent", "sse"): Encoding.SSE,
}

# https://ai.google.dev/api/generate-content#FinishReason
_ENDINGS = {
    "STOP": Ending.CLEAN,
    "MAX_TOKENS": Ending.TRUNCATED,
    "SAFETY": Ending.REFUSED,
    "RECITATION": Ending.REFUSED,
    "LANGUAGE": Ending.REFUSED,
    "BLOCKLIST": Ending.REFUSED,
    "PROHIBITED_CONTENT": Ending.REFUSED,
    "SPII": Ending.REFUSED,
    "IMAGE_SAFETY": Ending.REFUSED,
    "IMAGE_PROHIBITED_CONTENT": Ending.REFUSED,
    "IMAGE_RECITATION": Ending.REFUSED,
}
_UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"

_PROVIDER_PARTS = frozenset(("executableCode", "codeExecutionResult", "toolCall", "toolResponse"))
_PROVIDER_REPORTS = ("groundingMetadata", "urlContextMetadata")


@dataclass(frozen=True, slots=True)
class GeminiGenerate:
    """The codec of generateContent and streamGenerateContent."""

    dialect: Dialect = Dialect.GEMINI_GENERATE

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read model and encoding from *path* and *query*, the temperature from ``generationConfig``."""
        config = _generation_config(fields)
        model, method, refuse = _addressed(path, fields)
        if method == "countTokens":
            raise ValueError("countTokens generates nothing")
        alt, reshaped = _asked(query)
        encoding = _ENCODINGS.get((method, alt))
        if encoding is None or reshaped:
            refuse = refuse or "alt"
        if any(modality.upper() != "TEXT" for modality in _modalities(config)):
            refuse = refuse or "media-output"
        return Facts(
            model=model,
            encoding=encoding or Encoding.JSON,
            temperature=read_number(config, "temperature"),
            refuse=refuse,
        )

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer held by *frames*; ``ValueError`` when a candidate has not finished."""
        doc = fold(_chunks(frames, encoding))
        candidates = candidates_of(doc)
        ending, reason = _ending(doc, candidates)
        parts = [part for candidate in candidates for part in parts_of(candidate)]
        return Answer(
            doc=doc,
            ending=ending,
            reason=reason,
            tool_calls=tuple(_tool_call(part["functionCall"]) for part in parts if "functionCall" in part),
            provider_tools=any(not _PROVIDER_PARTS.isdisjoint(part) for part in parts)
            or any(candidate.get(name) for candidate in candidates for name in _PROVIDER_REPORTS),
            usage=_usage(as_object(doc.get("usageMetadata") or {}, "usageMetadata")),
        )

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place that a replay may have to change or must not touch."""
        return gemini_slots.slots(frames, encoding)

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write the answer as one document, or as a stream of one chunk."""
        del facts
        match encoding:
            case Encoding.JSON:
                return dumps(answer.doc)
            case Encoding.SSE:
                return sse(None, answer.doc, line_end=b"\r\n")
            case Encoding.JSON_ARRAY:
                return b"[" + dumps(answer.doc) + b"]"
            case Encoding.AWS_EVENT_STREAM:
                raise ValueError("Gemini has no AWS encoding")


@dataclass(frozen=True, slots=True)
class GeminiCountTokens:
    """The codec of countTokens: a JSON object with ``totalTokens``; counting costs no tokens."""

    dialect: Dialect = Dialect.GEMINI_COUNT_TOKENS

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the model from *path*."""
        model, method, refuse = _addressed(path, fields)
        if method != "countTokens":
            raise ValueError("the path names no countTokens")
        alt, reshaped = _asked(query)
        if alt != "json" or reshaped:
            refuse = refuse or "alt"
        return Facts(model=model, encoding=Encoding.JSON, refuse=refuse)

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the count; ``ValueError`` when there is none."""
        if encoding is not Encoding.JSON:
            raise ValueError("a token count is JSON")
        (frame,) = frames
        doc = as_object(frame.doc, "the answer")
        as_count(doc.get("totalTokens"), "totalTokens")
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


GENERATE = GeminiGenerate()
COUNT = GeminiCountTokens()


def _addressed(path: str, fields: Fields) -> tuple[str, str, str | None]:
    """Return model, method, and a reason to pass where the call is wrapped for Code Assist."""
    path = unquote(path)
    if found := _PATH.search(path):
        return found["model"], found["method"], None
    if found := _WRAPPED_PATH.search(path):
        return read_text(fields, "model") or "", found["method"], "wrapped"
    raise ValueError("the path names no model and method of Gemini")


def _asked(query: str) -> tuple[str, bool]:
    """Return the form of answer that *query* asks for, and whether it reshapes the answer beyond that."""
    asked = parse_qs(query, keep_blank_values=True)
    return (asked.get("alt") or asked.get("$alt") or ["json"])[-1], not _RESHAPING.isdisjoint(asked)


def _generation_config(fields: Fields) -> Fields:
    # Google's JSON takes either spelling of a field.
    return read_fields(fields, "generationConfig") or read_fields(fields, "generation_config") or {}


def _modalities(config: Fields) -> list[str]:
    return read_texts(config, "responseModalities") + read_texts(config, "response_modalities")


def _chunks(frames: list[Frame], encoding: Encoding) -> list[Json]:
    match encoding:
        case Encoding.SSE:
            return [doc for _, doc in events(frames, encoding)]
        case Encoding.JSON_ARRAY:
            (frame,) = frames
            return as_array(frame.doc, "the answer")
        case Encoding.JSON:
            (frame,) = frames
            return [frame.doc]
        case Encoding.AWS_EVENT_STREAM:
            raise ValueError("Gemini has no AWS encoding")


def _ending(doc: dict[str, Json], candidates: list[dict[str, Json]]) -> tuple[Ending, str]:
    """Return how the answer ended: as its first candidate that did not end cleanly, or as all of them."""
    if not candidates:
        blocked = as_object(doc.get("promptFeedback") or {}, "promptFeedback").get("blockReason")
        return Ending.REFUSED, as_text(blocked, "blockReason of an answer without candidates")
    endings = [_candidate_ending(candidate) for candidate in candidates]
    return next((one for one in endings if one[0] is not Ending.CLEAN), endings[0])


def _candidate_ending(candidate: dict[str, Json]) -> tuple[Ending, str]:
    reason = as_text(candidate.get("finishReason"), "finishReason")
    if reason == _UNSPECIFIED:
        raise ValueError("a candidate has not finished")
    ending = _ENDINGS.get(reason, Ending.FAILED)
    if ending is Ending.CLEAN and all(part.get("thought") or part.get("text") == "" for part in parts_of(candidate)):
        # Seen in the wild: STOP without a word.  Clients take it for a failure and ask again.
        return Ending.FAILED, reason
    return ending, reason


def _tool_call(value: Json) -> ToolCall:
    call = as_object(value, "functionCall")
    return ToolCall(
        id=as_text(call.get("id") or "", "id of a call"),
        name=as_text(call.get("name"), "name of a call"),
        arguments=dumps(call.get("args") or {}).decode(),
    )


def _usage(usage: dict[str, Json]) -> Usage:
    return Usage(
        input_tokens=tally(usage, "promptTokenCount") + tally(usage, "toolUsePromptTokenCount"),
        output_tokens=tally(usage, "candidatesTokenCount") + tally(usage, "thoughtsTokenCount"),
        cached_tokens=tally(usage, "cachedContentTokenCount"),
    )
