"""Chunks of a chat completion, merged into the document that a non-streaming call would have brought.

Goals: linear in the size of the stream, no chunk altered, nothing lost that a non-streaming client would have seen.

Plan: members that arrive in pieces are gathered in lists and joined once at the end (``_Growing``); a choice is a
growing message plus its tool calls by index.  Of the members of the chunk itself, ``id``, ``created`` and ``model``
are taken from the first chunk that fills them (Azure sends a chunk with empty ones before the first), the rest from the
last that does.

What it does not do: it accepts no stream that a client could take for unfinished.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from promptweir.layers.contract import Json
from promptweir.layers.dialects.openai_common import as_array, as_object
from promptweir.layers.frames import Frame
from promptweir.layers.wire import DONE

_FIRST_WINS = ("id", "created", "model")
# ``obfuscation`` is random padding against traffic analysis, of no meaning.
_NOT_KEPT = frozenset({"object", "choices", "usage", "obfuscation"})
# Arrays of which every chunk brings further entries.
_GROWING_ARRAYS = frozenset({"content", "annotations", "reasoning_details", "images"})


@dataclass(slots=True)
class _Growing:
    """An object whose strings arrive in pieces."""

    values: dict[str, Json] = field(default_factory=dict)
    pieces: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, value: Json, *, extend: bool = False) -> None:
        match value:
            case None:
                self.values.setdefault(key, None)
            case str():
                self.values.setdefault(key, None)  # keeps the place among the members
                self.pieces.setdefault(key, []).append(value)
            case list() if extend:
                gathered = self.values.get(key)
                if isinstance(gathered, list):
                    gathered.extend(value)
                else:
                    self.values[key] = list(value)  # ours to extend: the chunk keeps its own
            case _:
                self.values[key] = value

    def text(self, key: str) -> str:
        return "".join(self.pieces.get(key, ()))

    def whole(self) -> dict[str, Json]:
        return self.values | {key: "".join(pieces) for key, pieces in self.pieces.items()}


@dataclass(slots=True)
class _Call:
    """One tool call: ``function`` and ``custom`` grow, all else is said once."""

    values: dict[str, Json] = field(default_factory=dict)
    bodies: dict[str, _Growing] = field(default_factory=dict)

    def add(self, entry: dict[str, Json]) -> None:
        known, sent = self.values.get("id"), entry.get("id")
        if known and sent and known != sent:
            raise ValueError("two tool calls under one index")
        for key, value in entry.items():
            if key in ("function", "custom"):
                self._grow(key, value, resent=bool(known and sent))
            elif key != "index" and (value or key not in self.values):
                self.values[key] = value

    def _grow(self, kind: str, value: Json, *, resent: bool) -> None:
        if value is None:
            return
        body = self.bodies.setdefault(kind, _Growing())
        for key, piece in as_object(value, kind).items():
            # Some providers send id and name again with every piece of the arguments.
            if not (resent and key == "name" and piece == body.text("name")):
                body.add(key, piece)

    def whole(self) -> dict[str, Json]:
        doc: dict[str, Json] = {"id": "", "type": "custom" if "custom" in self.bodies else "function"}
        doc |= self.values
        for kind, body in self.bodies.items():
            # A call without arguments may have sent no piece of them; readers of the whole expect the member.
            empty: dict[str, Json] = {"name": "", "input" if kind == "custom" else "arguments": ""}
            doc[kind] = empty | body.whole()
        return doc


@dataclass(slots=True)
class _Choice:
    message: _Growing = field(default_factory=_Growing)
    calls: dict[int, _Call] = field(default_factory=dict)
    legacy: _Growing | None = None
    """``function_call``, the way tools were called before there were ``tool_calls``."""
    logprobs: _Growing | None = None
    values: dict[str, Json] = field(default_factory=dict)

    def add(self, chunk: dict[str, Json]) -> None:
        for key, value in chunk.items():
            match key:
                case "index" | "message":
                    pass  # Perplexity repeats the message so far beside each delta
                case "delta":
                    self._add_delta(as_object(value or {}, "delta"))
                case "logprobs" if isinstance(value, dict):
                    self.logprobs = self.logprobs or _Growing()
                    for name, entries in value.items():
                        self.logprobs.add(name, entries, extend=True)
                case _:
                    # Some providers write "" for a finish_reason that is yet to come, or has been.
                    if value or key not in self.values:
                        self.values[key] = value

    def _add_delta(self, delta: dict[str, Json]) -> None:
        for key, value in delta.items():
            if key == "tool_calls" and value:
                self.message.values.setdefault(key, None)
                self._add_calls(as_array(value, "tool_calls"))
            elif key == "role":
                if value or key not in self.message.values:
                    self.message.values[key] = value
            elif key == "function_call" and isinstance(value, dict):
                self.message.values.setdefault(key, None)
                self.legacy = self.legacy or _Growing()
                for name, piece in value.items():
                    self.legacy.add(name, piece)
            else:
                self.message.add(key, value, extend=key in _GROWING_ARRAYS)

    def _add_calls(self, entries: list[Json]) -> None:
        for item in entries:
            entry = as_object(item, "tool call")
            self.calls.setdefault(_index(entry), _Call()).add(entry)

    def whole(self, index: int) -> dict[str, Json]:
        if not self.values.get("finish_reason"):
            raise ValueError("a choice without finish_reason")
        message: dict[str, Json] = {"role": "assistant", "content": None} | self.message.whole()
        if self.calls:
            message["tool_calls"] = [self.calls[position].whole() for position in sorted(self.calls)]
        if self.legacy is not None:
            message["function_call"] = self.legacy.whole()
        doc: dict[str, Json] = {"index": index, "message": message}
        if self.logprobs is not None:
            return doc | self.values | {"logprobs": self.logprobs.whole()}
        return doc | self.values


def merge(frames: list[Frame]) -> dict[str, Json]:
    """Return the ``chat.completion`` document that the chunks in *frames* add up to."""
    top: dict[str, Json] = {"id": "", "object": "chat.completion"}
    choices: dict[int, _Choice] = {}
    usage: Json = None
    for chunk in _chunks(frames):
        _merge_top(top, chunk)
        usage = chunk.get("usage") or usage
        for item in as_array(chunk.get("choices") or [], "choices"):
            choice = as_object(item, "choice")
            choices.setdefault(_index(choice, default=0), _Choice()).add(choice)
    top["choices"] = [choices[index].whole(index) for index in sorted(choices)]
    usage = usage or _usage_elsewhere(top)
    if usage:
        top["usage"] = usage
    return top


def _chunks(frames: list[Frame]) -> Iterator[dict[str, Json]]:
    """Yield the chunks of a stream that ends with ``[DONE]`` and holds nothing else after it."""
    done = False
    for frame in frames:
        if frame.event == "error":
            raise ValueError("an error event")
        if frame.doc is None:
            data = _data(frame.raw)
            if data not in (b"", DONE):
                raise ValueError("an event that is neither a chunk nor [DONE]")
            done = done or bool(data)
            continue
        chunk = as_object(frame.doc, "chunk")
        if chunk.get("error") is not None:
            raise ValueError("an error chunk")
        if done:
            raise ValueError("a chunk after [DONE]")
        yield chunk
    if not done:
        raise ValueError("no [DONE]")


def _data(raw: bytes) -> bytes:
    """Return the joined ``data:`` lines of an event; empty for comments and heartbeats."""
    return b"\n".join(line[5:].strip() for line in raw.splitlines() if line.startswith(b"data:"))


def _merge_top(top: dict[str, Json], chunk: dict[str, Json]) -> None:
    for key, value in chunk.items():
        if key in _NOT_KEPT:
            continue
        if key in _FIRST_WINS:
            if not top.get(key):
                top[key] = value
        elif value is not None or key not in top:
            top[key] = value


def _usage_elsewhere(top: dict[str, Json]) -> Json:
    """Return the usage that Groq puts under ``x_groq`` and Moonshot into the choice, where it is not asked for."""
    groq = top.get("x_groq")
    if isinstance(groq, dict) and groq.get("usage"):
        return groq["usage"]
    for choice in as_array(top["choices"], "choices"):
        if isinstance(choice, dict) and isinstance(choice.get("usage"), dict):
            return choice["usage"]
    return None


def _index(entry: dict[str, Json], *, default: int | None = None) -> int:
    index = entry.get("index", default)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError("a piece without an index")
    return index
