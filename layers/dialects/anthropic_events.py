"""Anthropic's stream and Anthropic's message: fold the events into the message, unfold a message into events.

Goals
    Folding what was unfolded gives the same message.  Folding refuses (``ValueError``) a stream that is not whole:
    no ``message_start``, a block left open, no stop reason, no ``message_stop``, an ``error`` event, or a delta of a
    kind that it does not know, since the message would then lack something.

Plan
    The order is the one of https://docs.anthropic.com/en/docs/build-with-claude/streaming.  The rules for merging are
    those of the official SDKs: a signature replaces, usage on ``message_delta`` is cumulative and overrides.  Events
    and blocks of unknown kinds are tolerated; blocks are kept as they came.

What it does not do
    It judges no ending and copies deeply nothing that it does not change: treat a folded message as read-only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from promptweir.layers.contract import Json
from promptweir.layers.dialects.shape import as_array, as_count, as_object, as_text
from promptweir.layers.wire import dumps, loads

LATE_FIELDS = ("stop_reason", "stop_sequence", "stop_details", "container")
"""Fields of a message that its stream tells at the end, in the ``delta`` of ``message_delta``."""

_LATE_REPORTS = ("context_management",)
"""Those that stand beside the ``delta``."""

_CUMULATIVE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "iterations",
    "fallback_credit",
)
"""Fields of usage that ``message_delta`` repeats."""

_GROWING = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Deltas that append a piece, and the field that holds it."""


@dataclass(slots=True)
class _Block:
    """A content block that is still open."""

    doc: dict[str, Json]
    pieces: dict[str, list[str]] = field(default_factory=dict)
    citations: list[Json] = field(default_factory=list)

    def grow(self, delta: dict[str, Json]) -> None:
        kind = delta.get("type")
        match kind:
            case "text_delta" | "thinking_delta" | "input_json_delta":
                name = _GROWING[kind]
                self.pieces.setdefault(name, []).append(as_text(delta.get(name), name))
            case "signature_delta":
                self.doc["signature"] = as_text(delta.get("signature"), "signature")
            case "citations_delta":
                self.citations.append(delta.get("citation"))
            case "compaction_delta":
                self.doc.update((name, value) for name, value in delta.items() if name != "type")
            case _:
                raise ValueError("a content block grows in an unknown way")

    def close(self) -> None:
        for name in ("text", "thinking"):
            if name in self.pieces:
                self.doc[name] = as_text(self.doc.get(name, ""), name) + "".join(self.pieces[name])
        if partial_json := "".join(self.pieces.get("partial_json", ())):
            self.doc["input"] = loads(partial_json.encode())
        if self.citations:
            self.doc["citations"] = [*as_array(self.doc.get("citations") or [], "citations"), *self.citations]


@dataclass(slots=True)
class _Folding:
    """A stream on its way to being a message."""

    message: dict[str, Json] | None = None
    content: list[Json] = field(default_factory=list)
    open: dict[int, _Block] = field(default_factory=dict)
    stopped: bool = False

    def feed(self, event: dict[str, Json]) -> None:
        kind = as_text(event.get("type"), "type of an event")
        match kind:
            case "error":
                raise ValueError("the stream reports an error")
            case "message_start":
                self._start(event)
            case "content_block_start" | "content_block_delta" | "content_block_stop" | "message_delta":
                self._progress(kind, event)
            case "message_stop":
                self._expect(not self.open, "a content block was left open")
                self.stopped = True
            case _:  # ping, and what is yet to be invented
                pass

    def result(self) -> dict[str, Json]:
        if self.message is None or not self.stopped:
            raise ValueError("the stream has no message_stop")
        return {**self.message, "content": self.content}

    def _start(self, event: dict[str, Json]) -> None:
        if self.message is not None:
            raise ValueError("the stream starts twice")
        message = dict(as_object(event.get("message"), "message"))
        self.content = list(as_array(message.get("content") or [], "content"))
        self.message = message

    def _progress(self, kind: str, event: dict[str, Json]) -> None:
        self._expect(not self.stopped, "the stream goes on after message_stop")
        if kind == "message_delta":
            self._amend(event)
            return
        index = as_count(event.get("index"), "index")
        if kind == "content_block_start":
            self._expect(index == len(self.content), "a content block has an unexpected index")
            self._begin(index, dict(as_object(event.get("content_block"), "content_block")))
            return
        self._expect(index in self.open, "an event belongs to no open content block")
        if kind == "content_block_delta":
            self.open[index].grow(as_object(event.get("delta"), "delta"))
        else:
            self.open.pop(index).close()

    def _begin(self, index: int, block: dict[str, Json]) -> None:
        self.open[index] = _Block(block)
        self.content.append(block)
        if block.get("type") == "fallback" and self.message is not None:
            # A fallback block names the model that really answered; the message of a JSON answer bears its name.
            served_by = as_object(block.get("to"), "to of a fallback block")
            self.message["model"] = as_text(served_by.get("model"), "model of a fallback block")

    def _amend(self, event: dict[str, Json]) -> None:
        message = self.message
        if message is None:
            raise ValueError("the stream has no message_start")
        reports = {name: value for name, value in event.items() if name not in ("type", "delta", "usage")}
        _overlay(message, as_object(event.get("delta"), "delta"))
        _overlay(message, reports)
        usage = dict(as_object(message.get("usage") or {}, "usage"))
        _overlay(usage, as_object(event.get("usage") or {}, "usage"))
        message["usage"] = usage

    def _expect(self, holds: bool, complaint: str) -> None:
        if self.message is None:
            raise ValueError("the stream has no message_start")
        if not holds:
            raise ValueError(complaint)


