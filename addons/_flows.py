"""Between mitmproxy's flows and our Prompts and Completions: the only place that reads and writes requests and responses."""

import json
import re
import time
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from mitmproxy import http
from mitmproxy.net.http import status_codes

from promptweir.layers.coding import decoded
from promptweir.layers.contract import CacheControl, Completion, Deflect, Dialect, Encoding, Fields, Prompt
from promptweir.layers.dialects.registry import CODECS
from promptweir.layers.providers import CUSTOM
from promptweir.layers.strict import MAX_ANSWER_SWELL_BYTES, MAX_REQUEST_SWELL_BYTES, check_swell
from promptweir.layers.tenants import user_id_of

CONTROL_HEADER = "x-promptweir-cache"
LAYER_HEADER, DEFLECTED_HEADER, PROVIDER_HEADER = (
    "x-promptweir-layer",
    "x-promptweir-deflected",
    "x-promptweir-provider",
)
_OUR_HEADERS = (LAYER_HEADER.encode(), DEFLECTED_HEADER.encode(), PROVIDER_HEADER.encode())

_ANSWER_HEADERS = (
    "anthropic-beta",
    "anthropic-version",
    "copilot-integration-id",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-amzn-bedrock-guardrailidentifier",
    "x-amzn-bedrock-guardrailversion",
    "x-amzn-bedrock-performanceconfig-latency",
    "x-codex-beta-features",
    "x-goog-user-project",
    "x-openai-internal-codex-responses-lite",
)
"""Request headers that can change an answer."""
_NEUTRAL = re.compile(
    r"accept.*|authorization|cache-control|connection|content-.*|cookie|date|expect|host|keep-alive|origin|pragma|priority|"
    r"proxy-.*|referer|sec-.*|te|trace.*|transfer-encoding|upgrade|user-agent|via|x-forwarded.*|x-request-id|x-stainless-.*|"
    r".*(?:key|token|auth|secret|session|request-id|trace-id|correlation-id|timestamp).*"
)
"""Request headers that can change no answer, or belong to the tenant.  A gateway that the user added (a custom host) may
choose its model by any other header, so there every other one counts."""
_LISTS = frozenset({"anthropic-beta", "openai-beta", "x-codex-beta-features"})
"""Comma-separated sets: their order means nothing."""
_SESSION_HEADERS = (
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-session-id",
    "thread-id",
    "conversation_id",
)
_CLAUDE_SESSION = re.compile(r"session_(?:id\"\s*:\s*\")?([0-9a-f-]{36})")
MAX_SESSION_CHARS = 128

_BODY_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACED_KEY_BYTES = 3  # quotes and colon


def header_map(request: http.Request) -> dict[str, str]:
    """Return the request's headers by lower-case name; values of repeated ones joined."""
    fields = request.headers.fields
    # Decoded in one go: two calls for each of two dozen headers would cost more than all else that is done with them.
    parts = b"\n".join([part for pair in fields for part in pair]).decode("utf-8", "surrogateescape").split("\n")
    found = dict(zip(map(str.lower, parts[::2]), parts[1::2], strict=False))
    if len(found) == len(fields) and len(parts) == 2 * len(fields):
        return found
    return {name.lower(): request.headers[name] for name in request.headers}


def fields_of(body: bytes) -> Fields:
    """Return the top level of a JSON object; ``ValueError`` for anything else, and for a key that occurs twice.

    A repeated key would leave bytes of the body unaccounted for: the values, keys and punctuation of what was decoded
    must add up to it.  Where they do not (white space, escaped keys), the keys are counted properly.
    """
    check_swell(body, MAX_REQUEST_SWELL_BYTES)
    try:
        fields: Fields = _BODY_FIELDS.decode(body)
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError("not a JSON object") from error
    size = sum(map(len, fields)) + sum([len(memoryview(raw)) for raw in fields.values()])
    compact = size + 2 + _SPACED_KEY_BYTES * len(fields) + max(len(fields) - 1, 0)
    if len(body) != compact and _has_repeated_key(body):
        raise ValueError("duplicate key")
    return fields


class _Pairs(list[tuple[str, object]]):
    """The members of one JSON object, repeats included."""


