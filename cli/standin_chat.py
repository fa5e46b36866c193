"""The stand-in's OpenAI Chat Completions answers: the whole completion, and the chunks that stream it.

Goal: the order of the real service: role, content or tool call deltas, finish reason, usage where it was asked for.
"""

import json
import time
from collections.abc import Iterator

from promptweir.cli.standin_answers import Plan
from promptweir.cli.standin_asks import Ask, Json, as_map
from promptweir.cli.standin_parts import fresh, pieces


def document(plan: Plan, ask: Ask, tokens: tuple[int, int]) -> dict[str, Json]:
    """Return the whole completion."""
    message: dict[str, Json] = {"role": "assistant", "content": plan.text, "refusal": None, "annotations": []}
    if plan.tool:
        function: Json = {"name": plan.tool.name, "arguments": json.dumps(plan.tool.arguments)}
        message["content"] = None
        message["tool_calls"] = [{"id": fresh("call_", 24), "type": "function", "function": function}]
    finish = "tool_calls" if plan.tool else "length" if plan.truncated else "stop"
    return {
        "id": fresh("chatcmpl-", 29),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
    }


def events(doc: dict[str, Json], *, usage: bool) -> Iterator[dict[str, Json]]:
    """Yield the chunks of *doc*; with *usage* the counts come in one more, as ``include_usage`` asks for."""
    head: dict[str, Json] = {**doc, "object": "chat.completion.chunk"}
    counts = head.pop("usage")
    choice = as_map(doc["choices"][0]) if isinstance(doc["choices"], list) else {}
    message = as_map(choice["message"])
    if usage:
        head["usage"] = None

    def chunk(delta: dict[str, Json], finish: Json = None) -> dict[str, Json]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    calls = message.get("tool_calls")
    if isinstance(calls, list):
        call = as_map(calls[0])
        function = as_map(call["function"])
        first: Json = {"index": 0, **call, "function": {**function, "arguments": ""}}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [first], "refusal": None})
        for piece in pieces(str(function["arguments"])):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    else:
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in pieces(str(message["content"])):
            yield chunk({"content": piece})
    yield chunk({}, choice["finish_reason"])
    if usage:
        yield {**head, "choices": [], "usage": counts}
