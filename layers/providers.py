"""The registry of LLM API hosts and paths, as data.

Only hosts named here (or added by ``promptweir_hosts``) are ever decrypted.  ``DOMAINS`` lists what the CA may sign
for: it is as narrow as the hosts allow, so that a stolen CA key is of no use against anything but LLM APIs.

Regions of clouds whose host names carry one are listed, because an X.509 name constraint knows subtrees only: the
subtree of ``amazonaws.com`` would cover every service there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from promptweir.layers.contract import Dialect


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: a short name and the hosts that serve its API; ``*`` in a host stands for one or more letters, digits, dots, dashes."""

    name: str
    hosts: tuple[str, ...]
    searches: bool = False
    """Every answer comes from a web search, so none is learned by default."""


_AWS_REGIONS = (
    "us-east-1 us-east-2 us-west-1 us-west-2 us-gov-east-1 us-gov-west-1 ca-central-1 ca-west-1 mx-central-1 sa-east-1 "
    "eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 il-central-1 "
    "me-central-1 me-south-1 af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 "
    "ap-south-2 ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-7"
).split()
_GOOGLE_REGIONS = (
    "us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west2 us-west3 us-west4 northamerica-northeast1 "
    "northamerica-northeast2 southamerica-east1 southamerica-west1 europe-central2 europe-north1 europe-southwest1 "
    "europe-west1 europe-west2 europe-west3 europe-west4 europe-west6 europe-west8 europe-west9 europe-west12 "
    "asia-east1 asia-east2 asia-northeast1 asia-northeast2 asia-northeast3 asia-south1 asia-south2 asia-southeast1 "
    "asia-southeast2 australia-southeast1 australia-southeast2 me-central1 me-central2 me-west1 africa-south1"
).split()

PROVIDERS: tuple[Provider, ...] = (
    Provider("anthropic", ("api.anthropic.com",)),
    Provider("openai", ("api.openai.com", "*.api.openai.com")),
    Provider("chatgpt", ("chatgpt.com",)),
    Provider("gemini", ("generativelanguage.googleapis.com",)),
    Provider(
        "vertex", ("aiplatform.googleapis.com", *(f"{region}-aiplatform.googleapis.com" for region in _GOOGLE_REGIONS))
    ),
    Provider("azure", ("*.openai.azure.com", "*.cognitiveservices.azure.com", "*.services.ai.azure.com")),
    Provider("bedrock", tuple(f"bedrock-runtime.{region}.amazonaws.com" for region in _AWS_REGIONS)),
    Provider("copilot", ("api.githubcopilot.com", "*.githubcopilot.com")),
    Provider("mistral", ("api.mistral.ai", "codestral.mistral.ai")),
    Provider("groq", ("api.groq.com",)),
    Provider("cerebras", ("api.cerebras.ai",)),
    Provider("nebius", ("api.studio.nebius.ai", "api.studio.nebius.com", "api.tokenfactory.nebius.com")),
    Provider("siliconflow", ("api.siliconflow.cn", "api.siliconflow.com")),
    Provider("fireworks", ("api.fireworks.ai",)),
    Provider("nvidia", ("integrate.api.nvidia.com",)),
    Provider("chutes", ("llm.chutes.ai",)),
    Provider("deepseek", ("api.deepseek.com",)),
    Provider("xai", ("api.x.ai", "*.api.x.ai")),
    Provider("cohere", ("api.cohere.com", "api.cohere.ai")),
    Provider("openrouter", ("openrouter.ai",)),
    Provider("perplexity", ("api.perplexity.ai",), searches=True),
    Provider("together", ("api.together.xyz", "api.together.ai")),
    Provider("moonshot", ("api.moonshot.ai", "api.moonshot.cn")),
    Provider("hyperbolic", ("api.hyperbolic.xyz",)),
    Provider("huggingface", ("router.huggingface.co", "api-inference.huggingface.co", "*.endpoints.huggingface.cloud")),
)

NATIVE = Provider("promptweir", ("promptweir.invalid",))
"""The gateway's own surface, ``POST /api/chat``."""

CUSTOM = "custom"
"""Name of the provider behind hosts that an option added."""


