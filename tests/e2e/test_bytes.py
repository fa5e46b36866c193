"""Bytes are sacred: what passes, passes unchanged, piece by piece, in both directions, in every dialect and coding.

The provider says bytes that no serialiser would write and keeps the bytes that it is sent; both ends are compared by
their SHA-256.
"""

import gzip
import json
import ssl

import pytest

from tests.e2e.cases import BY_NAME, CASES, CODINGS, Case
from tests.e2e.harness import PLAIN_HOST, TLS_HOST, Proxy
from tests.e2e.scripted import Pairs, Put, Script
from tests.e2e.talk import Raw, ask, client, read_until, sha256, trusting, tunnel, unverified

http_versions = pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _headers(put: Put, **more: str) -> dict[str, str]:
    named = {"authorization": f"Bearer {put.name}", "content-type": "application/json", "x-script": put.name}
    return named | {name.replace("_", "-"): value for name, value in more.items()}


def _script(case: Case, coding: str = "", **more: str) -> Script:
    headers: Pairs = (("content-type", case.content_type), *((("content-encoding", coding),) if coding else ()))
    return Script(chunks=CODINGS[coding](case.chunks), headers=headers, framing=more.get("framing", "chunked"))


@http_versions
@every_case
def test_a_call_and_its_answer_pass_byte_for_byte_in_every_coding(
    proxy: Proxy, put: Put, case: Case, http2: bool
) -> None:
    with client(proxy, http2=http2) as http:
        for coding in CODINGS if proxy.name == "own" else ("", "zstd"):
            script = put(_script(case, coding))
            body = case.marked(f"{coding} {http2}")

            answer = ask(http, f"https://{PLAIN_HOST}{case.path}", body, _headers(put))

            (received,) = script.received
            assert sha256(body) == sha256(received.body)
            assert sha256(script.body) == sha256(answer.body)
            assert "HTTP/2" if http2 else answer.http == "HTTP/1.1"
            assert answer.headers.get("content-encoding", "") == coding
            assert answer.headers["content-type"] == case.content_type
            assert answer.headers["x-promptweir-deflected"] == "false"


@http_versions
@pytest.mark.parametrize("name", ["chat", "messages-stream"])
def test_bytes_are_the_same_where_the_provider_speaks_tls_and_the_client_s_version_of_http(
    proxy: Proxy, put: Put, name: str, http2: bool
) -> None:
    case = BY_NAME[name]
    with client(proxy, http2=http2) as http:
        for coding in ("", "zstd"):
            script = put(_script(case, coding))
            body = case.marked(f"{coding} {http2}")

            answer = ask(http, f"https://{TLS_HOST}{case.path}", body, _headers(put))

            (received,) = script.received
            assert (received.head == b"") is http2
            assert sha256(body) == sha256(received.body)
            assert sha256(script.body) == sha256(answer.body)


@http_versions
@pytest.mark.parametrize("host", [PLAIN_HOST, TLS_HOST], ids=["plain", "tls"])
@pytest.mark.parametrize("coding", ["", "gzip"], ids=["identity", "gzip"])
def test_each_chunk_arrives_before_the_provider_sends_the_next(
    proxy: Proxy, put: Put, host: str, coding: str, http2: bool
) -> None:
    """The provider waits for the client's word between two chunks, so a chunk held back would stop both for ever."""
    case = BY_NAME["messages-stream"]
    script = put(_script(case, coding))
    script.lockstep = True
    arrived = b""
    with (
        client(proxy, http2=http2) as http,
        http.stream("POST", f"https://{host}{case.path}", content=case.body, headers=_headers(put)) as response,
    ):
        pieces = response.iter_raw()
        for count in range(1, len(script.chunks) + 1):
            script.go()
            while len(arrived) < sum(map(len, script.chunks[:count])):
                arrived += next(pieces)
        script.go()
        arrived += b"".join(pieces)

    assert len(script.chunks) > 5
    assert sha256(script.body) == sha256(arrived)


@http_versions
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_bytes_are_the_same_in_every_framing(own: Proxy, put: Put, framing: str, http2: bool) -> None:
    case = BY_NAME["chat"]
    script = put(_script(case, framing=framing))
    body = case.marked(framing)

    with client(own, http2=http2) as http:
        answer = ask(http, f"https://{PLAIN_HOST}{case.path}", body, _headers(put))

    assert sha256(body) == sha256(script.received[0].body)
    assert sha256(script.body) == sha256(answer.body)
    if framing == "length":
        assert answer.headers["content-length"] == str(len(script.body))


