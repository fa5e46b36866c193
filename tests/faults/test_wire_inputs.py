"""Odd but legal ways to put a request on the wire, and paths that two readers could read differently."""

import asyncio
import hashlib
import json
import threading

import pytest

from tests.faults.client import ANTHROPIC, CHAT, MESSAGES, OPENAI, Client, fresh, head_of, question
from tests.faults.provider import Exchange, Provider, chat
from tests.faults.proxy import Proxy


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_head_that_expects_100_continue_gets_it_and_then_the_answer(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        client.send(head_of(OPENAI, body, case=case, headers=[("expect", "100-continue")]))
        assert client.head()[0] == 100
        client.send(body)
        assert client.reply().status == 200
        client.send(head_of(OPENAI, body, case=case, headers=[("expect", "100-continue")]) + body)
        assert client.head()[0] == 100
        assert client.reply().deflected
    assert [one.sha256 for one in provider.asked(case)] == [_sha256(body)]


def test_a_client_of_http_1_0_gets_a_miss_and_a_hit(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case)
    replies = []
    for _ in range(2):
        with proxy.connect() as client:
            client.send(head_of(OPENAI, body, case=case, version="1.0") + body)
            replies.append(client.reply())
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[1].deflected
    assert len(provider.asked(case)) == 1


def test_a_client_of_http_1_0_follows_a_stream_in_flight_and_hits_one(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case, stream=True)
    bodies = []
    for version in ("1.1", "1.0", "1.0"):
        with proxy.connect() as client:
            client.send(head_of(OPENAI, body, case=case, version=version) + body)
            reply = client.reply()
            assert reply.framing in ({"chunked"} if version == "1.1" else {"close", "length"})
            bodies.append(reply.body)
    assert all(got.endswith(b"data: [DONE]\n\n") for got in bodies)
    assert len(provider.asked(case)) == 1


def test_pipelined_requests_are_answered_in_order(proxy: Proxy, provider: Provider) -> None:
    names = [fresh() for _ in range(5)]
    names = [*names, *names]
    with proxy.connect() as client:
        client.send(b"".join(head_of(OPENAI, question(name), case=name) + question(name) for name in names))
        replies = [client.reply() for _ in names]
    for name, reply in zip(names, replies, strict=True):
        assert _sha256(question(name)).encode() in reply.body
    assert {len(provider.asked(name)) for name in names} == {1}


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_chunked_request_is_the_same_question_and_its_bytes_arrive(
    proxy: Proxy, provider: Provider, size: int
) -> None:
    case = fresh()
    body = question(case)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    with proxy.connect() as client:
        client.send(head_of(OPENAI, None, case=case, headers=[("transfer-encoding", "chunked")]) + wire + b"0\r\n\r\n")
        assert client.reply().status == 200
        assert client.ask(body, case=case).deflected
    assert [one.sha256 for one in provider.asked(case)] == [_sha256(body)]


def test_a_body_that_comes_byte_by_byte_is_waited_for(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case)
    wire = head_of(OPENAI, body, case=case) + body
    with proxy.connect() as client:
        for at in range(len(wire)):
            client.send(wire[at : at + 1])
        assert client.reply().status == 200
        assert client.ask(body, case=case).deflected
    assert provider.asked(case)[0].sha256 == _sha256(body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "TRACE", "BREW"])
def test_other_methods_on_an_llm_path_pass(proxy: Proxy, provider: Provider, method: str) -> None:
    case = fresh()
    with proxy.connect() as client:
        for body in (b"", question(case)):
            client.send(head_of(OPENAI, body, case=case, method=method) + body)
            status, fields = client.head()
            assert status == 200
            if method != "HEAD":
                client.read(int(dict(fields).get("content-length", "0")))
    asked = provider.asked(case)
    assert [one.method for one in asked] == [method] * 2
    assert asked[1].sha256 == _sha256(question(case))


