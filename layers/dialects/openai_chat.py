"""OpenAI Chat Completions: what a request asks of us, and what a whole answer says.

The same format is spoken by Azure, Groq, DeepSeek, OpenRouter, Mistral, xAI and many more, each with members of its
own.  Plan: known members are understood; unknown ones are kept where they are, so that an answer served in the other
encoding still holds them.  Merging chunks, slots and rendering live in the three modules beside this one.

What it does not do: it never repairs an answer.  A stream without ``[DONE]``, a choice without ``finish_reason`` or two
tool calls under one index are ``ValueError``, and so a miss the next time.
"""

from dataclasses import dataclass

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
from promptweir.layers.dialects.openai_chat_merge import merge
from promptweir.layers.dialects.openai_chat_render import stream
from promptweir.layers.dialects.openai_chat_slots import find_slots
from promptweir.layers.dialects.openai_common import (
    as_array,
    as_object,
    as_text,
    count,
    model_of,
    objects,
    read,
    read_flag,
    read_number,
    read_object,
    whole_document,
)
from promptweir.layers.frames import Frame, Slot
from promptweir.layers.wire import dumps

_ENDINGS = {
    "stop": Ending.CLEAN,
    "tool_calls": Ending.CLEAN,
    "function_call": Ending.CLEAN,
    "length": Ending.TRUNCATED,
    "content_filter": Ending.REFUSED,
}
# With several choices the worst one speaks for the answer.
_SEVERITY = (Ending.CLEAN, Ending.PAUSED, Ending.TRUNCATED, Ending.REFUSED, Ending.FAILED)

# Members by which providers tell that they searched or ran code themselves:
# Perplexity and xAI send the sources, Groq's compound systems send what they executed.
_SEARCH_TRACES = ("citations", "search_results")
_EXECUTION_TRACES = ("executed_tools",)


@dataclass(frozen=True, slots=True)
class OpenAIChat:
    """The codec of Chat Completions."""

    @property
    def dialect(self) -> Dialect:
        """Name the format."""
        return Dialect.OPENAI_CHAT

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the steering fields of a request; wrong types raise ``ValueError``."""
        streamed = read_flag(fields, "stream", default=False)
        options = read_object(fields, "stream_options") or {}
        include_usage = options.get("include_usage")
        if include_usage is not None and not isinstance(include_usage, bool):
            raise ValueError("stream_options.include_usage must be true or false")
        modalities = read(fields, "modalities")
        speaks = modalities is not None and "audio" in as_array(modalities, "modalities")
        return Facts(
            model=model_of(path, fields),
            encoding=Encoding.SSE if streamed else Encoding.JSON,
            # A JSON answer always carries its usage; a stream only on demand.
            include_usage=include_usage is True if streamed else True,
            temperature=read_number(fields, "temperature"),
            # A stored completion can be fetched by its id later on, so that id has to be the provider's.
            stored=read_flag(fields, "store", default=False),
            refuse="audio" if speaks else None,
        )

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer held by *frames*; raise ``ValueError`` when it is not whole."""
        match encoding:
            case Encoding.JSON:
                return _answer_of(whole_document(frames))
            case Encoding.SSE:
                return _answer_of(merge(frames))
            case _:
                raise ValueError(f"chat completions are not sent as {encoding}")

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place that a replay may have to change or must not touch."""
        return find_slots(frames)

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write *answer* as one document or as chunks."""
        match encoding:
            case Encoding.JSON:
                return dumps(answer.doc)
            case Encoding.SSE:
                return stream(answer.doc, include_usage=facts.include_usage)
            case _:
                raise ValueError(f"chat completions are not sent as {encoding}")


CODEC = OpenAIChat()


def lacks_usage(answer: Answer) -> bool:
    """Tell whether *answer* came from a stream that was not asked for usage.

    It cannot serve a client that expects usage: SDKs and cost meters read it from every non-streamed answer.
    """
    return not isinstance(answer.doc.get("usage"), dict)


def _answer_of(doc: dict[str, Json]) -> Answer:
    choices = [as_object(choice, "choice") for choice in as_array(doc.get("choices"), "choices")]
    if not choices:
        raise ValueError("an answer without a choice")
    endings = [_ending_of(choice) for choice in choices]
    ending, reason = max(endings, key=lambda one: _SEVERITY.index(one[0]))
    messages = [as_object(choice["message"], "message") for choice in choices]
    return Answer(
        doc=doc,
        ending=ending,
        reason=reason,
        tool_calls=tuple(call for message in messages for call in _calls_of(message)),
        provider_tools=_provider_tools(doc, messages),
        usage=_usage_of(doc.get("usage")),
    )


def _ending_of(choice: dict[str, Json]) -> tuple[Ending, str]:
    message = as_object(choice.get("message"), "message")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or not reason:
        raise ValueError("a choice without finish_reason")
    ending = _ENDINGS.get(reason, Ending.FAILED)
    if ending is Ending.CLEAN and message.get("refusal"):
        return Ending.REFUSED, "refusal"
    return ending, reason


def _calls_of(message: dict[str, Json]) -> list[ToolCall]:
    calls = []
    legacy = message.get("function_call")
    if legacy is not None:
        calls.append(_call("", as_object(legacy, "function_call"), "arguments"))
    entries = message.get("tool_calls")
    for entry in as_array(entries, "tool_calls") if entries is not None else []:
        call = as_object(entry, "tool call")
        call_id = as_text(call.get("id"), "tool call id")
        if call.get("custom") is not None:
            calls.append(_call(call_id, as_object(call["custom"], "custom"), "input"))
        else:
            calls.append(_call(call_id, as_object(call.get("function"), "function"), "arguments"))
    return calls


def _call(call_id: str, body: dict[str, Json], arguments: str) -> ToolCall:
    return ToolCall(
        id=call_id, name=as_text(body.get("name"), "name"), arguments=as_text(body.get(arguments), arguments)
    )


def _provider_tools(doc: dict[str, Json], messages: list[dict[str, Json]]) -> bool:
    model = doc.get("model")
    if isinstance(model, str) and "search" in model.lower():
        return True
    if any(doc.get(name) for name in _SEARCH_TRACES):
        return True
    return any(
        any(message.get(name) for name in _EXECUTION_TRACES)
        or any(note.get("type") == "url_citation" for note in objects(message.get("annotations")))
        for message in messages
    )


def _usage_of(usage: Json) -> Usage:
    cached = (
        count(usage, "prompt_tokens_details", "cached_tokens")
        or count(usage, "prompt_cache_hit_tokens")  # DeepSeek
        or count(usage, "cached_tokens")  # Moonshot
    )
    return Usage(
        input_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        cached_tokens=cached,
    )