def fold(events: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """Return the message that *events* tell; ``ValueError`` when they do not tell all of it."""
    folding = _Folding()
    for event in events:
        folding.feed(event)
    return folding.result()


def unfold(message: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Return the events of a stream that tells *message*, in the provider's order."""
    usage = as_object(message.get("usage") or {}, "usage")
    late: dict[str, Json] = {name: message[name] for name in LATE_FIELDS if name in message}
    reports: dict[str, Json] = {name: message[name] for name in _LATE_REPORTS if name in message}
    early: dict[str, Json] = dict.fromkeys((*late, *reports))
    # The provider has made a token or so when it sends message_start; the true count comes at the end.
    at_start: dict[str, Json] = {**usage, "output_tokens": min(1, as_count(usage.get("output_tokens", 0), "usage"))}
    yield {"type": "message_start", "message": {**message, **early, "content": [], "usage": at_start}}
    for index, block in enumerate(as_array(message.get("content"), "content")):
        yield from _unfold_block(index, as_object(block, "content block"))
    in_total: dict[str, Json] = {name: usage[name] for name in _CUMULATIVE if name in usage}
    yield {"type": "message_delta", "delta": late, **reports, "usage": in_total}
    yield {"type": "message_stop"}


def _overlay(target: dict[str, Json], update: dict[str, Json]) -> None:
    """Set what *update* says; a null says nothing where there is a value already."""
    target.update((name, value) for name, value in update.items() if value is not None or name not in target)


def _unfold_block(index: int, block: dict[str, Json]) -> Iterator[dict[str, Json]]:
    start, deltas = _take_apart(block)
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _take_apart(block: dict[str, Json]) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Return the block as it starts, and the deltas that complete it."""
    match block:
        case {"type": "text", "text": str(text)}:
            citations = block.get("citations")
            if not isinstance(citations, list) or not citations:
                return {**block, "text": ""}, _text_deltas("text_delta", text)
            cited: list[dict[str, Json]] = [{"type": "citations_delta", "citation": one} for one in citations]
            return {**block, "text": "", "citations": []}, _text_deltas("text_delta", text) + cited
        case {"type": "thinking", "thinking": str(text)}:
            deltas = _text_deltas("thinking_delta", text)
            signature = block.get("signature")
            if not isinstance(signature, str) or not signature:
                return {**block, "thinking": ""}, deltas
            return {**block, "thinking": "", "signature": ""}, [*deltas, _piece("signature_delta", signature)]
        case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use", "input": given}:
            return {**block, "input": {}}, [_piece("input_json_delta", dumps(given).decode())]
        case _:
            return block, []


def _text_deltas(kind: str, text: str) -> list[dict[str, Json]]:
    return [_piece(kind, text)] if text else []


def _piece(kind: str, text: str) -> dict[str, Json]:
    name = "signature" if kind == "signature_delta" else _GROWING[kind]
    return {"type": kind, name: text}
