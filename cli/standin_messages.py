"""The stand-in's Anthropic Messages answers: the whole message, and the events that stream it.

Goal: the order of the real service: start, ping, blocks with their deltas, message_delta, message_stop.
"""

import json
from collections.abc import Iterator

from promptweir.cli.standin_answers import Plan
from promptweir.cli.standin_asks import Ask, Json, as_map
from promptweir.cli.standin_parts import fresh, pieces


def document(plan: Plan, ask: Ask, tokens: tuple[int, int], *, thinking: bool) -> dict[str, Json]:
    """Return the whole message; with *thinking*, a signed block comes first."""
    content: list[Json] = []
    if thinking:
        content.append({"type": "thinking", "thinking": "The user wants an answer.", "signature": fresh("", 64) + "=="})
    content.append({"type": "text", "text": plan.text})
    if plan.tool:
        use: Json = {"type": "tool_use", "id": fresh("toolu_01", 22), "name": plan.tool.name}
        content.append({**as_map(use), "input": plan.tool.arguments})
    return {
        "id": fresh("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": "tool_use" if plan.tool else "max_tokens" if plan.truncated else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": tokens[0],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": tokens[1],
            "service_tier": "standard",
        },
    }


def events(doc: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield the events that build *doc* up."""
    usage = as_map(doc["usage"])
    blocks = doc["content"] if isinstance(doc["content"], list) else []
    start = {**doc, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    for index, content in enumerate(blocks):
        block = dict(as_map(content))
        deltas: list[Json] = []
        match block["type"]:
            case "text":
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces(str(block["text"]))]
                block["text"] = ""
            case "thinking":
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(str(block["thinking"]))]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
                block |= {"thinking": "", "signature": ""}
            case _:
                parts = ["", *pieces(json.dumps(block["input"]))]
                deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
                block["input"] = {}
        yield {"type": "content_block_start", "index": index, "content_block": block}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": doc["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}
