"""Gemini's stream and Gemini's answer: fold the chunks of streamGenerateContent into one GenerateContentResponse.

Goals
    One document that says what all chunks said together.  A document as the only chunk folds into itself, so that
    unfolding is writing it as a stream of one chunk.

Plan
    Candidates are merged by index, their parts strung together.  A chunk boundary inside a text is healed: the last
    part before it and the first one after it become one where both are plain text with an equal ``thought`` flag.  Parts
    with a signature, calls, code and media stay as they are, in order.  Reports (usage, ratings, grounding) come
    cumulatively: the last one stands.  Lists that each chunk continues (log probabilities, citations) are strung together.

What it does not do
    Calls whose arguments are streamed in pieces (``partialArgs``) are not understood: ``ValueError``.
"""

from collections.abc import Iterable

from promptweir.layers.contract import Json
from promptweir.layers.dialects.shape import as_array, as_count, as_object, as_text

_PLAIN_TEXT = frozenset(("text", "thought"))

_CONTINUED = ("citationMetadata", "logprobsResult")
"""Fields of a candidate whose lists each chunk continues."""


def fold(chunks: Iterable[Json]) -> dict[str, Json]:
    """Return the answer that *chunks* tell."""
    answer: dict[str, Json] = {}
    candidates: dict[int, dict[str, Json]] = {}
    for item in chunks:
        chunk = as_object(item, "chunk")
        if "error" in chunk:
            raise ValueError("the answer reports an error")
        for candidate in _objects(chunk.get("candidates"), "candidates"):
            _merge_candidate(candidates, candidate)
        _overlay(answer, chunk, apart="candidates")
    return {"candidates": list(candidates.values()), **answer} if candidates else answer


def candidates_of(answer: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the candidates of an answer, none where there are none."""
    return _objects(answer.get("candidates"), "candidates")


def parts_of(candidate: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the parts of a candidate, none where it has no content."""
    return _objects(as_object(candidate.get("content") or {}, "content").get("parts"), "parts")


def index_of(candidate: dict[str, Json]) -> int:
    """Return the index of a candidate; proto JSON leaves a 0 out."""
    return as_count(candidate.get("index") or 0, "index")


def is_plain_text(part: dict[str, Json]) -> bool:
    """Tell whether *part* is text and nothing else."""
    return isinstance(part.get("text"), str) and part.keys() <= _PLAIN_TEXT


def _merge_candidate(candidates: dict[int, dict[str, Json]], candidate: dict[str, Json]) -> None:
    for part in parts_of(candidate):
        call = part.get("functionCall")
        if isinstance(call, dict) and ("partialArgs" in call or "willContinue" in call):
            raise ValueError("the arguments of a call are streamed in pieces")
    so_far = candidates.setdefault(index_of(candidate), {})
    if not so_far:
        so_far.update(candidate)
        return
    content = _merge_content(so_far.get("content"), candidate.get("content"))
    continued = {name: _strung(so_far.get(name), candidate[name]) for name in _CONTINUED if name in candidate}
    _overlay(so_far, {**candidate, **continued}, apart="content")
    if content is not None:
        so_far["content"] = content


def _merge_content(before: Json, after: Json) -> dict[str, Json] | None:
    if before is None or after is None:
        known = before if after is None else after
        return None if known is None else as_object(known, "content")
    first, second = as_object(before, "content"), as_object(after, "content")
    parts = _joined(_objects(first.get("parts"), "parts"), _objects(second.get("parts"), "parts"))
    merged = {**first, **second}
    if "parts" in merged:
        merged["parts"] = list(parts)
    return merged


def _joined(before: list[dict[str, Json]], after: list[dict[str, Json]]) -> list[dict[str, Json]]:
    if not before or not after:
        return before + after
    left, right = before[-1], after[0]
    if not (is_plain_text(left) and is_plain_text(right) and bool(left.get("thought")) == bool(right.get("thought"))):
        return before + after
    text = as_text(left["text"], "text") + as_text(right["text"], "text")
    return [*before[:-1], {**left, "text": text}, *after[1:]]


def _strung(before: Json, after: Json) -> Json:
    """Return two reports as one, their lists strung together."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    merged = {**before, **after}
    for name, value in after.items():
        earlier = before.get(name)
        if isinstance(value, list) and isinstance(earlier, list):
            merged[name] = earlier + value
    return merged


def _overlay(target: dict[str, Json], update: dict[str, Json], *, apart: str) -> None:
    """Set the fields of *update* except *apart*; a null says nothing where there is a value already."""
    target.update(
        (name, value) for name, value in update.items() if name != apart and (value is not None or name not in target)
    )


def _objects(value: Json, name: str) -> list[dict[str, Json]]:
    return [as_object(item, name) for item in as_array([] if value is None else value, name)]
