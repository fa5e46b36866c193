"""OpenAI Responses: what a request asks of us, and what a whole answer says.

The format is spoken by OpenAI, Azure, the ChatGPT backend of Codex, GitHub Copilot and OpenRouter.  A stream tells
everything twice: piece by piece, and again whole in the ``done`` events and in the terminal one.  The whole tellings
are what counts here; the pieces matter to slots and to rendering, in the modules beside this one.

Two backends need care.  Codex's terminal event holds an empty ``output``: the items are in ``output_item.done``.
Copilot's names one item by another id in every event: items are told apart by ``output_index``.

What it does not do: WebSocket framing (Codex falls back to POST), ``/compact``, ``/cancel`` and other paths.
"""

from dataclasses import dataclass

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
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
    read_text,
    whole_document,
)
from promptweir.layers.dialects.openai_responses_render import stream
from promptweir.layers.dialects.openai_responses_slots import find_slots
from promptweir.layers.frames import Frame, Slot
from promptweir.layers.wire import dumps, events

_INCOMPLETE = {
    "max_output_tokens": Ending.TRUNCATED,
    "max_messages": Ending.TRUNCATED,
    "content_filter": Ending.REFUSED,
}
_TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete"}
_FATAL = frozenset({"error", "response.failed", "response.cancelled"})

# Calls that the client carries out: the member with the arguments, and the name where the item has none of its own.
_CLIENT_CALLS = {
    "function_call": ("arguments", ""),
    "custom_tool_call": ("input", ""),
    "local_shell_call": ("action", "local_shell"),
    "shell_call": ("action", "shell"),
    "apply_patch_call": ("operation", "apply_patch"),
    "computer_call": ("action", "computer"),
    "tool_search_call": ("arguments", "tool_search"),
}
# Items by which nothing is done.  Every other type, unknown ones too, counts as a tool of the provider's.
_INERT = frozenset({"message", "reasoning", "compaction"})


@dataclass(frozen=True, slots=True)
class OpenAIResponses:
    """The codec of Responses."""

    @property
    def dialect(self) -> Dialect:
        """Name the format."""
        return Dialect.OPENAI_RESPONSES

    def facts_of(self, path: str, query: str, fields: Fields) -> Facts:
        """Read the steering fields of a request; wrong types raise ``ValueError``."""
        streamed = read_flag(fields, "stream", default=False)
        return Facts(
            model=model_of(path, fields),
            encoding=Encoding.SSE if streamed else Encoding.JSON,
            temperature=read_number(fields, "temperature"),
            stored=read_flag(fields, "store", default=True),
            parent_id=read_text(fields, "previous_response_id"),
            refuse=_refusal_of(fields),
        )

    def understand(self, frames: list[Frame], encoding: Encoding) -> Answer:
        """Return the answer held by *frames*; raise ``ValueError`` when it is not whole."""
        match encoding:
            case Encoding.JSON:
                return _answer_of(whole_document(frames))
            case Encoding.SSE:
                return _answer_of(_response_in(frames))
            case _:
                raise ValueError(f"responses are not sent as {encoding}")

    def slots(self, frames: list[Frame], encoding: Encoding) -> list[Slot]:
        """Return every place that a replay may have to change or must not touch."""
        return find_slots(frames, encoding)

    def render(self, answer: Answer, encoding: Encoding, facts: Facts) -> bytes:
        """Write *answer* as one document or as events."""
        match encoding:
            case Encoding.JSON:
                return dumps(answer.doc)
            case Encoding.SSE:
                return stream(answer.doc)
            case _:
                raise ValueError(f"responses are not sent as {encoding}")


CODEC = OpenAIResponses()


def _refusal_of(fields: Fields) -> str | None:
    """Return why no answer of ours could be right: state at the provider that the request does not show."""
    if read_flag(fields, "background", default=False):
        return "background"
    if read(fields, "conversation") is not None:
        return "conversation"
    template = read_object(fields, "prompt")
    # A template without a version is whatever its owner made of it last.
    if template is not None and not template.get("version"):
        return "prompt-template"
    return None


