"""A response written as events, in the order in which OpenAI sends them.

``created``, ``in_progress``; for every output item ``added``, its pieces and ``done``; then ``completed`` (or
``incomplete``) with the whole response.  Codex reads the item events, the SDKs' helpers need ``created`` first and
check that an item keeps its identity, and everybody takes the terminal event's word for the rest.

Texts are one delta each: pacing an answer that is at hand would only cost the reader time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptweir.layers.contract import Json
from promptweir.layers.dialects.openai_common import as_array, as_object, objects
from promptweir.layers.wire import sse

# What a part or an item does not have yet when it is announced.
_EMPTY_YET: dict[str, Json] = {"text": "", "refusal": "", "arguments": "", "input": ""}
_EMPTY_LISTS = frozenset({"content", "summary", "annotations", "logprobs"})
# Text members of a part, by its type, with the stem of the events that bring them.
_PART_TEXTS = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
}
_CALL_TEXTS = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


@dataclass(slots=True)
class _Events:
    """The body so far; every event carries the next number."""

    body: list[bytes] = field(default_factory=list)

    def add(self, kind: str, members: dict[str, Json]) -> None:
        head: dict[str, Json] = {"type": kind, "sequence_number": len(self.body)}
        self.body.append(sse(kind, head | members))


def stream(doc: dict[str, Json]) -> bytes:
    """Return *doc* as a whole SSE body."""
    events = _Events()
    started = _started(doc)
    events.add("response.created", {"response": started})
    events.add("response.in_progress", {"response": started})
    for index, item in enumerate(as_array(doc.get("output"), "output")):
        _add_item(events, as_object(item, "output item"), index)
    terminal = "response.incomplete" if doc.get("status") == "incomplete" else "response.completed"
    events.add(terminal, {"response": doc})
    return b"".join(events.body)


def _started(doc: dict[str, Json]) -> dict[str, Json]:
    """Return the response object as it is before the first item."""
    unknown_yet: dict[str, Json] = {key: None for key in ("completed_at", "incomplete_details") if key in doc}
    return doc | unknown_yet | {"status": "in_progress", "output": [], "usage": None}


def _announced(thing: dict[str, Json]) -> dict[str, Json]:
    """Return an item or a part as it is announced: its identity without its text."""
    out: dict[str, Json] = {}
    for key, value in thing.items():
        if key in _EMPTY_YET and isinstance(value, str):
            out[key] = ""
        elif key in _EMPTY_LISTS and isinstance(value, list):
            out[key] = []
        elif key == "status":
            out[key] = "in_progress"
        elif key != "encrypted_content":
            out[key] = value
    return out


def _add_item(events: _Events, item: dict[str, Json], index: int) -> None:
    events.add("response.output_item.added", {"output_index": index, "item": _announced(item)})
    place: dict[str, Json] = {"item_id": item.get("id", ""), "output_index": index}
    for position, part in enumerate(objects(item.get("summary"))):
        _add_summary(events, part, place | {"summary_index": position})
    for position, part in enumerate(objects(item.get("content"))):
        _add_part(events, part, place | {"content_index": position})
    kind = item.get("type")
    if isinstance(kind, str) and kind in _CALL_TEXTS:
        member, stem = _CALL_TEXTS[kind]
        _add_text(events, stem, member, item.get(member), place, {})
    events.add("response.output_item.done", {"output_index": index, "item": item})


def _add_summary(events: _Events, part: dict[str, Json], place: dict[str, Json]) -> None:
    events.add("response.reasoning_summary_part.added", place | {"part": _announced(part)})
    _add_text(events, "response.reasoning_summary_text", "text", part.get("text"), place, {})
    events.add("response.reasoning_summary_part.done", place | {"part": part})


def _add_part(events: _Events, part: dict[str, Json], place: dict[str, Json]) -> None:
    events.add("response.content_part.added", place | {"part": _announced(part)})
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PART_TEXTS:
        member, stem = _PART_TEXTS[kind]
        extra: dict[str, Json] = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        _add_text(events, stem, member, part.get(member), place, extra, _notes(part))
    events.add("response.content_part.done", place | {"part": part})


def _notes(part: dict[str, Json]) -> list[dict[str, Json]]:
    notes = objects(part.get("annotations"))
    return [{"annotation_index": position, "annotation": note} for position, note in enumerate(notes)]


def _add_text(
    events: _Events,
    stem: str,
    member: str,
    text: Json,
    place: dict[str, Json],
    extra: dict[str, Json],
    notes: Sequence[dict[str, Json]] = (),
) -> None:
    """Write the delta of *text*, the annotations that belong to it, and the event that repeats it whole."""
    if not isinstance(text, str):
        return
    if text:
        events.add(f"{stem}.delta", place | {"delta": text} | extra)
    for note in notes:
        events.add("response.output_text.annotation.added", place | note)
    events.add(f"{stem}.done", place | {member: text} | extra)
