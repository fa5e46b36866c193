"""Every way in: the gateway port, behind a company's proxy, and as a proxy that nobody sees."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
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
from tests.e2e.harness import ROOT, Proxy, bare_environment, mitmdump
from tests.e2e.talk import ask, async_client, client

SCENARIO_WAIT_S = 110.0
MESSAGES = "https://api.anthropic.com/v1/messages"


def message(text: str, *, stream: bool = False) -> bytes:
    doc = {"model": "claude-next", "max_tokens": 500, "messages": [{"role": "user", "content": text}]}
    return json.dumps(doc | ({"stream": True} if stream else {})).encode()


# --- the gateway


@pytest.fixture
def gateway(proxy: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.gateway, trust_env=False, timeout=30) as found:
        yield found


def test_the_sdks_work_with_the_gateway_as_base_url(calls: Calls, key: str) -> None:
    gateway, user = calls.proxy.gateway, "Why is the sky blue?"
    options = types.HttpOptions(base_url=gateway)

    def everyone() -> list[object]:
        with (
            openai.OpenAI(api_key=key, base_url=f"{gateway}/v1", max_retries=0) as gpt,
            anthropic.Anthropic(api_key=key, base_url=gateway, max_retries=0) as claude,
        ):
            gemini = genai.Client(api_key=key, http_options=options)
            turn = {"role": "user", "content": user}
            streamed = gpt.chat.completions.create(model="gpt-next", messages=[turn], stream=True)  # type: ignore[list-item]
            return [
                "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices),  # type: ignore[union-attr]
                gpt.responses.create(model="gpt-next", input=user).output_text,
                claude.messages.create(model="claude-next", max_tokens=99, messages=[turn]).content[0].text,  # type: ignore[list-item, union-attr]
                gemini.models.generate_content(model="gemini-next", contents=user).text,
            ]

    with calls.cold(4):
        first = everyone()
    with calls.warm(4):
        second = everyone()

    assert first == second
    assert all(str(text).startswith("Answer ") for text in first)


def test_the_path_decides_on_the_provider(gateway: httpx.Client, standin: StandIn, key: str) -> None:
    versioned = {"anthropic-version": "2023-06-01"}
    wanted: list[tuple[str, dict[str, str], str]] = [
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages/count_tokens", {}, "anthropic"),
        ("/v1/chat/completions", {}, "openai"),
        ("/v1/responses", {}, "openai"),
        ("/v1/embeddings", {}, "openai"),
        ("/v1beta/models/gemini-next:generateContent", {}, "gemini"),
        ("/v1beta/models/gemini-next:streamGenerateContent?alt=sse", {}, "gemini"),
        ("/backend-api/codex/responses", {}, "chatgpt"),
    ]
    doc = {"model": "m", "max_tokens": 9, "input": "x", "store": False}
    doc |= {"messages": [{"role": "user", "content": "x"}], "contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    for path, headers, provider in wanted:
        bypass = {"authorization": f"Bearer {key}", "x-promptweir-cache": "bypass"}
        answer = gateway.post(path, json=doc, headers={**bypass, **headers})

        assert answer.status_code == 200, path
        assert answer.headers["x-promptweir-provider"] == provider
        assert standin.calls[-1].path == path.partition("?")[0]
    models = [gateway.get("/v1/models", headers=headers) for headers in ({}, versioned)]

    assert [answer.status_code for answer in models] == [200, 200]
    assert models[0].json()["data"]
    assert standin.calls[-1].path == "/v1/models"


def test_the_gateway_and_the_proxy_share_one_cache(calls: Calls, gateway: httpx.Client, key: str) -> None:
    body = message(f"shared {key}")
    with calls.cold(), client(calls.proxy) as http:
        through_proxy = ask(http, MESSAGES, body, {"x-api-key": key})
    with calls.warm():
        through_gateway = gateway.post("/v1/messages", content=body, headers={"x-api-key": key})

    assert through_gateway.json()["content"] == json.loads(through_proxy.body)["content"]


@pytest.mark.parametrize(("model", "provider"), [("", "openai"), ("claude-next", "anthropic"), ("gemini-x", "gemini")])
def test_the_native_call_is_answered_cold_and_warm(
    calls: Calls, gateway: httpx.Client, key: str, model: str, provider: str
) -> None:
    body = {"prompt": "Why is the sky blue?"} | ({"model": model} if model else {})
    headers = {"authorization": f"Bearer {key}"}
    with calls.cold() as block:
        cold = gateway.post("/api/chat", json=body, headers=headers)
    with calls.warm():
        warm = gateway.post("/api/chat", json=body, headers=headers)

    (asked,) = block.seen
    credential = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}[provider]
    assert key in dict(asked.headers)[credential]
    assert (cold.json()["layer"], warm.json()["layer"]) == ("l3", "l1a")
    assert cold.json()["message"] == warm.json()["message"]
    assert cold.json()["message"].endswith("to: Why is the sky blue?")


@pytest.mark.parametrize(
    "body",
    [b'{"prompt": 7}', b"not JSON", b'{"model": "llama", "messages": [{"role": "user", "content": "x"}]}', b"[]"],
    ids=["a number", "no JSON", "another protocol", "a list"],
)
def test_a_native_call_that_is_none_gets_a_400_that_says_why(
    gateway: httpx.Client, standin: StandIn, body: bytes
) -> None:
    reached = len(standin.calls)
    answer = gateway.post("/api/chat", content=body)

    assert answer.status_code == 400
    assert "native call" in answer.json()["error"]["message"]
    assert len(standin.calls) == reached


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/v2/x",
        "/v1",
        "/v1/messages/../models",
        "/v1//messages",
        "/v1/%2e%2e/x",
        "/v1/messages%2fx",
        "/.env",
    ],
)
def test_a_path_that_belongs_to_no_provider_is_a_404_and_goes_nowhere(
    proxy: Proxy, standin: StandIn, path: str
) -> None:
    """Sent as it stands: a client library would tidy it up."""
    reached = len(standin.calls)
    with socket.create_connection(("127.0.0.1", proxy.gateway_port or 0), timeout=20) as link:
        link.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"no provider" in answer
    assert len(standin.calls) == reached


def test_the_gateway_says_what_it_is(gateway: httpx.Client) -> None:
    assert gateway.get("/").json() == {"service": "promptweir"}


# --- behind a company's proxy


@contextlib.contextmanager
def behind(kind: str, company: int, folder: Path, options: dict[str, str], ca: Path) -> Iterator[Proxy]:
    mode = f"upstream:http://127.0.0.1:{company}"
    if kind == "own":
        with harness.own(folder / "state", options, ca=ca, words=("--mode", mode)) as proxy:
            yield proxy
    else:
        with harness.stock(folder, options, mode=mode) as proxy:
            yield proxy


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "stock"])
async def test_behind_a_company_s_proxy_misses_go_through_it_and_hits_need_nobody(
    kind: str, tmp_path: Path, options: dict[str, str], standin: StandIn, own: Proxy, key: str
) -> None:
    headers = {"x-api-key": key, "x-standin-mode": "trickle:0.02"}
    sentence = f"POST {standin.origin}/v1/messages"
    with contextlib.ExitStack() as company:
        port, seen = company.enter_context(mitmdump(tmp_path / "company"))
        with behind(kind, port, tmp_path, options, own.state / "ca") as proxy:
            calls = Calls(proxy, standin)
            async with async_client(proxy) as http:
                with calls.cold():
                    async with http.stream(
                        "POST", MESSAGES, content=message("company", stream=True), headers=headers
                    ) as answer:
                        cold = b"".join([piece async for piece in answer.aiter_raw()])
                went_through = sum(sentence in line for line in seen)
                company.close()
                with calls.warm():
                    warm = await http.post(MESSAGES, content=message("company", stream=True), headers=headers)
                lost = await http.post(MESSAGES, content=message("another"), headers=headers)

    assert went_through == 1
    assert cold.count(b"event: content_block_delta") == warm.content.count(b"event: content_block_delta") > 1
    assert warm.headers["x-promptweir-layer"] == "l1a"
    assert lost.status_code == 502


# --- transparent


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of its own, with two addresses that stand for the internet."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a network namespace takes Linux and root")
    for tool in ("ip", "iptables"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    name = f"promptweir-{secrets.token_hex(3)}"
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "set", "lo", "up"],
        ["ip", "-n", name, "addr", "add", "203.0.113.1/32", "dev", "lo"],
        ["ip", "-n", name, "addr", "add", "203.0.113.2/32", "dev", "lo"],
        ["ip", "netns", "exec", name, "iptables", "-t", "nat", "-L"],
    ]
    try:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "stock"])
def test_a_client_that_knows_of_no_proxy_is_served_and_other_hosts_are_left_alone(
    namespace: str, kind: str, tmp_path: Path
) -> None:
    """See transparent_scenario.py, which runs inside the namespace."""
    done = subprocess.run(
        [
            *("ip", "netns", "exec", namespace, sys.executable, "-P", "-m", "tests.e2e.transparent_scenario"),
            *(kind, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=SCENARIO_WAIT_S,
        cwd=ROOT,
        env=bare_environment(PYTHONPATH=str(ROOT)),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    assert found["cold"]["text"] == found["warm"]["text"]
    assert (found["cold"]["deflected"], found["warm"]["deflected"]) == ("false", "true")
    assert found["provider_calls"] == 1
    assert found["other_host_untouched"]
    assert found["no_name_untouched"]
