"""The stand-in's OpenAI Responses answers: the whole response, and the events that stream it.

Goal: the order of the real service, for messages, function calls and custom (free text) tool calls, each item with its
added, delta and done events between response.created and response.completed, and sequence numbers throughout.
"""

import json
import time
from collections.abc import Iterator

from promptweir.cli.standin_answers import Plan
from promptweir.cli.standin_asks import Ask, Json, as_map
from promptweir.cli.standin_parts import fresh, pieces

type _Event = dict[str, Json]


def document(plan: Plan, ask: Ask, tokens: tuple[int, int], *, thinking: bool) -> dict[str, Json]:
    """Return the whole response; with *thinking*, an encrypted reasoning item comes first."""
    output: list[Json] = []
    if thinking:
        secret = fresh("gAAAAA", 120) + "=="
        output.append({"id": fresh("rs_0", 48), "type": "reasoning", "summary": [], "encrypted_content": secret})
    output.append(_item(plan))
    asked = ask.doc
    return {
        "id": fresh("resp_0", 48),
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if plan.truncated else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if plan.truncated else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": ask.model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": asked.get("previous_response_id"),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "store": asked.get("store", True),
        "temperature": asked.get("temperature", 1.0),
        "text": asked.get("text", {"format": {"type": "text"}}),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": tokens[0],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens[1],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(tokens),
        },
        "metadata": asked.get("metadata", {}),
    }


def events(doc: dict[str, Json]) -> Iterator[_Event]:
    """Yield the events that build *doc* up."""
    for number, event in enumerate(_unnumbered(doc)):
        yield {**event, "sequence_number": number}


def _unnumbered(doc: dict[str, Json]) -> Iterator[_Event]:
    begun: Json = {**doc, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(doc["output"] if isinstance(doc["output"], list) else []):
        for event in _item_events(dict(as_map(item))):
            yield {**event, "output_index": index}
    yield {"type": f"response.{doc['status']}", "response": doc}


def _item(plan: Plan) -> Json:
    tool = plan.tool
    if tool is None:
        part: Json = {"type": "output_text", "annotations": [], "logprobs": [], "text": plan.text}
        status = "incomplete" if plan.truncated else "completed"
        return {"id": fresh("msg_0", 48), "type": "message", "status": status, "role": "assistant", "content": [part]}
    call: dict[str, Json] = {"status": "completed", "call_id": fresh("call_", 24), "name": tool.name}
    if tool.text is not None:
        return {"id": fresh("ctc_0", 47), "type": "custom_tool_call", **call, "input": tool.text}
    return {"id": fresh("fc_0", 48), "type": "function_call", **call, "arguments": json.dumps(tool.arguments)}


def _item_events(item: dict[str, Json]) -> Iterator[_Event]:
    match item["type"]:
        case "message":
            inner = _message_events(item)
            blank: dict[str, Json] = {"status": "in_progress", "content": []}
        case "function_call":
            inner = _call_events(item, "response.function_call_arguments", "arguments")
            blank = {"status": "in_progress", "arguments": ""}
        case "custom_tool_call":
            inner = _call_events(item, "response.custom_tool_call_input", "input")
            blank = {"status": "in_progress", "input": ""}
        case _:
            inner, blank = iter(()), {}
    yield {"type": "response.output_item.added", "item": {**item, **blank}}
    for event in inner:
        yield {**event, "item_id": item["id"]}
    yield {"type": "response.output_item.done", "item": item}


def _message_events(item: dict[str, Json]) -> Iterator[_Event]:
    content = item["content"]
    part = as_map(content[0]) if isinstance(content, list) else {}
    at: dict[str, Json] = {"content_index": 0}
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    for piece in pieces(str(part["text"])):
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": dict(part)}


def _call_events(item: dict[str, Json], name: str, field: str) -> Iterator[_Event]:
    for piece in pieces(str(item[field])):
        yield {"type": f"{name}.delta", "delta": piece}
    yield {"type": f"{name}.done", field: item[field]}
