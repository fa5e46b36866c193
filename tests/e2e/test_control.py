"""What a client may ask of the cache, who is who, and what the proxy refuses: one call at a time."""

import base64
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from promptweir.cli.standin import StandIn
from tests.e2e import harness
from tests.e2e.counting import Calls
from tests.e2e.harness import PLAIN_HOST, Proxy, promptweir
from tests.e2e.scripted import Put, Script
from tests.e2e.talk import Raw, ask, client, read_until, trusting, tunnel

CHAT = "https://api.openai.com/v1/chat/completions"
MESSAGES = "https://api.anthropic.com/v1/messages"
RESPONSES = "https://chatgpt.com/backend-api/codex/responses"


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx.Client]:
    with client(proxy) as found:
        yield found


def chat(text: str = "Why?", *, model: str = "gpt-next") -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()


def bearer(key: str, **more: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {"authorization": f"Bearer {key}", "content-type": "application/json", **named}


# --- x-promptweir-cache


def test_bypass_neither_looks_nor_learns(calls: Calls, http: httpx.Client, key: str) -> None:
    with calls.cold(2):
        ask(http, CHAT, chat(), bearer(key, x_promptweir_cache="bypass"))
        ask(http, CHAT, chat(), bearer(key, x_promptweir_cache="bypass"))
    with calls.cold() as block:
        learned = ask(http, CHAT, chat(), bearer(key))  # nothing had been learned
    with calls.cold():
        passed = ask(http, CHAT, chat(), bearer(key, x_promptweir_cache="Bypass"))  # although now it has

    assert (learned.deflected, passed.deflected) == (False, False)
    assert "x-promptweir-cache" not in dict(block.seen[0].headers)


def test_refresh_puts_a_new_answer_in_the_place_of_the_old(calls: Calls, http: httpx.Client, put: Put) -> None:
    def answer(text: str) -> Script:
        message = {"role": "assistant", "content": text}
        doc = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        doc |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}
        return put(Script(chunks=(json.dumps(doc).encode(),), headers=(("content-type", "application/json"),)))

    def asked(**more: str) -> str:
        url = f"https://{PLAIN_HOST}/openai/v1/chat/completions"
        with calls.warm():  # none of these goes to the stand-in
            found = ask(http, url, chat(), bearer(put.name, x_script=put.name, **more))
        text: str = json.loads(found.body)["choices"][0]["message"]["content"]
        return text

    answer("old")
    first = asked()
    answer("new")
    kept, refreshed, after = asked(), asked(x_promptweir_cache="refresh"), asked()

    assert (first, kept, refreshed, after) == ("old", "old", "new", "new")


def test_only_answers_from_the_cache_or_not_at_all(calls: Calls, http: httpx.Client, key: str) -> None:
    reached = len(calls.provider.calls)
    miss = ask(http, CHAT, chat(), bearer(key, x_promptweir_cache="only"))
    assert len(calls.provider.calls) == reached
    with calls.cold():
        ask(http, CHAT, chat(), bearer(key))
    with calls.warm():
        hit = ask(http, CHAT, chat(), bearer(key, x_promptweir_cache="only"))

    assert (miss.status, hit.status, hit.deflected) == (504, 200, True)


def test_a_504_of_ours_reads_as_an_error_of_the_provider_s_in_every_sdk(own: Proxy, key: str) -> None:
    only = {"x-promptweir-cache": "only"}
    web = {"proxy": own.url, "verify": trusting(own.ca), "trust_env": False}
    gpt = openai.OpenAI(api_key=key, max_retries=0, http_client=openai.DefaultHttpxClient(**web))  # type: ignore[arg-type]
    with gpt, pytest.raises(openai.APIStatusError, match="only forbids") as from_openai:
        gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], extra_headers=only)
    their_web = anthropic.DefaultHttpxClient(**web)  # type: ignore[arg-type]
    claude = anthropic.Anthropic(api_key=key, max_retries=0, http_client=their_web)
    with claude, pytest.raises(anthropic.APIStatusError, match="only forbids") as from_anthropic:
        claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}], extra_headers=only)
    gemini = genai.Client(api_key=key, http_options=types.HttpOptions(headers=only, client_args=web))
    with pytest.raises(genai.errors.ServerError, match="only forbids") as from_google:
        gemini.models.generate_content(model="m", contents="x")

    assert (from_openai.value.status_code, from_anthropic.value.status_code, from_google.value.code) == (504, 504, 504)


# --- purge, age, restart


