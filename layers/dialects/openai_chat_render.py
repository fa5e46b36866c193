"""A chat completion written as chunks, in the order in which OpenAI sends them.

For every choice: the role, what comes before the text (reasoning), the text, what comes after it, tool calls as an
opening piece and their arguments, then the chunk with ``finish_reason``.  At the end the usage, where it was asked
for, and ``[DONE]``.  The content is one chunk: pacing an answer that is at hand would only cost the reader time.

What it does not do: it makes up nothing.  Members that the document lacks are not sent.
"""

from collections.abc import Iterator

from promptweir.layers.contract import Json
from promptweir.layers.dialects.openai_common import as_array, as_object, as_text
from promptweir.layers.wire import sse

# Streams carry these in every chunk; all other members of the document go into the first one.
_EVERY_CHUNK = ("id", "created", "model", "service_tier", "system_fingerprint")
_NOT_EXTRA = frozenset({*_EVERY_CHUNK, "object", "choices", "usage"})
_FIRST_PIECES = ("role", "content", "refusal")
_AFTER_TEXT = frozenset({"annotations", "images"})
_CALLS = frozenset({"tool_calls", "function_call"})
# The member of a tool call whose text is streamed, by the kind of the call.
_STREAMED = {"function": "arguments", "custom": "input"}

_DONE = b"data: [DONE]\n\n"


def stream(doc: dict[str, Json], *, include_usage: bool) -> bytes:
    """Return *doc* as a whole SSE body."""
    base: dict[str, Json] = {key: doc[key] for key in _EVERY_CHUNK if key in doc}
    base["object"] = "chat.completion.chunk"
    usage = doc.get("usage")
    wants_usage = include_usage and usage is not None
    if wants_usage:
        base["usage"] = None
    extras: dict[str, Json] = {key: value for key, value in doc.items() if key not in _NOT_EXTRA}
    body: list[bytes] = []
    for item in as_array(doc.get("choices"), "choices"):
        for piece in _choice_pieces(as_object(item, "choice"), len(body)):
            body.append(sse(None, base | extras | {"choices": [piece]}))
            extras = {}
    if wants_usage:
        body.append(sse(None, base | {"choices": [], "usage": usage}))
    return b"".join([*body, _DONE])


def _choice_pieces(choice: dict[str, Json], position: int) -> Iterator[dict[str, Json]]:
    """Yield one choice as the entries of the chunks' ``choices``."""
    head: dict[str, Json] = {"index": choice.get("index", position)}
    tail: dict[str, Json] = {"finish_reason": None}
    logprobs = choice.get("logprobs")
    if "logprobs" in choice:
        tail["logprobs"] = None
    for delta in _deltas(as_object(choice.get("message"), "message")):
        piece = head | {"delta": delta} | tail
        # Log probabilities go with the first piece after the role, which is the text where there is any.
        if logprobs is not None and "role" not in delta and ("content" in delta or "refusal" in delta):
            piece["logprobs"] = logprobs
            logprobs = None
        yield piece
    extras = {key: value for key, value in choice.items() if key not in ("index", "message", "logprobs")}
    end = head | {"delta": {}} | tail | extras
    if logprobs is not None:
        end["logprobs"] = logprobs
    yield end


def _deltas(message: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield one message as deltas.  What is empty needs no delta of its own and goes with the role."""
    first: dict[str, Json] = {"role": message.get("role", "assistant")}
    for key, value in message.items():
        if not value:
            first[key] = value
        elif key == "content" and isinstance(value, str):
            first[key] = ""
    yield first
    filled = {key: value for key, value in message.items() if value and key != "role"}
    for key, value in filled.items():
        if key not in _FIRST_PIECES and key not in _CALLS and key not in _AFTER_TEXT:
            yield {key: value}
    for key in ("content", "refusal", *sorted(_AFTER_TEXT)):
        if key in filled:
            yield {key: filled[key]}
    if "function_call" in filled:
        yield {"function_call": filled["function_call"]}
    if "tool_calls" in filled:
        for index, item in enumerate(as_array(filled["tool_calls"], "tool_calls")):
            for piece in _call_pieces(as_object(item, "tool call"), index):
                yield {"tool_calls": [piece]}


def _call_pieces(call: dict[str, Json], index: int) -> Iterator[dict[str, Json]]:
    """Yield a tool call's opening, then its arguments."""
    opening: dict[str, Json] = {"index": index} | {key: value for key, value in call.items() if key != "index"}
    rest: dict[str, Json] = {}
    for kind, member in _STREAMED.items():
        body = call.get(kind)
        if isinstance(body, dict) and as_text(body.get(member), member):
            opening[kind] = body | {member: ""}
            rest[kind] = {member: body[member]}
    yield opening
    if rest:
        yield {"index": index} | rest