def _has_repeated_key(body: bytes) -> bool:
    try:
        top = json.loads(body, object_pairs_hook=_Pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return len({name for name, _ in top}) != len(top)


def control_of(headers: Mapping[str, str]) -> CacheControl:
    """Return what the client asks of the cache; a value we do not know asks for nothing."""
    try:
        return CacheControl(headers.get(CONTROL_HEADER, "default").strip().lower())
    except ValueError:
        return CacheControl.DEFAULT


def session_of(headers: Mapping[str, str], fields: Fields) -> str:
    """Return the client's own id of the conversation; empty where it names none."""
    for name in _SESSION_HEADERS:
        if value := headers.get(name):
            return value[:MAX_SESSION_CHARS]
    if found := _CLAUDE_SESSION.search(user_id_of(fields)):
        return found[1]
    return ""


def client_of(headers: Mapping[str, str]) -> str:
    """Return the calling program's name and version: the first word of its user agent."""
    return headers.get("user-agent", "").split(" ", 1)[0][:64]


def prompt_of(
    flow: http.HTTPFlow,
    *,
    id_: str,
    dialect: Dialect,
    provider: str,
    host: str,
    tenant: bytes,
    body: bytes,
    fields: Fields,
    control: CacheControl,
    headers: Mapping[str, str],
    origin: str = "",
) -> Prompt:
    """Return the Prompt of a flow whose body was read; ``ValueError`` where the dialect cannot read it."""
    raw = flow.request.raw_content or b""
    path, _, query = flow.request.path.partition("?")
    facts = CODECS[dialect].facts_of(path, query, fields)
    retries = headers.get("x-stainless-retry-count", "0")
    return Prompt(
        id=id_,
        dialect=dialect,
        provider=provider,
        host=host,
        path=path,
        query=query,
        tenant=tenant,
        facts=facts,
        raw=raw,
        body=body,
        fields=fields,
        headers=tuple((name, _normal(name, headers[name])) for name in _counting(provider, headers)),
        client=client_of(headers),
        session=session_of(headers, fields),
        retry=retries.isdigit() and int(retries) > 0,
        control=control,
        origin=origin,
    )


def _counting(provider: str, headers: Mapping[str, str]) -> list[str]:
    """Return the names of the headers that count, sorted."""
    if provider == CUSTOM:
        return sorted(name for name in headers if not _NEUTRAL.fullmatch(name))
    return [name for name in _ANSWER_HEADERS if name in headers]


@lru_cache(maxsize=256)
def _normal(name: str, value: str) -> str:
    return ",".join(sorted({part.strip() for part in value.split(",")})) if name in _LISTS else value


def body_of(request: http.Request, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """Return the request's body without content-encoding; the same object where there was none; ``ValueError``."""
    raw = request.raw_content or b""
    coding = headers.get("content-encoding", "")
    return decoded(raw, coding, max_bytes) if coding else raw


def answer(
    flow: http.HTTPFlow, deflect: Deflect, *, layer: str, provider: str, dialect: Dialect, tell: bool, request_id: str
) -> None:
    """Answer *flow* locally."""
    completion = deflect.completion
    headers = [(b"content-type", completion.content_type.encode("utf-8", "surrogateescape"))]
    # What providers put beside an answer and SDKs show to their users; made anew, like all ids.
    if dialect in {Dialect.ANTHROPIC_MESSAGES, Dialect.ANTHROPIC_COUNT_TOKENS}:
        headers.append((b"request-id", b"req_" + request_id.encode()))
    elif dialect in {Dialect.OPENAI_CHAT, Dialect.OPENAI_RESPONSES, Dialect.OPENAI_EMBEDDINGS}:
        headers.append((b"x-request-id", b"req_" + request_id.encode()))
    if completion.encoding is Encoding.SSE:
        headers.append((b"cache-control", b"no-cache"))
    headers.append((b"content-length", b"%d" % len(completion.body)))
    if tell:
        headers += _marks(layer, provider, deflected=True)
    now_s = time.time()
    # Response.make would look each of these headers up again.
    flow.response = http.Response(
        http_version=b"HTTP/1.1",
        status_code=completion.status,
        reason=status_codes.RESPONSES.get(completion.status, "").encode(),
        headers=http.Headers(headers),
        content=completion.body,
        trailers=None,
        timestamp_start=now_s,
        timestamp_end=now_s,
    )


def mark(flow: http.HTTPFlow, *, layer: str, provider: str, deflected: bool) -> None:
    """Add our three headers to the answer."""
    if flow.response is not None:
        headers = flow.response.headers
        others = tuple([pair for pair in headers.fields if pair[0].lower() not in _OUR_HEADERS])
        headers.fields = (*others, *_marks(layer, provider, deflected=deflected))


def _marks(layer: str, provider: str, *, deflected: bool) -> list[tuple[bytes, bytes]]:
    said = (layer, "true" if deflected else "false", provider)
    return [(name, value.encode()) for name, value in zip(_OUR_HEADERS, said, strict=True)]


_PREFERRED: Mapping[str, Encoding] = {
    "text/event-stream": Encoding.SSE,
    "application/vnd.amazon.eventstream": Encoding.AWS_EVENT_STREAM,
}


def completion_of(response: http.Response, raw: bytes, expected: Encoding, max_bytes: int) -> Completion:
    """Return the whole answer *raw* of an upstream; ``ValueError`` where it cannot be decoded."""
    content_type = response.headers.get("content-type", "")
    encoding = _PREFERRED.get(content_type.partition(";")[0].strip().lower())
    if encoding is None:
        encoding = expected if expected is Encoding.JSON_ARRAY else Encoding.JSON
    coding = response.headers.get("content-encoding", "")
    body = decoded(raw, coding, max_bytes) if coding else raw
    check_swell(body, MAX_ANSWER_SWELL_BYTES)
    return Completion(status=response.status_code, content_type=content_type, encoding=encoding, body=body)