def test_purge_takes_effect_while_the_proxy_runs(calls: Calls, http: httpx.Client, key: str) -> None:
    gone, kept = f"gone-{secrets.token_hex(4)}", f"kept-{secrets.token_hex(4)}"
    with calls.cold(2):
        ask(http, CHAT, chat(model=gone), bearer(key))
        ask(http, CHAT, chat(model=kept), bearer(key))
    with calls.warm(2):
        ask(http, CHAT, chat(model=gone), bearer(key))
        ask(http, CHAT, chat(model=kept), bearer(key))

    said = promptweir("cache", "purge", "--model", gone, "--state", str(calls.proxy.state))

    assert "deleted 1 answers" in said
    with calls.cold():
        ask(http, CHAT, chat(model=gone), bearer(key))
    with calls.warm():
        ask(http, CHAT, chat(model=kept), bearer(key))


@pytest.mark.slow
def test_a_restart_keeps_the_cache_and_an_answer_grown_old_is_not_served(
    tmp_path: Path, options: dict[str, str], own: Proxy, standin: StandIn, key: str
) -> None:
    state, ca = tmp_path / "state", own.state / "ca"

    def run(more: dict[str, str]) -> Iterator[tuple[Calls, httpx.Client]]:
        with harness.own(state, options | more, ca=ca) as proxy, client(proxy) as http:
            yield Calls(proxy, standin), http

    for calls, http in run({}):
        with calls.cold():
            first = ask(http, CHAT, chat(), bearer(key))
    for calls, http in run({}):
        with calls.warm():
            second = ask(http, CHAT, chat(), bearer(key))
    for calls, http in run({"promptweir_l1a_ttl_s": "2", "promptweir_tenant_shared": "true"}):
        with calls.cold():
            ask(http, CHAT, chat(), bearer(key))  # shared: another tenant
        began = time.monotonic()
        with calls.some(1, reaching=0):
            ask(http, CHAT, chat(), bearer("sk-another-key-of-the-same-person"))
        if time.monotonic() - began > 1.5:
            pytest.skip("the machine is too slow to tell young from old")
        time.sleep(2.1)
        with calls.cold():
            ask(http, CHAT, chat(), bearer(key))
    for calls, http in run({"promptweir_l1a_ttl_s": "1"}):
        with calls.cold():
            ask(http, CHAT, chat(), bearer(key))  # learned before under a longer limit

    assert json.loads(first.body)["choices"] == json.loads(second.body)["choices"]


# --- WebSocket


@pytest.mark.parametrize(
    ("host", "path"), [("api.openai.com", "/v1/responses"), ("chatgpt.com", "/backend-api/codex/responses")]
)
def test_codex_is_told_to_use_post_and_may_do_so_on_the_same_connection(
    proxy: Proxy, standin: StandIn, key: str, host: str, path: str
) -> None:
    body = json.dumps({"model": "gpt-next", "input": "hello", "store": False}).encode()
    upgrade = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    post = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reached = len(standin.calls)

    with tunnel(proxy, f"{host}:443", context=trusting(proxy.ca), sni=host) as link:
        link.sendall(upgrade.encode())
        refusal = read_until(link, b"}}")
        none_yet = len(standin.calls) - reached
        link.sendall(post.encode() + body)
        answer = read_until(link, b"}")

    assert refusal.startswith(b"HTTP/1.1 426 ")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (none_yet, len(standin.calls) - reached) == (0, 1)


def test_a_websocket_passes_where_the_option_says_so(guarded: Proxy, put: Put) -> None:
    script = put(Script(chunks=(b"no, thank you",), status=403, framing="length"))
    upgrade = (
        f"GET /v1/responses HTTP/1.1\r\nHost: {PLAIN_HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-script: {put.name}\r\n\r\n"
    )
    with tunnel(guarded, f"{PLAIN_HOST}:443", context=trusting(guarded.ca), sni=PLAIN_HOST) as link:
        link.sendall(upgrade.encode())
        answer = read_until(link, script.body)

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert ("upgrade", "websocket") in script.received[0].headers


# --- tenants


def test_nobody_gets_another_s_answer(calls: Calls, http: httpx.Client, key: str) -> None:
    other = key + "-of-another"
    callers: list[dict[str, str]] = [
        bearer(key),
        bearer(other),
        {"content-type": "application/json", "api-key": key},
        {"content-type": "application/json", "x-api-key": key},
        {"content-type": "application/json", "cookie": f"session={key}"},
        bearer(key, openai_organization="org-1"),
        bearer(key, openai_project="proj-1"),
    ]
    for caller in callers:
        with calls.cold():
            ask(http, CHAT, chat(), caller)
    for caller in callers:
        with calls.warm():
            ask(http, CHAT, chat(), caller)
    with calls.cold():
        ask(http, f"{CHAT}?key={other}", chat(), bearer(key))


