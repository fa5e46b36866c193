"""The stand-in's answers that are not completions: token counts, embeddings, lists of models, and which path is what.

Goal: deterministic in the request, like the completions, so that a wrong replay shows.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from promptweir.cli.standin_answers import meaning
from promptweir.cli.standin_asks import Json, as_list, as_map, as_text, read_ask
from promptweir.cli.standin_wire import Api, Layout

DEFAULT_DIMENSIONS = 256
MAX_DIMENSIONS = 4096
MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "gpt-5", "gpt-4o-mini", "text-embedding-3-small", "gemini-2.5-flash")


class Kind(StrEnum):
    """What a path asks for."""

    GENERATE = "generate"
    COUNT = "count"
    EMBED = "embed"
    MODELS = "models"
    STORED = "stored"
    """A Responses answer by its id."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, understood."""

    kind: Kind
    api: Api = Api.CHAT
    model: str = ""
    """The model where the path names it."""
    layout: Layout | None = None
    """The layout where the path decides it."""


def route_of(path: str, query: str) -> Route:
    """Tell what *path* asks for; prefixes (deployments, gateways) do not matter."""
    last = path.rstrip("/").rpartition("/")[2]
    if "/responses/" in path:
        return Route(kind=Kind.STORED, api=Api.RESPONSES, model=last)
    if path.endswith("/messages"):
        return Route(kind=Kind.GENERATE, api=Api.MESSAGES)
    if path.endswith("/messages/count_tokens"):
        return Route(kind=Kind.COUNT, api=Api.MESSAGES)
    if path.endswith("/chat/completions"):
        return Route(kind=Kind.GENERATE, api=Api.CHAT, model=_between(path, "/deployments/"))
    if last == "responses":
        return Route(kind=Kind.GENERATE, api=Api.RESPONSES)
    if last == "embeddings":
        return Route(kind=Kind.EMBED, model=_between(path, "/deployments/"))
    if last == "models" or ("/models/" in path and ":" not in last):
        return Route(kind=Kind.MODELS, api=Api.GEMINI if "/v1beta/" in path else Api.CHAT)
    return _by_verb(path, last, query)


def _by_verb(path: str, last: str, query: str) -> Route:
    model, _, verb = last.partition(":")
    bedrock = unquote(_between(path, "/model/"))
    match verb or last:
        case "generateContent":
            return Route(kind=Kind.GENERATE, api=Api.GEMINI, model=model, layout=Layout.JSON)
        case "streamGenerateContent":
            layout = Layout.SSE if "alt=sse" in query else Layout.ARRAY
            return Route(kind=Kind.GENERATE, api=Api.GEMINI, model=model, layout=layout)
        case "countTokens":
            return Route(kind=Kind.COUNT, api=Api.GEMINI, model=model)
        case "rawPredict" | "streamRawPredict":
            return Route(kind=Kind.GENERATE, api=Api.MESSAGES, model=model)
        case "invoke":
            return Route(kind=Kind.GENERATE, api=Api.MESSAGES, model=bedrock, layout=Layout.JSON)
        case "invoke-with-response-stream":
            return Route(kind=Kind.GENERATE, api=Api.MESSAGES, model=bedrock, layout=Layout.AWS)
        case _:
            return Route(kind=Kind.OTHER)


def _between(path: str, marker: str) -> str:
    return path.partition(marker)[2].partition("/")[0]


def count(doc: Json, route: Route) -> dict[str, Json]:
    """Return the number of tokens of a request, four bytes of its meaning each."""
    ask = read_ask(doc, route.model)
    tokens = max(1, len(json.dumps(meaning(ask))) // 4)
    if route.api is Api.GEMINI:
        return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}
    return {"input_tokens": tokens}


def embed(doc: Json, route: Route) -> dict[str, Json]:
    """Return a vector per input, made from a hash of the input and the model."""
    body = as_map(doc)
    model = as_text(body.get("model")) or route.model
    given = body.get("input")
    inputs = given if isinstance(given, list) and not all(isinstance(item, int) for item in given) else [given]
    asked = body.get("dimensions")
    size = min(asked, MAX_DIMENSIONS) if isinstance(asked, int) and asked > 0 else DEFAULT_DIMENSIONS
    data: list[Json] = []
    for index, item in enumerate(inputs):
        vector = _vector(json.dumps([model, item]), size)
        value: Json = list(vector)
        if body.get("encoding_format") == "base64":
            value = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = max(1, len(json.dumps(inputs)) // 4)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _vector(seed: str, size: int) -> tuple[float, ...]:
    raw = hashlib.shake_256(seed.encode()).digest(2 * size)
    values = [number / 32768 for number in struct.unpack(f"<{size}h", raw)]
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    return tuple(value / norm for value in values)


def models(path: str, route: Route) -> dict[str, Json]:
    """Return the list of models, or the one that the path names."""
    name = path.rstrip("/").rpartition("/")[2]
    entries = [_model(known, route) for known in MODELS]
    if name != "models":
        return next((entry for entry in entries if name in entry.values()), _model(name, route))
    listed: Json = list(entries)
    if route.api is Api.GEMINI:
        return {"models": listed}
    return {"object": "list", "data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}


def _model(name: str, route: Route) -> dict[str, Json]:
    if route.api is Api.GEMINI:
        return {"name": f"models/{name}", "displayName": name}
    return {"id": name, "object": "model", "type": "model", "display_name": name, "created": 1, "owned_by": "standin"}


def with_history(doc: Json, stored: dict[str, list[Json]]) -> Json:
    """Return a Responses request with the conversation that its ``previous_response_id`` names put before its input.

    ``KeyError`` where there is no such response, which is what the service answers 400 to.
    """
    body = as_map(doc)
    parent = body.get("previous_response_id")
    given = body.get("input")
    items: list[Json] = given if isinstance(given, list) else [{"role": "user", "content": given}]
    if not isinstance(parent, str):
        return {**body, "input": items} if body else doc
    return {**body, "input": [*stored[parent], *items]}


def history_of(doc: Json, answer: Json) -> list[Json]:
    """Return the conversation that a stored response stands for."""
    return [*as_list(as_map(doc).get("input")), *as_list(as_map(answer).get("output"))]
