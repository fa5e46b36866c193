"""The demo's hold on the SDKs: clients that tell what went over the wire, and a record of each call.

Goals: the latency is what a program sees (the SDK's call, from its start to the finished object), the verdict is what
the proxy says in its headers, and the request is what really went out, so that the answer can be judged by it.

Plan: hooks of the SDKs' own HTTP clients fill in a ``Trace``, which a context variable hands to them.  Retries are off against the stand-in: a call that fails is to be seen.

What this module does not do: it knows no prompt and judges no answer.
"""

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from promptweir.cli.standin_asks import Json

if TYPE_CHECKING:
    import anthropic
    import openai
    import pydantic
    from google import genai

    type Outcome = pydantic.BaseModel | Sequence[pydantic.BaseModel]

CALL_WAIT_S = 60.0
MAX_FAILURE_CHARS = 200
OPENAI, ANTHROPIC, GEMINI = "openai", "anthropic", "google-genai"
PACKAGES = {OPENAI: "openai", ANTHROPIC: "anthropic", GEMINI: "google.genai"}
"""What to install -> what to import."""


@dataclass(slots=True)
class Trace:
    """What the hooks saw of one call."""

    path: str = ""
    query: str = ""
    asked: bytes = b""
    answered: bytes = b""
    """The answer's body, unless it is a stream."""
    layer: str = ""
    deflected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call and its answer."""

    name: str
    probe: bool
    """It resembles another call, and the other's answer would be wrong for it."""
    trace: Trace
    elapsed_ms: float
    doc: Json = None
    """The SDK's object, or its objects where it streams."""
    failure: str = ""


class CallFailed(Exception):  # noqa: N818 - it names what happened
    """A call brought no answer; those that build on it cannot be made."""


