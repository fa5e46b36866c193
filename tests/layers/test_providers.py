"""Which hosts are decrypted and which paths are calls: those of LLM APIs, and no look-alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.contract import Dialect
from promptweir.layers.providers import (  # fmt: skip
    CUSTOM,
    DOMAINS,
    NATIVE,
    PROVIDERS,
    Registry,
    Route,
    dialect_of,
    domains_of,
    gateway_route_of,
)

REGISTRY = Registry()

HOSTS: dict[str, tuple[str, ...]] = {
    "anthropic": ("api.anthropic.com",),
    "openai": ("api.openai.com", "eu.api.openai.com", "us.api.openai.com"),
    "chatgpt": ("chatgpt.com",),
    "gemini": ("generativelanguage.googleapis.com",),
    "vertex": ("aiplatform.googleapis.com", "us-central1-aiplatform.googleapis.com", "europe-west4-aiplatform.googleapis.com"),
    "azure": ("my-resource.openai.azure.com", "x.cognitiveservices.azure.com", "x.services.ai.azure.com"),
    "bedrock": ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock-runtime.eu-central-1.amazonaws.com"),
    "copilot": ("api.githubcopilot.com", "api.individual.githubcopilot.com", "api.business.githubcopilot.com"),
    "mistral": ("api.mistral.ai", "codestral.mistral.ai"),
    "groq": ("api.groq.com",),
    "cerebras": ("api.cerebras.ai",),
    "nebius": ("api.studio.nebius.ai", "api.tokenfactory.nebius.com"),
    "siliconflow": ("api.siliconflow.cn", "api.siliconflow.com"),
    "fireworks": ("api.fireworks.ai",),
    "nvidia": ("integrate.api.nvidia.com",),
    "chutes": ("llm.chutes.ai",),
    "deepseek": ("api.deepseek.com",),
    "xai": ("api.x.ai", "us-east-1.api.x.ai"),
    "cohere": ("api.cohere.com", "api.cohere.ai"),
    "openrouter": ("openrouter.ai",),
    "perplexity": ("api.perplexity.ai",),
    "together": ("api.together.xyz", "api.together.ai"),
    "moonshot": ("api.moonshot.ai", "api.moonshot.cn"),
    "hyperbolic": ("api.hyperbolic.xyz",),
    "huggingface": ("router.huggingface.co", "api-inference.huggingface.co", "x.us-east-1.aws.endpoints.huggingface.cloud"),
}  # fmt: skip

LOOK_ALIKES = """
api.openai.com.evil.com xapi.openai.com api-openai.com api.openai.co openai.com www.openai.com platform.openai.com
evil-aiplatform.googleapis.com us-central1-aiplatform.googleapis.com.evil.com xaiplatform.googleapis.com
storage.googleapis.com oauth2.googleapis.com googleapis.com generativelanguage.googleapis.com.evil.com
xgenerativelanguage.googleapis.com
evilopenai.azure.com openai.azure.com x.openai.azure.com.evil.com azure.com login.microsoftonline.com management.azure.com
bedrock-runtime.evil.amazonaws.com bedrock-runtime.us-east-1.amazonaws.com.evil.com bedrock.us-east-1.amazonaws.com
s3.amazonaws.com sts.amazonaws.com bedrock-runtime.amazonaws.com x.bedrock-runtime.us-east-1.amazonaws.com
githubcopilot.com evilgithubcopilot.com api.githubcopilot.com.evil.com api.github.com github.com
api.anthropic.com.evil.com x.api.anthropic.com claude.ai console.anthropic.com anthropic.com
notchatgpt.com chatgpt.com.evil.com ab.chatgpt.com auth.openai.com
openrouter.ai.evil.com x.ai evilapi.x.ai endpoints.huggingface.cloud huggingface.co
localhost 127.0.0.1 ::1 10.0.0.1 example.com promptweir.invalid gateway.invalid
""".split()


def under(host: str, domain: str) -> bool:
    return host == domain or host.endswith("." + domain)


def test_every_provider_is_tested() -> None:
    assert {provider.name for provider in PROVIDERS} == HOSTS.keys()


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_providers_hosts_are_known_and_the_ca_may_sign_for_them(name: str) -> None:
    for host in HOSTS[name]:
        found = REGISTRY.provider_of(host)
        assert found is not None, host
        assert found.name == name
        assert any(under(host, domain) for domain in DOMAINS), host


def test_the_ca_may_sign_for_every_host_of_the_registry() -> None:
    for provider in PROVIDERS:
        for host in provider.hosts:
            assert any(under(host.replace("*", "x"), domain) for domain in DOMAINS), host


@pytest.mark.parametrize("host", LOOK_ALIKES)
def test_a_look_alike_is_none_of_ours(host: str) -> None:
    assert REGISTRY.provider_of(host) is None


@pytest.mark.parametrize(
    "host", "evil.com openai.com googleapis.com storage.googleapis.com amazonaws.com s3.amazonaws.com azure.com github.com "
    "anthropic.com claude.ai com ai huggingface.co bedrock-runtime.evil.amazonaws.com".split(),
)  # fmt: skip
def test_the_ca_may_not_sign_for_anything_else(host: str) -> None:
    assert not any(under(host, domain) for domain in DOMAINS)


def test_case_and_a_trailing_dot_do_not_matter() -> None:
    assert REGISTRY.provider_of("API.OpenAI.com.") is REGISTRY.provider_of("api.openai.com")


def test_hosts_can_be_added() -> None:
    registry = Registry(["llm.example.com", "*.corp.example"])

    for host in ("llm.example.com", "a.corp.example", "a.b.corp.example"):
        found = registry.provider_of(host)
        assert found is not None
        assert found.name == CUSTOM
    for host in ("example.com", "x.llm.example.com", "corp.example", "evilcorp.example", "a.corp.example.evil.com"):
        assert registry.provider_of(host) is None
    assert domains_of(["llm.example.com", "*.corp.example", "llm.example.com"]) == ("llm.example.com", "corp.example")


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([host for hosts in HOSTS.values() for host in hosts]),
    st.text("abcxyz019-.", min_size=1, max_size=12),
)
def test_what_the_ca_may_not_sign_for_is_never_decrypted(host: str, more: str) -> None:
    for name in (more + host, host + more, f"{host}.{more}", f"{more}.{host}"):
        if REGISTRY.provider_of(name) is not None:
            assert any(under(name.rstrip("."), domain) for domain in DOMAINS), name


PATHS: dict[Dialect, tuple[str, ...]] = {
    Dialect.ANTHROPIC_MESSAGES: (
        "/v1/messages",
        "/anthropic/v1/messages",
        "/api/anthropic/v1/messages",
        "/model/anthropic.claude-sonnet-4-5-20250929-v1:0/invoke",
        "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke-with-response-stream",
        "/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict",
        "/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict",
    ),
    Dialect.ANTHROPIC_COUNT_TOKENS: ("/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"),
    Dialect.OPENAI_CHAT: (
        "/v1/chat/completions",
        "/chat/completions",
        "/api/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions",
        "/inference/v1/chat/completions",
    ),
    Dialect.OPENAI_RESPONSES: (
        "/v1/responses",
        "/responses",
        "/backend-api/codex/responses",
        "/openai/responses",
        "/openai/v1/responses",
    ),
    Dialect.OPENAI_EMBEDDINGS: ("/v1/embeddings", "/openai/deployments/e/embeddings"),
    Dialect.GEMINI_GENERATE: (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        "/v1beta/tunedModels/x:generateContent",
        "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
        "/v1beta1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
    ),
    Dialect.GEMINI_COUNT_TOKENS: ("/v1beta/models/gemini-2.5-flash:countTokens",),
    Dialect.NATIVE_CHAT: ("/api/chat", "/api/v1/chat"),
}
NOT_OURS = """
/ /v1 /v1/models /v1/messages/ /v1/messages/batches /v1/messages/batches/x /v1/messages/count_tokens/ /v1/message
/v2/messages/x /v1/files /v1/batches /v1/images/generations /v1/audio/speech /v1/audio/transcriptions /v1/realtime
/v1/responses/resp_1 /v1/responses/resp_1/input_items /v1/responses/resp_1/cancel /v1/responses/compact /v1/conversations
/v1/chat/completions/chatcmpl-1 /v1/completions /v1/assistants /v1/vector_stores /v1/moderations /v1/fine_tuning/jobs
/v1/chat/completionsx /xv1/messages /v1/embeddings/ /backend-api/conversation
/v1beta/models /v1beta/models/gemini-x /v1beta/models/gemini-x:batchGenerateContent /v1beta/models/gemini-x:embedContent
/v1beta/models/gemini-x:predict /v1beta/models/a:b:generateContent /v1beta/models/a/b:generateContent
/v1beta/models/gemini-x%3AgenerateContent /v1beta/cachedContents /upload/v1beta/files /models/gemini-x:generateContent
/model/meta.llama3/invoke /model/anthropic.claude/converse /model/anthropic.claude/x/invoke /guardrail/x/apply
/api/chatx /api/chat/ /xapi/chat /api/v2/chat
/../v1/messages /v1/./messages /x/../v1/messages /v1/../v1/messages //v1/messages /v1//messages /v1/messages//
/v1%2fmessages /v1%2Fmessages /%2e%2e/v1/messages /x/%2E%2E/v1/messages /x/..;/v1/messages /.well-known/v1/messages
/V1/Messages /v1/messages; /v1/messages;x /v1/messages%20 /v1/messages%00 /v1/messages#x /v1\\messages
v1/messages * https://api.openai.com/v1/chat/completions
""".split()


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_dialect_is_recognised_by_its_paths(dialect: Dialect) -> None:
    for path in PATHS[dialect]:
        assert dialect_of(path) is dialect, path


@pytest.mark.parametrize("path", [*NOT_OURS, "", "/v1/messages\n", "/v1/messages ", "/v1/messages?x", "/v1/mess\0ages"])
def test_any_other_path_is_none_of_ours(path: str) -> None:
    assert dialect_of(path) is None


def test_paths_can_be_added_and_take_nothing_away() -> None:
    registry = Registry(extra_paths={"/llm/chat": Dialect.OPENAI_CHAT})

    assert registry.dialect_of("/llm/chat") is Dialect.OPENAI_CHAT
    assert registry.dialect_of("/v1/messages") is Dialect.ANTHROPIC_MESSAGES
    assert registry.dialect_of("/llm/chat/x") is None
    assert REGISTRY.dialect_of("/llm/chat") is None


GATEWAY: list[tuple[str, set[str], Route | None]] = [
    ("/v1/messages", set(), Route("anthropic", "api.anthropic.com")),
    ("/v1/messages/count_tokens", set(), Route("anthropic", "api.anthropic.com")),
    ("/v1/models", {"anthropic-version"}, Route("anthropic", "api.anthropic.com")),
    ("/v1/models", set(), Route("openai", "api.openai.com")),
    ("/v1/chat/completions", set(), Route("openai", "api.openai.com")),
    ("/v1/responses/resp_1", set(), Route("openai", "api.openai.com")),
    ("/v1beta/models/x:generateContent", set(), Route("gemini", "generativelanguage.googleapis.com")),
    ("/v1beta/models/x:generateContent", {"anthropic-version"}, Route("gemini", "generativelanguage.googleapis.com")),
    ("/backend-api/codex/responses", set(), Route("chatgpt", "chatgpt.com")),
    ("/api/chat", set(), Route(NATIVE.name, NATIVE.hosts[0])),
    ("/api/v1/chat", set(), Route(NATIVE.name, NATIVE.hosts[0])),
    ("/", set(), None),
    ("/v1", set(), None),
    ("/v1messages", set(), None),
    ("/backend-api/conversation", set(), None),
    ("/v1/../backend-api/conversation", set(), None),
    ("/v1//messages", set(), None),
    ("/v1/%2e%2e/x", set(), None),
    ("/v1/x%2Fy", set(), None),
    ("/api/chat/completions/x", set(), None),
]


@pytest.mark.parametrize(("path", "headers", "route"), GATEWAY)
def test_the_gateway_tells_the_provider_by_the_path(path: str, headers: set[str], route: Route | None) -> None:
    assert gateway_route_of(path, frozenset(headers)) == route


def test_only_search_engines_are_marked_as_searching() -> None:
    assert [provider.name for provider in PROVIDERS if provider.searches] == ["perplexity"]
