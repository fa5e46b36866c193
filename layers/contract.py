"""The types that every layer speaks: a Prompt comes in, a Verdict comes out, a Completion is learned.

A *Prompt* is one LLM API call, read once.  A *Completion* is one whole answer as it was on the wire, with its
content-encoding removed.  An *Answer* is a Completion understood: the provider's non-streaming JSON body plus what the
policies need to know about it.

What this module does not do: it reads no clock, no network and no environment, and it knows no wire format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

type Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""A decoded JSON value."""

type Fields = Mapping[str, msgspec.Raw]
"""The top level of a request body: each value still as the bytes that were sent."""


class Dialect(StrEnum):
    """A wire format, named after the provider's own API."""

    ANTHROPIC_MESSAGES = "anthropic-messages"
    ANTHROPIC_COUNT_TOKENS = "anthropic-count-tokens"
    OPENAI_CHAT = "openai-chat"
    OPENAI_RESPONSES = "openai-responses"
    OPENAI_EMBEDDINGS = "openai-embeddings"
    GEMINI_GENERATE = "gemini-generate-content"
    GEMINI_COUNT_TOKENS = "gemini-count-tokens"
    NATIVE_CHAT = "native-chat"


class Encoding(StrEnum):
    """How an answer is laid out on the wire."""

    JSON = "json"
    SSE = "sse"
    JSON_ARRAY = "json-array"
    """Gemini's streamGenerateContent without ``alt=sse``: one JSON array of chunks."""
    AWS_EVENT_STREAM = "aws-event-stream"
    """Bedrock's invoke-with-response-stream: binary frames, each around one event of the underlying dialect."""


class CacheControl(StrEnum):
    """What the client asked for in ``x-promptweir-cache``."""

    DEFAULT = "default"
    BYPASS = "bypass"
    """Neither look up nor learn."""
    REFRESH = "refresh"
    """Do not look up; learn the new answer."""
    ONLY = "only"
    """Look up; a miss is an error instead of a call."""


class Ending(StrEnum):
    """Why an answer stopped, as far as learning is concerned."""

    CLEAN = "clean"
    """end_turn, tool_use, stop_sequence, stop, tool_calls, completed, STOP: the model said all it wanted to."""
    TRUNCATED = "truncated"
    REFUSED = "refused"
    """A refusal or a content filter."""
    PAUSED = "paused"
    FAILED = "failed"
    """An error event, or a status that is none of the above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a dialect reads off a request: the few fields that steer us rather than the model."""

    model: str
    encoding: Encoding
    """The encoding in which the client expects the answer."""
    include_usage: bool = True
    """OpenAI chat only: whether a streamed answer ends with a usage chunk (``stream_options.include_usage``)."""
    temperature: float | None = None
    stored: bool = False
    """The provider keeps the answer under its id, and a later request may name that id (Responses with ``store``)."""
    parent_id: str | None = None
    """``previous_response_id``."""
    refuse: str | None = None
    """A kebab-case reason why no answer of ours could be right (``background``, ``conversation`` ...); the call passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One LLM API call."""

    id: str
    """Ours, short, unique; names the trip in ``promptweir why``."""
    dialect: Dialect
    provider: str
    """Name in the registry of providers."""
    host: str
    """The provider's host as the client addressed it, before any mapping."""
    path: str
    """Path without query, as sent."""
    query: str
    tenant: bytes
    """Keyed hash of the stable identity behind the credential; two callers never share an entry."""
    facts: Facts
    raw: bytes
    """The body exactly as received.  Forwarded as is unless a layer says ``Amend``."""
    body: bytes
    """``raw`` with its content-encoding removed; the same object when there was none."""
    fields: Fields
    headers: tuple[tuple[str, str], ...] = ()
    """The request headers that can change an answer (``anthropic-beta`` ...), lower-case names, sorted."""
    client: str = ""
    """Name/version of the calling program, from its user agent."""
    session: str = ""
    """The client's own conversation id; empty when it names none."""
    retry: bool = False
    """The client says that this is a retry (``x-stainless-retry-count``)."""
    control: CacheControl = CacheControl.DEFAULT
    origin: str = ""
    """Where the call goes when that is not the host's own https port."""
    fingerprint: bytes = b""
    """What the request looks like, path by path, without its text (see ``fingerprint``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One whole answer as it went over the wire, content-encoding removed."""

    status: int
    content_type: str
    encoding: Encoding
    body: bytes
    answer: "Answer | None" = None
    """The body understood, once, for all layers that learn; None where nobody did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks the client to make."""

    id: str
    name: str
    arguments: str
    """JSON text as far as the model produced JSON; free text for custom tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as the provider reported them; 0 where it did not."""

    input_tokens: int = 0
    """All input tokens, those read from or written to the provider's prompt cache included."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that was read from the provider's prompt cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A Completion understood."""

    doc: dict[str, Json]
    """The answer as the provider's non-streaming JSON body."""
    ending: Ending
    reason: str
    """The provider's own word for the ending."""
    tool_calls: tuple[ToolCall, ...] = ()
    provider_tools: bool = False
    """The provider's own tools (web search, code execution, file search, connectors) took part."""
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflect:
    """The provider is never called."""

    completion: Completion
    reason: str
    usage: Usage = field(default_factory=Usage)
    """The tokens that the provider did not have to be paid for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend:
    """Go on with this body."""

    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Go on unchanged.  The reason is a metric label, never text of a prompt."""

    reason: str


type Verdict = Deflect | Amend | Pass


@runtime_checkable
class Layer(Protocol):
    """One deflection layer."""

    @property
    def name(self) -> str:
        """Metric label, option prefix and value of the ``x-promptweir-layer`` header."""
        ...

    @property
    def budget_s(self) -> float:
        """The time after which the walk goes on without this layer."""
        ...

    async def consider(self, prompt: Prompt) -> Verdict:
        """Decide about *prompt*."""
        ...

    async def learn(self, prompt: Prompt, completion: Completion) -> None:
        """Take in a whole 2xx answer, off the response path."""
        ...
