"""Write a Plan in a provider's wire format: Anthropic Messages, OpenAI chat and Responses, Gemini; whole or as events.

Goal: the event sequences of the real services, in their order, with fresh random ids in every call.  A reply is a list
of chunks, one per event, so that the server can stream them one at a time and break off between any two.

What this module does not do: it decides nothing about the text (standin_answers) and touches no socket.
"""

import base64
import struct
import time
import zlib
from dataclasses import dataclass
from enum import StrEnum

from promptweir.cli import standin_chat, standin_gemini, standin_messages, standin_responses
from promptweir.cli.standin_answers import Plan
from promptweir.cli.standin_asks import Ask, Json, as_map
from promptweir.cli.standin_parts import compact, fresh


class Api(StrEnum):
    """The four answer formats."""

    MESSAGES = "messages"
    CHAT = "chat"
    RESPONSES = "responses"
    GEMINI = "gemini"


class Layout(StrEnum):
    """How the answer is laid out."""

    JSON = "json"
    SSE = "sse"
    ARRAY = "array"
    """Gemini's stream without ``alt=sse``."""
    AWS = "aws"
    """Bedrock's event stream around Anthropic's events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer ready to be sent; more than one chunk means that it is a stream."""

    content_type: str
    chunks: tuple[bytes, ...]
    doc: Json = None
    """The answer as one JSON document, for a service that has to remember it."""


def write(plan: Plan, ask: Ask, api: Api, layout: Layout, request_bytes: int, *, thinking: bool = False) -> Reply:
    """Write *plan* for *api*; with *thinking* a signed or encrypted block comes first, as reasoning models send it."""
    tokens = (max(1, request_bytes // 4), max(1, len(plan.text) // 4))
    match api:
        case Api.MESSAGES:
            doc = standin_messages.document(plan, ask, tokens, thinking=thinking)
            events = list(standin_messages.events(doc))
        case Api.CHAT:
            doc = standin_chat.document(plan, ask, tokens)
            usage = as_map(ask.doc.get("stream_options")).get("include_usage") is True
            events = list(standin_chat.events(doc, usage=usage))
        case Api.RESPONSES:
            doc = standin_responses.document(plan, ask, tokens, thinking=thinking)
            events = list(standin_responses.events(doc))
        case Api.GEMINI:
            doc = standin_gemini.document(plan, ask, tokens, thinking=thinking)
            events = list(standin_gemini.events(doc))
    return _lay_out(doc, events, api, layout)


def error_event(api: Api) -> bytes:
    """Return the event by which *api* reports an overload in the middle of a stream."""
    if api is Api.MESSAGES:
        return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, named=True)
    if api is Api.RESPONSES:
        error: Json = {"code": "server_is_overloaded", "message": "Overloaded"}
        return _event({"type": "response.failed", "response": {"status": "failed", "error": error}}, named=True)
    return _event({"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}}, named=False)


def _lay_out(doc: dict[str, Json], events: list[dict[str, Json]], api: Api, layout: Layout) -> Reply:
    match layout:
        case Layout.JSON:
            return Reply(content_type="application/json", chunks=(compact(doc),), doc=doc)
        case Layout.ARRAY:
            body = [b"[" + compact(events[0])] + [b",\r\n" + compact(event) for event in events[1:]] + [b"]"]
            return Reply(content_type="application/json; charset=UTF-8", chunks=tuple(body), doc=doc)
        case Layout.AWS:
            frames = tuple(_aws_frame(event) for event in events)
            return Reply(content_type="application/vnd.amazon.eventstream", chunks=frames, doc=doc)
        case Layout.SSE:
            named = api in (Api.MESSAGES, Api.RESPONSES)
            end = b"\r\n\r\n" if api is Api.GEMINI else b"\n\n"
            chunks = [_event(event, named=named, end=end) for event in events]
            if api is Api.CHAT:
                chunks.append(b"data: [DONE]\n\n")
            return Reply(content_type="text/event-stream; charset=utf-8", chunks=tuple(chunks), doc=doc)


def _event(event: dict[str, Json], *, named: bool, end: bytes = b"\n\n") -> bytes:
    head = f"event: {event['type']}\n".encode() if named else b""
    return head + b"data: " + compact(event) + end


def _aws_frame(event: dict[str, Json]) -> bytes:
    # vnd.amazon.eventstream: lengths, CRC of these, headers (type 7: string), payload, CRC of all before
    payload = compact({"bytes": base64.b64encode(compact(event)).decode()})
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":event-type", b"chunk"),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


def fresh_headers(api: Api) -> list[tuple[str, str]]:
    """Return the headers that differ in every answer of the real service."""
    left = str(1000 + int(time.time()) % 1000)
    if api is Api.MESSAGES:
        return [("request-id", fresh("req_01", 22)), ("anthropic-ratelimit-requests-remaining", left)]
    if api is Api.GEMINI:
        return [("server", "scaffolding on HTTPServer2")]
    return [("x-request-id", fresh("req_", 32)), ("x-ratelimit-remaining-requests", left)]