def domains_of(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return the DNS subtrees that cover *hosts*: a wildcard gives its suffix, a plain host itself."""
    return tuple(dict.fromkeys(host.removeprefix("*.") for host in hosts))


DOMAINS: tuple[str, ...] = domains_of([host for provider in PROVIDERS for host in provider.hosts])
"""What the CA is allowed to sign for."""


class Registry:
    """Looks up hosts and paths: the built-in ones plus those that the user added."""

    def __init__(self, extra_hosts: Sequence[str] = (), extra_paths: Mapping[str, Dialect] | None = None) -> None:
        self._extra_paths = dict(extra_paths or {})
        custom = (Provider(CUSTOM, tuple(extra_hosts)),) if extra_hosts else ()
        self._exact: dict[str, Provider] = {}
        self._wild: list[tuple[str, Provider]] = []
        for provider in (*PROVIDERS, *custom):
            for host in provider.hosts:
                if "*" in host:
                    self._wild.append((host, provider))
                else:
                    self._exact[host] = provider

    def provider_of(self, host: str) -> Provider | None:
        """Return the provider that serves *host* (any case, a trailing dot allowed), or None."""
        name = host.lower().rstrip(".")
        if found := self._exact.get(name):
            return found
        return next((provider for pattern, provider in self._wild if fnmatchcase(name, pattern)), None)

    def dialect_of(self, path: str) -> Dialect | None:
        """Return the dialect spoken on *path* (without its query), or None."""
        return self._extra_paths.get(path) or dialect_of(path)


_PATHS: tuple[tuple[re.Pattern[str], Dialect], ...] = tuple(
    (re.compile(pattern), dialect)
    for pattern, dialect in (
        (r"(?:/[\w.-]+)*/v1/messages", Dialect.ANTHROPIC_MESSAGES),
        (r"(?:/[\w.-]+)*/v1/messages/count_tokens", Dialect.ANTHROPIC_COUNT_TOKENS),
        (r"/model/[^/]*(?:anthropic|claude)[^/]*/invoke(?:-with-response-stream)?", Dialect.ANTHROPIC_MESSAGES),
        (r"/v1(?:beta\d*)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/[^/:]+:(?:streamR|r)awPredict", Dialect.ANTHROPIC_MESSAGES),
        (r"(?:/[\w.~-]+)*/chat/completions", Dialect.OPENAI_CHAT),
        (r"(?:/[\w.~-]+)*/responses", Dialect.OPENAI_RESPONSES),
        (r"(?:/[\w.~-]+)*/embeddings", Dialect.OPENAI_EMBEDDINGS),
        (r"/v\d\w*(?:/projects/[^/]+/locations/[^/]+/publishers/google)?/(?:models|tunedModels)/[^/:]+:(?:streamG|g)enerateContent", Dialect.GEMINI_GENERATE),
        (r"/v\d\w*(?:/projects/[^/]+/locations/[^/]+/publishers/google)?/(?:models|tunedModels)/[^/:]+:countTokens", Dialect.GEMINI_COUNT_TOKENS),
        (r"/api/(?:v1/)?chat", Dialect.NATIVE_CHAT),
    )
)  # fmt: skip


@lru_cache(maxsize=1024)
def dialect_of(path: str) -> Dialect | None:
    """Return the dialect spoken on *path* (without its query), or None: then the call is none of ours.

    A path with dot segments, empty segments or an encoded slash is never ours: what it means depends on who reads it.
    """
    if "//" in path or "/." in path or "%2f" in path.lower() or "%2e" in path.lower():
        return None
    return next((dialect for pattern, dialect in _PATHS if pattern.fullmatch(path)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the gateway sends a path."""

    provider: str
    host: str


def gateway_route_of(path: str, header_names: frozenset[str]) -> Route | None:
    """Return the provider that the gateway port means by *path*; *header_names* are lower case.

    ``/v1/models`` exists at Anthropic and at OpenAI: a client that sends ``anthropic-version`` means the former.
    """
    if "//" in path or "/." in path or "%2f" in path.lower() or "%2e" in path.lower():
        return None
    if path.startswith(("/v1beta/", "/v1alpha/")):
        return Route("gemini", "generativelanguage.googleapis.com")
    if path.startswith("/backend-api/codex/"):
        return Route("chatgpt", "chatgpt.com")
    if (
        path == "/v1/messages"
        or path.startswith("/v1/messages/")
        or (path.startswith("/v1/") and "anthropic-version" in header_names)
    ):
        return Route("anthropic", "api.anthropic.com")
    if path.startswith("/v1/"):
        return Route("openai", "api.openai.com")
    if dialect_of(path) is Dialect.NATIVE_CHAT:
        return Route(NATIVE.name, NATIVE.hosts[0])
    return None