class _Url(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> bytes: ...


class _Request(Protocol):
    @property
    def url(self) -> _Url: ...
    @property
    def content(self) -> bytes: ...


class _Response(Protocol):
    @property
    def headers(self) -> Mapping[str, str]: ...
    def read(self) -> bytes: ...
    async def aread(self) -> bytes: ...


_trace: ContextVar[Trace] = ContextVar("trace")


class Recorder:
    """Makes calls and keeps what came of them."""

    def __init__(self, *, key_of: Mapping[str, str], retries: int = 0, cached: bool = True) -> None:
        """Without *cached* the calls go out whatever the cache knows, and it learns nothing of them."""
        self.exchanges: list[Exchange] = []
        self._key_of = key_of
        self._retries = retries
        self._headers = {} if cached else {"x-promptweir-cache": "bypass"}

    def openai_client(self) -> "openai.OpenAI":
        """Return a client of its own connections."""
        import openai

        http = openai.DefaultHttpxClient(event_hooks=_HOOKS, timeout=CALL_WAIT_S)
        return openai.OpenAI(
            api_key=self._key_of[OPENAI],
            base_url="https://api.openai.com/v1",
            http_client=http,
            max_retries=self._retries,
            default_headers=self._headers,
        )

    def async_openai_client(self) -> "openai.AsyncOpenAI":
        """Return the same for async code."""
        import openai

        http = openai.DefaultAsyncHttpxClient(event_hooks=_ASYNC_HOOKS, timeout=CALL_WAIT_S)
        return openai.AsyncOpenAI(
            api_key=self._key_of[OPENAI],
            base_url="https://api.openai.com/v1",
            http_client=http,
            max_retries=self._retries,
            default_headers=self._headers,
        )

    def anthropic_client(self, key: str = "") -> "anthropic.Anthropic":
        """Return a client; with *key*, somebody else's."""
        import anthropic

        http = anthropic.DefaultHttpxClient(event_hooks=_HOOKS, timeout=CALL_WAIT_S)
        return anthropic.Anthropic(
            api_key=key or self._key_of[ANTHROPIC],
            base_url="https://api.anthropic.com",
            http_client=http,
            max_retries=self._retries,
            default_headers=self._headers,
        )

    def async_anthropic_client(self) -> "anthropic.AsyncAnthropic":
        """Return the same for async code."""
        import anthropic

        http = anthropic.DefaultAsyncHttpxClient(event_hooks=_ASYNC_HOOKS, timeout=CALL_WAIT_S)
        return anthropic.AsyncAnthropic(
            api_key=self._key_of[ANTHROPIC],
            base_url="https://api.anthropic.com",
            http_client=http,
            max_retries=self._retries,
            default_headers=self._headers,
        )

    def gemini_client(self) -> "genai.Client":
        """Return a client for sync and async code."""
        import httpx
        from google import genai
        from google.genai import types

        options = types.HttpOptions(
            base_url="https://generativelanguage.googleapis.com",
            timeout=int(CALL_WAIT_S * 1000),
            headers=dict(self._headers),
            client_args={"event_hooks": _HOOKS},
            # Given a client, it leaves aiohttp alone, whose calls no hook would see.
            httpx_async_client=httpx.AsyncClient(event_hooks=_ASYNC_HOOKS, timeout=CALL_WAIT_S),
        )
        return genai.Client(api_key=self._key_of[GEMINI], vertexai=False, http_options=options)

    def take[T: "Outcome"](self, name: str, call: Callable[[], T], *, probe: bool = False) -> T:
        """Make *call* and record it; ``CallFailed`` where it brings no answer."""
        trace, began = _begin()
        try:
            found = call()
        except failures() as error:
            raise self._failed(name, probe, trace, began, error) from error
        self._done(name, probe, trace, began, found)
        return found

    async def take_async[T: "Outcome"](self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make *call* and record it; ``CallFailed`` where it brings no answer."""
        trace, began = _begin()
        try:
            found = await call()
        except failures() as error:
            raise self._failed(name, False, trace, began, error) from error
        self._done(name, False, trace, began, found)
        return found

    def _done(self, name: str, probe: bool, trace: Trace, began: float, found: "Outcome") -> None:
        elapsed_ms = (time.perf_counter() - began) * 1000
        self.exchanges.append(Exchange(name=name, probe=probe, trace=trace, elapsed_ms=elapsed_ms, doc=dumped(found)))

    def _failed(self, name: str, probe: bool, trace: Trace, began: float, error: Exception) -> CallFailed:
        elapsed_ms = (time.perf_counter() - began) * 1000
        failure = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_FAILURE_CHARS]
        self.exchanges.append(Exchange(name=name, probe=probe, trace=trace, elapsed_ms=elapsed_ms, failure=failure))
        return CallFailed(name)


def dumped(found: "Outcome") -> Json:
    """Return an SDK's object as plain JSON, without what it keeps of the HTTP exchange."""
    if isinstance(found, Sequence):
        return [dumped(one) for one in found]
    doc: dict[str, Json] = found.model_dump(mode="json", exclude={"sdk_http_response"}, warnings=False)
    return doc


def failures() -> tuple[type[Exception], ...]:
    """Return what a call may raise: the errors of the SDKs that are loaded, and what they raise over a malformed answer."""
    named = {
        "openai": "OpenAIError",
        "anthropic": "AnthropicError",
        "google.genai.errors": "APIError",
        "httpx": "HTTPError",
        "httpx2": "HTTPError",
    }
    found: list[type[Exception]] = [
        *(ValueError, LookupError, AttributeError, TypeError, RuntimeError, AssertionError, OSError)
    ]
    for module, name in named.items():
        with contextlib.suppress(KeyError):
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def _begin() -> tuple[Trace, float]:
    trace = Trace()
    _trace.set(trace)
    return trace, time.perf_counter()


def _on_request(request: _Request) -> None:
    trace = _trace.get()
    trace.path, trace.query, trace.asked = request.url.path, request.url.query.decode(), request.content


def _on_response(response: _Response) -> None:
    if _noted(response):
        _trace.get().answered = response.read()


async def _on_async_request(request: _Request) -> None:
    _on_request(request)


async def _on_async_response(response: _Response) -> None:
    if _noted(response):
        _trace.get().answered = await response.aread()


def _noted(response: _Response) -> bool:
    """Note the verdict; tell whether the body is to be read at once."""
    trace = _trace.get()
    trace.layer = response.headers.get("x-promptweir-layer", "")
    trace.deflected = response.headers.get("x-promptweir-deflected", "") == "true"
    return response.headers.get("content-type", "").startswith("application/json")


_HOOKS: "Mapping[str, list[Callable[..., object]]]" = {"request": [_on_request], "response": [_on_response]}
_ASYNC_HOOKS: "Mapping[str, list[Callable[..., object]]]" = {
    "request": [_on_async_request],
    "response": [_on_async_response],
}
