"""Anthropic Messages: ``POST /v1/messages``, and the same bodies on Bedrock and Vertex.

Goals
    Read the few fields that steer us, understand an answer in each encoding, and write one in each.

Plan
    The non-streaming message is the form that everything is brought to; `anthropic_events` folds streams into it and
    unfolds it again, `anthropic_slots` points at what a replay may change.  On Bedrock and Vertex the model and the
    encoding stand in the path, and bodies carry ``anthropic_version``.

What it does not do
    It does not decide what is learned: answers that are truncated, refused or paused are understood, and say so.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
from promptweir.layers.dialects import anthropic_slots
from promptweir.layers.dialects.anthropic_events import fold, unfold
from promptweir.layers.dialects.shape import (
    as_array,
    as_object,
    as_text,
    model_of,
    read_flag,
    read_number,
    read_text,
    tally,
)
from promptweir.layers.frames import Frame, Slot
from promptweir.layers.wire import aws_message, dumps, events, sse

# https://docs.anthropic.com/en/api/handling-stop-reasons
_ENDINGS = {
    "end_turn": Ending.CLEAN,
    "tool_use": Ending.CLEAN,
    "stop_sequence": Ending.CLEAN,
    "max_tokens": Ending.TRUNCATED,
    "model_context_window_exceeded": Ending.TRUNCATED,
    "refusal": Ending.REFUSED,
    "pause_turn": Ending.PAUSED,
}

_BEDROCK = re.compile(r"/model/(?P<model>[^/]+)/(?P<method>invoke|invoke-with-response-stream)$")
_VERTEX = re.compile(r"/publishers/anthropic/models/(?P<model>[^/:]+):(?P<method>rawPredict|streamRawPredict)$")

_ENCODINGS = {
    "invoke": Encoding.JSON,
    "invoke-with-response-stream": Encoding.AWS_EVENT_STREAM,
    "rawPredict": Encoding.JSON,
    "streamRawPredict": Encoding.SSE,
}


@dataclass(frozen=True, slots=True)
class AnthropicMessages:
    """The codec of Anthropic Messages."""

    dialect: Dialect = Dialect.ANTHROPIC_MESSAGES

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read model, encoding and temperature; on Bedrock and Vertex the first two from *path*."""
        del query  # ?beta=true repeats a header
        temperature = read_number(fields, "temperature")
        stream = read_flag(fields, "stream")
        hosted = _BEDROCK.search(path) or _VERTEX.search(unquote(path))
        if hosted is None:
            encoding = Encoding.SSE if stream else Encoding.JSON
            return Facts(model=model_of(fields), encoding=encoding, temperature=temperature)
        if read_text(fields, "anthropic_version") is None:
            # Bedrock's invoke carries other vendors' bodies as well; this field tells Anthropic's apart.
            raise ValueError("anthropic_version is missing")
        encoding = _ENCODINGS[hosted["method"]]
        if stream is not None and stream is not (encoding is not Encoding.JSON):
            raise ValueError("stream contradicts the method in the path")
        return Facts(model=unquote(hosted["model"]), encoding=encoding, temperature=temperature)

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the message held by *frames*; ``ValueError`` when it is not whole."""
        message = dict(_message_of(frames, encoding))
        if message.get("type") != "message":
            raise ValueError("the answer is not a message")
        # Providers that imitate the protocol leave these out; clients of a stream rely on them.
        message.setdefault("stop_sequence", None)
        if message.get("usage") is None:
            message["usage"] = {"input_tokens": 0, "output_tokens": 0}
        reason = as_text(message.get("stop_reason"), "stop_reason")
        blocks = [as_object(block, "content block") for block in as_array(message.get("content"), "content")]
        usage = as_object(message["usage"], "usage")
        return Answer(
            doc=message,
            ending=_ENDINGS.get(reason, Ending.FAILED),
            reason=reason,
            tool_calls=tuple(_tool_call(block) for block in blocks if block.get("type") == "tool_use"),
            provider_tools=message.get("container") is not None or any(_is_provider_tool(block) for block in blocks),
            usage=_usage(usage),
        )

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place that a replay may have to change or must not touch."""
        return anthropic_slots.slots(frames, encoding)

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write the message as JSON, or as the events of a stream."""
        del facts
        match encoding:
            case Encoding.JSON:
                return dumps(answer.doc)
            case Encoding.SSE:
                return b"".join(sse(as_text(event["type"], "type"), event) for event in unfold(answer.doc))
            case Encoding.AWS_EVENT_STREAM:
                return b"".join(aws_message(event) for event in unfold(answer.doc))
            case Encoding.JSON_ARRAY:
                raise ValueError("Anthropic Messages has no JSON array encoding")


CODEC = AnthropicMessages()


def _message_of(frames: list[Frame], encoding: Encoding) -> dict[str, Json]:
    match encoding:
        case Encoding.SSE | Encoding.AWS_EVENT_STREAM:
            return fold(doc for _, doc in events(frames, encoding))
        case Encoding.JSON:
            (frame,) = frames
            return as_object(frame.doc, "the answer")
        case Encoding.JSON_ARRAY:
            raise ValueError("Anthropic Messages has no JSON array encoding")


def _tool_call(block: dict[str, Json]) -> ToolCall:
    return ToolCall(
        id=as_text(block.get("id"), "id of a tool call"),
        name=as_text(block.get("name"), "name of a tool call"),
        arguments=dumps(block.get("input")).decode(),
    )


def _is_provider_tool(block: dict[str, Json]) -> bool:
    match block:
        case {"type": "server_tool_use" | "mcp_tool_use" | "container_upload"}:
            return True
        case {"type": str(kind)} if kind.endswith("_tool_result"):
            return True
        case {"type": "tool_use", "caller": {"type": str(caller)}}:
            # Called by the provider's code execution, not by the model itself.
            return caller != "direct"
        case _:
            return False


def _usage(usage: dict[str, Json]) -> Usage:
    cached = tally(usage, "cache_read_input_tokens")
    return Usage(
        input_tokens=tally(usage, "input_tokens") + tally(usage, "cache_creation_input_tokens") + cached,
        output_tokens=tally(usage, "output_tokens"),
        cached_tokens=cached,
    )