def _response_in(frames: list[Frame]) -> dict[str, Json]:
    """Return the response object that a stream ends with, its output filled in where the backend left it empty."""
    opened: set[int] = set()
    items: dict[int, Json] = {}
    final: dict[str, Json] | None = None
    for at, event in events(frames, Encoding.SSE):
        kind = event.get("type")
        if kind in _FATAL or frames[at].event == "error":
            raise ValueError("an error event")
        if final is not None:
            raise ValueError("an event after the terminal one")
        if kind == "response.output_item.added":
            opened.add(_position(event))
        elif kind == "response.output_item.done":
            items[_position(event)] = as_object(event.get("item"), "item")
        elif isinstance(kind, str) and kind in _TERMINAL:
            response = as_object(event.get("response"), "response")
            filled: dict[str, Json] = {"object": "response", "status": _TERMINAL[kind]}
            final = filled | response
    if final is None:
        raise ValueError("no terminal event")
    if opened - items.keys():
        raise ValueError("an output item was left open")
    if not final.get("output"):
        final["output"] = [items[position] for position in sorted(items)]
    return final


def _position(event: dict[str, Json]) -> int:
    position = event.get("output_index")
    if not isinstance(position, int) or isinstance(position, bool):
        raise ValueError("an output item without output_index")
    return position


def _answer_of(doc: dict[str, Json]) -> Answer:
    if doc.get("error") is not None:
        raise ValueError("the answer is an error")
    items = [as_object(item, "output item") for item in as_array(doc.get("output"), "output")]
    ending, reason = _ending_of(doc, items)
    return Answer(
        doc=doc,
        ending=ending,
        reason=reason,
        tool_calls=tuple(_call_of(item) for item in items if _is_client_call(item)),
        provider_tools=any(item.get("type") not in _INERT and not _is_client_call(item) for item in items),
        usage=Usage(
            input_tokens=count(doc, "usage", "input_tokens"),
            output_tokens=count(doc, "usage", "output_tokens"),
            cached_tokens=count(doc, "usage", "input_tokens_details", "cached_tokens"),
        ),
    )


def _ending_of(doc: dict[str, Json], items: list[dict[str, Json]]) -> tuple[Ending, str]:
    match doc.get("status"):
        case "completed":
            parts = (part for item in items for part in objects(item.get("content")))
            if any(part.get("type") == "refusal" for part in parts):
                return Ending.REFUSED, "refusal"
            return Ending.CLEAN, "completed"
        case "incomplete":
            details = doc.get("incomplete_details")
            reason = as_text(details.get("reason") if isinstance(details, dict) else None, "reason")
            return _INCOMPLETE.get(reason, Ending.FAILED), reason or "incomplete"
        case status:
            raise ValueError(f"a response that is {status if isinstance(status, str) else 'without status'}")


def _is_client_call(item: dict[str, Json]) -> bool:
    kind = item.get("type")
    if not isinstance(kind, str) or kind not in _CLIENT_CALLS:
        return False
    if kind == "tool_search_call":
        return item.get("execution") == "client"
    # A shell in the provider's container runs there; a local one, or none named, is the client's.
    environment = item.get("environment")
    return not (isinstance(environment, dict) and str(environment.get("type")).startswith("container"))


def _call_of(item: dict[str, Json]) -> ToolCall:
    member, name = _CLIENT_CALLS[as_text(item.get("type"), "type")]
    arguments = item.get(member)
    if arguments is None and member == "action":
        arguments = item.get("actions")  # the newer computer tool asks for several at once
    return ToolCall(
        id=as_text(item.get("call_id"), "call_id"),
        name=name or as_text(item.get("name"), "name"),
        arguments=arguments if isinstance(arguments, str) else dumps(arguments).decode(),
    )
