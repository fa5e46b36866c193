"""The native call in terms of a provider: which one, what to send, and what came back.

``POST /api/chat {"prompt": ..., "model"?: ...}`` is the gateway's own, so on a miss there is nothing to pass on; it is
put to the provider that the model's name points to, and only text comes back.
"""

from dataclasses import dataclass
from urllib.parse import quote

from promptweir.layers.contract import Fields, Json
from promptweir.layers.wire import dumps, loads

MAX_OUTPUT_TOKENS = 4096
"""Anthropic wants a limit; the others have one of their own."""


@dataclass(frozen=True, slots=True)
class Question:
    """A native call as its provider wants it."""

    provider: str
    host: str
    path: str
    credential_header: str
    body: bytes
    model: str


def question_of(fields: Fields, default_model: str) -> Question:
    """Return the provider's form of a native call; ``ValueError`` when it is none."""
    prompt, model = (
        loads(fields["prompt"]) if "prompt" in fields else None,
        loads(fields["model"]) if "model" in fields else "",
    )
    if not isinstance(prompt, str) or not isinstance(model, str):
        raise ValueError('a native call is {"prompt": "...", "model": "..."}, the model being optional')
    model = model or default_model
    turn: dict[str, Json] = {"role": "user", "content": prompt}
    if model.startswith("claude"):
        body: Json = {"model": model, "max_tokens": MAX_OUTPUT_TOKENS, "messages": [turn]}
        return Question("anthropic", "api.anthropic.com", "/v1/messages", "x-api-key", dumps(body), model)
    if model.startswith(("gemini", "gemma")):
        body = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
        path = f"/v1beta/models/{quote(model, safe='')}:generateContent"
        return Question("gemini", "generativelanguage.googleapis.com", path, "x-goog-api-key", dumps(body), model)
    body = {"model": model, "messages": [turn]}
    return Question("openai", "api.openai.com", "/v1/chat/completions", "authorization", dumps(body), model)


def reply_of(body: bytes, layer: str, model: str) -> bytes:
    """Return the native answer for a provider's JSON *body*; ``ValueError`` when there is no text in it."""
    text = _text_of(loads(body))
    if text is None:
        raise ValueError("the answer holds no text")
    return dumps({"layer": layer, "message": text, "model": model})


def relabelled(body: bytes, layer: str) -> bytes:
    """Return a native answer that names *layer*."""
    doc = loads(body)
    return dumps({**doc, "layer": layer}) if isinstance(doc, dict) else body


def _text_of(doc: Json) -> str | None:
    match doc:
        case {"content": [*blocks], "stop_reason": "end_turn"}:
            parts = [block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
        case {"choices": [{"message": {"content": str(text)}, "finish_reason": "stop"}, *_]}:
            return text
        case {"candidates": [{"content": {"parts": [*found]}, "finishReason": "STOP"}, *_]}:
            parts = [part.get("text") for part in found if isinstance(part, dict) and not part.get("thought")]
        case _:
            return None
    return "".join(part for part in parts if isinstance(part, str)) if parts else None