def test_the_request_head_arrives_as_it_was_sent_but_for_the_host_and_our_own_header(proxy: Proxy, put: Put) -> None:
    """Order, spelling and unknown headers are the client's; the host is the one that ``promptweir_upstream`` names."""
    case = BY_NAME["messages"]
    put(script := _script(case, framing="length"))
    body = case.marked("head")
    lines = [
        f"POST {case.path} HTTP/1.1",
        f"Host: {PLAIN_HOST}",
        "Accept: */*",
        f"X-API-Key: {put.name}",
        "anthropic-Version: 2023-06-01",
        "Anthropic-Beta: b-2,a-1",
        "X-Stainless-Retry-Count: 0",
        "x-promptweir-cache: refresh",
        "accept-encoding: gzip, br",
        f"X-Script: {put.name}",
        "x-Odd:   spaced  out ",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        "Connection: keep-alive",
    ]
    head = "\r\n".join(lines).encode()
    trust = ssl.create_default_context(cafile=str(proxy.ca))

    with tunnel(proxy, f"{PLAIN_HOST}:443", context=trust, sni=PLAIN_HOST) as link:
        link.sendall(head + b"\r\n\r\n" + body)
        read_until(link, script.body)

    (received,) = script.received
    ours = [line for line in lines if not line.startswith(("Host:", "x-promptweir-cache:", "x-Odd:"))]
    theirs = [line.decode() for line in received.head.split(b"\r\n")]
    assert ours == [line for line in theirs if not line.lower().startswith(("host:", "x-odd:"))]
    assert dict(received.headers)["x-odd"] == "spaced  out"
    assert sha256(body) == sha256(received.body)