def claude_body(user_id: str, text: str = "Why?", tool: str = "") -> bytes:
    doc: dict[str, object] = {"model": "claude-next", "max_tokens": 500}
    doc |= {"metadata": {"user_id": user_id}, "messages": [{"role": "user", "content": text}]}
    if tool:
        schema = {"type": "object", "properties": {"command": {"type": "string"}, "file_path": {"type": "string"}}}
        doc["tools"] = [{"name": tool, "input_schema": schema}]
    return json.dumps(doc).encode()


def claude_user(account: str, session: str = "") -> str:
    session = session or "00000000-0000-4000-8000-000000000001"
    return json.dumps({"device_id": "d" * 64, "account_uuid": account, "session_id": session})


def claude_user_of_old(account: str) -> str:
    return f"user_{'d' * 64}_account_{account}_session_00000000-0000-4000-8000-000000000002"


def uuid(key: str) -> str:
    """Return an account's id that no other test has."""
    digits = key[-24:] + "00000000"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def jwt(subject: str, issued: int) -> str:
    def part(claims: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    return ".".join([part({"alg": "none"}), part({"iss": "https://id", "sub": subject, "iat": issued}), "c2ln"])


def test_a_refreshed_token_of_the_same_claude_account_keeps_the_cache(
    calls: Calls, http: httpx.Client, key: str
) -> None:
    account, other = uuid(key), uuid(key[::-1])
    with calls.cold():
        ask(http, MESSAGES, claude_body(claude_user(account)), bearer(f"sk-ant-oat01-{key}"))
    with calls.warm(2):
        ask(http, MESSAGES, claude_body(claude_user(account)), bearer(f"sk-ant-oat01-{key}-refreshed"))
        ask(http, MESSAGES, claude_body(claude_user_of_old(account)), bearer(f"sk-ant-oat01-{key}-again"))
    with calls.cold(2):
        ask(http, MESSAGES, claude_body(claude_user(other)), bearer(f"sk-ant-oat01-{key}"))
        # An API key is an identity of its own, whatever account the body claims.
        ask(http, MESSAGES, claude_body(claude_user(account)), {"x-api-key": f"sk-ant-api03-{key}"})


def test_a_refreshed_token_of_the_same_chatgpt_account_keeps_the_cache(
    calls: Calls, http: httpx.Client, key: str
) -> None:
    body = json.dumps({"model": "gpt-next", "input": "Why?", "store": False}).encode()
    with calls.cold():
        ask(http, RESPONSES, body, bearer(jwt(key, 1), chatgpt_account_id=key))
    with calls.warm():
        ask(http, RESPONSES, body, bearer(jwt(key, 2), chatgpt_account_id=key))
    with calls.cold(2):
        ask(http, RESPONSES, body, bearer(jwt(key, 2), chatgpt_account_id=key + "-another"))
        ask(http, RESPONSES, body, bearer(jwt(key + "-another", 2), chatgpt_account_id=key))


def test_a_refreshed_web_token_of_the_same_subject_keeps_the_cache(calls: Calls, http: httpx.Client, key: str) -> None:
    with calls.cold():
        ask(http, CHAT, chat(), bearer(jwt(key, 1)))
    with calls.warm():
        ask(http, CHAT, chat(), bearer(jwt(key, 2)))
    with calls.cold():
        ask(http, CHAT, chat(), bearer(jwt(key + "-another", 1)))


def test_a_claimed_account_counts_once_the_provider_has_accepted_the_token(
    guarded: Proxy, standin: StandIn, key: str
) -> None:
    """Else anybody who can reach the proxy could read an account's answers by naming it."""
    calls = Calls(guarded, standin)

    def asked(text: str) -> bytes:
        return json.dumps({"model": "gpt-next", "input": text, "store": False}).encode()

    def token(number: int) -> dict[str, str]:
        return bearer(jwt(key, number), chatgpt_account_id=key)

    with client(guarded) as http:
        with calls.cold():
            ask(http, RESPONSES, asked("Who am I?"), token(1))
        with calls.cold():
            ask(http, RESPONSES, asked("Why?"), token(1))
        for _ in range(2):
            with calls.cold():
                refused = ask(http, RESPONSES, asked("Why?"), {**token(2), "x-standin-mode": "401"})
        with calls.cold():
            ask(http, RESPONSES, asked("And who am I now?"), token(3))
        with calls.warm():
            ask(http, RESPONSES, asked("Why?"), token(3))
        with calls.cold():
            ask(http, RESPONSES, asked("Why?"), {**token(2), "x-standin-mode": "401"})

    assert refused.status == 401


def test_an_account_that_the_provider_never_checks_is_not_believed_where_proof_is_wanted(
    guarded: Proxy, standin: StandIn, key: str
) -> None:
    """Claude's account stands in the body, of which Anthropic takes no notice."""
    calls, body = Calls(guarded, standin), claude_body(claude_user(uuid(key)))
    with client(guarded) as http:
        for token in ("one", "two"):
            with calls.cold():
                ask(http, MESSAGES, body, bearer(f"sk-ant-oat01-{key}-{token}"))
            with calls.warm():
                ask(http, MESSAGES, body, bearer(f"sk-ant-oat01-{key}-{token}"))


# --- repeats in one session


def test_retries_in_one_session_are_served_and_a_loop_is_let_through_and_flagged(
    calls: Calls, http: httpx.Client, key: str
) -> None:
    body, session = claude_body("u"), {"x-api-key": key, "x-claude-code-session-id": f"session-{key}"}
    with calls.cold():
        ask(http, MESSAGES, body, session)
    with calls.warm(2):
        ask(http, MESSAGES, body, session)
        ask(http, MESSAGES, body, session)
    with calls.cold():
        looping = ask(http, MESSAGES, body, session)
    row = calls.proxy.recent(1)[0]
    with calls.warm(4):
        ask(http, MESSAGES, body, {**session, "x-claude-code-session-id": f"another-{key}"})
        for _ in range(3):
            ask(http, MESSAGES, body, {"x-api-key": key})  # nobody knows whether that is one session

    assert (looping.deflected, row.reason) == (False, "loop")


def test_mitmproxy_s_own_tools_show_the_verdict_on_the_flow(stock: Proxy, standin: StandIn, key: str) -> None:
    assert stock.marks is not None
    calls, session = Calls(stock, standin), {"x-api-key": key, "x-claude-code-session-id": key}
    with client(stock) as http:
        for wanted in (calls.cold, calls.warm, calls.warm, calls.cold):
            with wanted():
                ask(http, MESSAGES, claude_body("marks"), session)

    shown = [json.loads(line) for line in stock.marks.read_text().splitlines()][-4:]
    assert [line["marked"] for line in shown] == ["", ":zap:", ":zap:", ":repeat:"]
    assert [line["comment"].rpartition(" ")[2] for line in shown] == ["miss", "hit", "hit", "loop"]


def test_a_tool_call_that_changes_something_is_not_replayed_into_the_same_session(
    guarded: Proxy, standin: StandIn, key: str
) -> None:
    """Unless the client says that it retries; in another session it is a rerun, and served."""
    calls, session = Calls(guarded, standin), {"x-api-key": key, "x-claude-code-session-id": f"one-{key}"}
    changing = claude_body("u", "Please run `touch notes`", "Bash")
    reading = claude_body("u", "What does greet in hello.py do?", "Read")
    with client(guarded) as http:
        with calls.cold(2):
            ask(http, MESSAGES, changing, session)
            ask(http, MESSAGES, reading, session)
        with calls.warm(3):
            ask(http, MESSAGES, reading, session)
            ask(http, MESSAGES, changing, {**session, "x-stainless-retry-count": "1"})
            ask(http, MESSAGES, changing, {**session, "x-claude-code-session-id": f"two-{key}"})
        with calls.cold():
            answer = ask(http, MESSAGES, changing, {**session, "x-claude-code-session-id": f"two-{key}"})

    assert b"touch notes" in answer.body


def test_what_the_record_says_is_what_happened(own: Proxy, standin: StandIn, key: str) -> None:
    calls = Calls(own, standin)
    before = json.loads(promptweir("stats", "--json", "--state", str(own.state)))
    answers: list[Raw] = []
    with client(own) as http:
        for wanted in (calls.cold, calls.warm):
            with wanted():
                answers.append(ask(http, CHAT, chat(), bearer(key)))
    after = json.loads(promptweir("stats", "--json", "--state", str(own.state)))

    grown = {name: after[name] - before[name] for name in ("calls", "deflected", "provider_calls")}
    assert grown == {"calls": 2, "deflected": 1, "provider_calls": 1}
    assert after["layers"]["l1a"] - before["layers"].get("l1a", 0) == 1
    assert [answer.deflected for answer in answers] == [False, True]
