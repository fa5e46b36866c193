"""The stand-in's Gemini answers: the whole generateContent response, and the chunks that stream it.

Goal: as the real service does it, each chunk is a response of its own; the last one has the finish reason.
"""

from collections.abc import Iterator

from promptweir.cli.standin_answers import Plan
from promptweir.cli.standin_asks import Ask, Json, as_list, as_map
from promptweir.cli.standin_parts import fresh, pieces


def document(plan: Plan, ask: Ask, tokens: tuple[int, int], *, thinking: bool) -> dict[str, Json]:
    """Return the whole response; with *thinking*, the last part has a signature."""
    parts: list[dict[str, Json]] = [{"text": plan.text}]
    if plan.tool:
        parts.append({"functionCall": {"name": plan.tool.name, "args": plan.tool.arguments}})
    if thinking:
        parts[-1]["thoughtSignature"] = fresh("", 64) + "=="
    finish = "MAX_TOKENS" if plan.truncated else "STOP"
    content: Json = {"parts": list(parts), "role": "model"}
    return {
        "candidates": [{"content": content, "finishReason": finish, "index": 0}],
        "usageMetadata": {
            "promptTokenCount": tokens[0],
            "candidatesTokenCount": tokens[1],
            "totalTokenCount": sum(tokens),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens[0]}],
        },
        "modelVersion": ask.model,
        "responseId": fresh("", 22),
    }


def events(doc: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield the chunks that add up to *doc*."""
    candidate = as_map(as_list(doc["candidates"])[0])
    parts = list(_split(as_list(as_map(candidate["content"])["parts"])))
    for number, part in enumerate(parts):
        chunk: dict[str, Json] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if number == len(parts) - 1:
            chunk["finishReason"] = candidate["finishReason"]
        yield {**doc, "candidates": [chunk]}


def _split(parts: list[Json]) -> Iterator[Json]:
    for part in parts:
        whole = as_map(part)
        text = whole.get("text")
        if not isinstance(text, str):
            yield part
            continue
        texts = pieces(text) or [""]
        for piece in texts[:-1]:
            yield {"text": piece}
        yield {**whole, "text": texts[-1]}