def test_a_request_without_a_body_or_its_length_passes(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    with proxy.connect() as client:
        client.send(f"POST {CHAT} HTTP/1.1\r\nhost: {OPENAI}\r\nx-case: {case}\r\n\r\n".encode())
        assert client.reply().status == 200
    assert provider.asked(case)[0].size == 0


TRICKS = [
    "/v1/messages/../x", "/v1/x/../messages", "//v1/messages", "/v1//messages", "/v1/./messages", "/v1/messages/",
    "/v1/messages//", "/v1/%2e%2e/v1/messages", "/v1/message%73", "/v1%2fmessages", "/V1/messages", "/v1/Messages",
    "/v1/messages;x=1", "/v1/messages%00", "/v1/messages%20", "/v1/messages%3fx", "/v1/messages/x", "/v1/messages\\x",
    "/v1/messages/../../etc/passwd", "/x%2f..%2fv1/messages", "/v1/messages#fragment", "/v1/messages%0d%0ax:y",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_is_not_plainly_the_api_reaches_the_provider_as_it_was_sent_each_time(
    proxy: Proxy, provider: Provider, path: str
) -> None:
    """The provider says what such a path means; an answer to it is nobody else's, and no answer is one to it."""
    case = fresh()
    body = question(case, host=ANTHROPIC)
    with proxy.connect(ANTHROPIC) as client:
        assert client.ask(body, case=case).status == 200
        for _ in range(2):
            reply = client.ask(body, case=case, path=path)
            assert not reply.deflected
    asked = provider.asked(case)
    assert [one.target for one in asked] == [MESSAGES, path, path]
    assert {one.sha256 for one in asked} == {_sha256(body)}


QUERIES = [
    "",
    "?beta=true",
    "?beta=false",
    "?x=%ff",
    "?x=%fe",
    "?x=a&x=b",
    "?x=b&x=a",
    "?x",
    "?x=",
    "?X=?a=1;b=2",
    "?beta=true&beta=false",
    "?%62eta=maybe",
]


def test_queries_that_differ_are_different_questions(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case, host=ANTHROPIC)
    with proxy.connect(ANTHROPIC) as client:
        for query in QUERIES:
            reply = client.ask(body, case=case, path=MESSAGES + query)
            assert not reply.deflected or query == "?x=", query  # "?x" and "?x=" are the same
    assert len(provider.asked(case)) >= len(QUERIES) - 1


def test_a_plain_http_request_in_absolute_form_to_a_provider_is_a_call_like_any_other(
    proxy: Proxy, provider: Provider
) -> None:
    case = fresh()
    body = question(case)
    path = f"http://{OPENAI}{CHAT}"
    with Client(proxy.port, tunnel=False) as client:
        client.host = OPENAI
        assert client.ask(body, case=case, path=path).status == 200
        again = client.ask(body, case=case, path=path)
    assert again.deflected
    assert [(one.target, one.sha256) for one in provider.asked(case)] == [(CHAT, _sha256(body))]


def test_the_host_header_does_not_choose_whose_answer_is_given(proxy: Proxy, provider: Provider) -> None:
    """The tunnel leads to OpenAI: a Host of another provider makes it no other provider's call."""
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        client.ask(body, case=case)
        wire = head_of(OPENAI, body, case=case).replace(b"host: api.openai.com", b"host: api.mistral.ai")
        client.send(wire + body)
        reply = client.reply()
    assert reply.status == 200
    for one in provider.asked(case):
        assert one.sha256 == _sha256(body)


ODD_HEADERS = [
    ("user-agent", "\xff\xfe"), ("x-session-id", "\xe9" * 300), ("authorization", "Bearer \xff"), ("authorization", ""),
    ("authorization", "Bearer"), ("authorization", "Bearer " + "x" * 30_000), ("anthropic-beta", "\xff,,,"),
    ("x-stainless-retry-count", "\xb2"), ("x-stainless-retry-count", "9" * 5000), ("x-stainless-retry-count", "-1"),
    ("x-promptweir-cache", "\xff"), ("chatgpt-account-id", "\xff"), ("cookie", "a=b; c"),
    ("authorization", "Bearer a.b.c"), ("authorization", "Bearer e30.e30.e30"), ("authorization", "Bearer ...."),
    ("authorization", "Bearer x." + "W" * 4000 + ".y"), ("content-type", "text/\xff"), ("accept-encoding", "\xff"),
    ("openai-organization", "\xff"), ("x-goog-api-key", "\xff"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), ODD_HEADERS, ids=range(len(ODD_HEADERS)))
def test_an_odd_header_passes_as_it_is_and_the_call_is_recorded(
    proxy: Proxy, provider: Provider, name: str, value: str
) -> None:
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        for _ in range(2):
            assert client.ask(body, case=case, headers=[(name, value)]).status == 200
    if name != "x-promptweir-cache":
        assert (name, value.strip()) in provider.asked(case)[0].headers


def test_an_odd_call_is_counted_like_any_other(proxy: Proxy, provider: Provider) -> None:
    before = proxy.stats()["calls"]
    with proxy.connect() as client:
        for odd in ([("user-agent", "\xff")], [("x-session-id", "\xff")], [("content-encoding", "x")]):
            client.ask(question(fresh()), headers=odd)
        client.ask(b"not JSON")
        client.ask(b'{"model":"%s"}' % (b"m" * (4 << 20)))
    wanted = before + 5
    for _ in range(50):
        if (now := proxy.stats()["calls"]) >= wanted:
            break
    assert now == wanted


def test_many_calls_at_once_with_a_few_questions_are_each_answered_right(proxy: Proxy, provider: Provider) -> None:
    """Coalescing under pressure: 12 clients, 4 questions, 3 keys; nobody gets an answer to another question or key."""
    cases = [fresh() for _ in range(4)]
    wrong: list[str] = []

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        key = exchange.asked.header("authorization")
        doc = json.loads(exchange.asked.body)
        await exchange.whole(chat(f"{doc['messages'][0]['content']} for {key}"))

    for case in cases:
        provider.script(case, *[slow] * 60)

    def work(number: int) -> None:
        key = f"sk-tenant-{number % 3}"
        with proxy.connect() as client:
            for turn in range(12):
                case = cases[(number + turn) % 4]
                said = json.loads(client.ask(question(case), case=case, key=key).body)["choices"][0]["message"][
                    "content"
                ]
                if said != f"{case} for Bearer {key}":
                    wrong.append(said)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(len(provider.asked(case)) for case in cases) == 4 * 3, "one call for each question of each key"