def test_the_answer_s_head_arrives_as_it_was_sent_with_our_three_headers_added(proxy: Proxy, put: Put) -> None:
    case = BY_NAME["messages"]
    sent = (
        ("Content-Type", case.content_type),
        ("request-id", "req_1"),
        ("anthropic-ratelimit-requests-remaining", "7"),
        ("Set-Cookie", "a=1; Secure"),
        ("Set-Cookie", "b=2"),
        ("X-Odd", "spaced  out"),
        ("Server", "provider"),
    )
    put(script := Script(chunks=case.chunks, headers=sent, framing="length"))
    body = case.marked("answer head")
    request = f"POST {case.path} HTTP/1.1\r\nHost: {PLAIN_HOST}\r\nx-script: {put.name}\r\n"
    trust = ssl.create_default_context(cafile=str(proxy.ca))

    with tunnel(proxy, f"{PLAIN_HOST}:443", context=trust, sni=PLAIN_HOST) as link:
        link.sendall(request.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = read_until(link, script.body)

    first, *lines = answer[: -len(script.body)].decode().strip().split("\r\n")
    added = [line for line in lines if line.startswith("x-promptweir-")]
    assert first == "HTTP/1.1 200 Fine"
    assert [*(f"{name}: {value}" for name, value in sent), f"content-length: {len(script.body)}"] == [
        line for line in lines if line not in added
    ]
    assert sorted(added) == [
        "x-promptweir-deflected: false",
        "x-promptweir-layer: l3",
        "x-promptweir-provider: groq",
    ]


def test_our_headers_can_be_turned_off_for_answers_of_the_provider_and_for_ours(guarded: Proxy, put: Put) -> None:
    case = BY_NAME["chat"]
    script = put(_script(case))
    body = case.marked("off")
    answers: list[Raw] = []
    with client(guarded) as http:
        for _ in range(2):
            with guarded.learning():
                answers.append(ask(http, f"https://{PLAIN_HOST}{case.path}", body, _headers(put)))

    assert len(script.received) == 1
    assert [name for answer in answers for name in answer.headers if name.startswith("x-promptweir")] == []


def test_a_hit_says_which_layer_answered_and_whom_it_spared(proxy: Proxy, put: Put) -> None:
    case = BY_NAME["gemini-count"]
    script = put(_script(case))
    body = case.marked("spared")
    with client(proxy) as http:
        for _ in range(2):
            with proxy.learning():
                answer = ask(http, f"https://{PLAIN_HOST}{case.path}", body, _headers(put))

    assert len(script.received) == 1
    assert {name: answer.headers[f"x-promptweir-{name}"] for name in ("layer", "deflected", "provider")} == {
        "layer": "l1a",
        "deflected": "true",
        "provider": "groq",
    }
    assert sha256(script.body) == sha256(answer.body)  # no ids in it: the replay is the recording, odd spaces and all


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_compressed_request_is_forwarded_as_it_is_and_understood(own: Proxy, put: Put, coding: str) -> None:
    case = BY_NAME["chat"]
    script = put(_script(case))
    plain = case.marked(coding)
    packed = b"".join(CODINGS[coding]((plain,)))
    with client(own) as http:
        with own.learning():
            ask(http, f"https://{PLAIN_HOST}{case.path}", packed, _headers(put, content_encoding=coding))
        repeat = ask(http, f"https://{PLAIN_HOST}{case.path}", plain, _headers(put))

    (received,) = script.received
    assert sha256(packed) == sha256(received.body)
    assert repeat.deflected  # the same question, whatever its coding


def test_a_request_in_chunks_and_a_large_one_arrive_whole(own: Proxy, put: Put) -> None:
    case = BY_NAME["chat"]
    script = put(_script(case))
    body = case.marked("x" * 3_000_000)
    pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
    with client(own) as http:
        response = http.post(f"https://{PLAIN_HOST}{case.path}", content=iter(pieces), headers=_headers(put))

    assert response.status_code == 200
    assert sha256(body) == sha256(script.received[0].body)


BROKEN = {
    "not JSON": b"hello \xff\xfe",
    "cut": b'{"model":"gpt-5","messages":[',
    "an array": b'[{"model":"gpt-5"}]',
    "duplicate keys": b'{"model":"gpt-5","model":"gpt-4o","messages":[]}',
    "NaN": b'{"model":"gpt-5","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
    "lone surrogate": rb'{"model":"gpt-5","messages":[{"role":"user","content":"\ud800"}]}',
    "wrong types": b'{"model":7,"messages":"x","stream":"maybe"}',
    "a false gzip": gzip.compress(b'{"model":"gpt-5"}')[:-9],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_is_none_reaches_the_provider_and_gets_its_verdict(own: Proxy, put: Put, name: str) -> None:
    error = b'{"error" : {"message":"no \\u0041"} }\n'
    script = put(Script(chunks=(error,), status=400, headers=(("content-type", "application/json"),)))
    headers = _headers(put, content_encoding="gzip") if name == "a false gzip" else _headers(put)
    with client(own) as http:
        answer = ask(http, f"https://{PLAIN_HOST}/v1/chat/completions", BROKEN[name], headers)

    assert answer.status == 400
    assert sha256(BROKEN[name]) == sha256(script.received[0].body)
    assert sha256(error) == sha256(answer.body)


def test_an_error_keeps_its_status_its_retry_hint_and_its_bytes_and_is_not_learned(proxy: Proxy, put: Put) -> None:
    case = BY_NAME["messages"]
    headers = (("content-type", "application/json"), ("retry-after", "1"), ("x-should-retry", "true"))
    script = put(Script(chunks=(b'{"type":"error", ', b'"error":{}}'), status=529, headers=headers))
    with client(proxy) as http:
        for _ in range(2):
            with proxy.learning():
                answer = ask(http, f"https://{PLAIN_HOST}{case.path}", case.marked("529"), _headers(put))

            assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (
                529,
                "1",
                "true",
            )
            assert sha256(script.body) == sha256(answer.body)

    assert len(script.received) == 2


def test_other_paths_of_a_provider_pass_untouched(proxy: Proxy, put: Put) -> None:
    script = put(Script(chunks=(b"one ", b"two"), status=207, headers=(("content-type", "text/plain"),)))
    body = b'{"events": [ 1.0 ] }'
    with client(proxy) as http:
        answer = ask(http, f"https://{PLAIN_HOST}/api/event_logging/v2/batch", body, _headers(put))

    assert (answer.status, answer.body) == (207, b"one two")
    assert body == script.received[0].body
    assert "x-promptweir-layer" not in answer.headers


def test_the_certificate_of_a_provider_is_ours(proxy: Proxy) -> None:
    with tunnel(proxy, f"{PLAIN_HOST}:443", context=unverified(), sni=PLAIN_HOST) as link:
        shown = link.getpeercert(binary_form=True)
    with tunnel(proxy, f"{PLAIN_HOST}:443", context=trusting(proxy.ca), sni=PLAIN_HOST) as link:
        names = link.getpeercert()

    assert shown is not None
    assert names is not None
    assert ("DNS", PLAIN_HOST) in names["subjectAltName"]


def test_the_odd_cases_are_as_odd_as_they_claim() -> None:
    """A re-serialised body would differ from every one of them, so that a proxy that does so cannot pass."""
    for case in CASES:
        assert json.dumps(json.loads(case.body)).encode() != case.body
        assert json.dumps(json.loads(case.body), separators=(",", ":")).encode() != case.body
