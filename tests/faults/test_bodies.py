"""Whatever a body holds: the provider gets its very bytes, the client the provider's very answer, the proxy lives."""

import gzip
import hashlib
import json
import zlib

import brotli
import pytest
import zstandard

from tests.faults.client import ANTHROPIC, CHAT, OPENAI, fresh, question
from tests.faults.provider import Exchange, Provider
from tests.faults.proxy import Proxy

GEMINI = "generativelanguage.googleapis.com"
GENERATE = "/v1beta/models/gemini-2.5-flash:generateContent"
RESPONSES, EMBEDDINGS, COUNT = "/v1/responses", "/v1/embeddings", "/v1/messages/count_tokens"
ENDPOINTS = [(OPENAI, CHAT), (OPENAI, RESPONSES), (OPENAI, EMBEDDINGS), (ANTHROPIC, "/v1/messages"),
             (ANTHROPIC, COUNT), (GEMINI, GENERATE)]  # fmt: skip
MEMORY_BYTES = 150 << 20


def deep(depth: int, text: bytes = b"") -> bytes:
    return b'{"model":"gpt-4o","messages":%s"%s"%s}' % (b"[" * depth, text, b"]" * depth)


def deep_objects(depth: int) -> bytes:
    return b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"x":%s1%s}' % (
        b'{"a": ' * depth,
        b"}" * depth,
    )


def on(*extra: bytes) -> bytes:
    """A sound chat request with more in it."""
    inner = b",".join((b'"model":"gpt-4o"', b'"messages":[{"role":"user","content":"hello"}]', *extra))
    return b"{" + inner + b"}"


STRANGE: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"hello there",
    "half JSON": b'{"model":"gpt-4o","messages":[{"ro',
    "form": b"model=gpt-4o&prompt=x",
    "binary": bytes(range(256)) * 8,
    "array": b'[{"model":"gpt-4o"}]',
    "string": b'"hello"',
    "number": b"7",
    "null": b"null",
    "empty object": b"{}",
    "two documents": on() + on(),
    "trailing comma": b'{"model":"gpt-4o",}',
    "comment": b'{"model":"gpt-4o" /* x */}',
    "BOM": b"\xef\xbb\xbf" + on(),
    "UTF-16": on().decode().encode("utf-16"),
    "NUL bytes": on() + b"\0\0\0",
    "white space only": b" \r\n\t ",
    "invalid UTF-8 in a text": b'{"model":"gpt-4o","messages":[{"role":"user","content":"caf\xe9 \xff\xfe"}]}',
    "invalid UTF-8 in a key": b'{"model":"gpt-4o","\xff":1,"messages":[]}',
    "overlong UTF-8": b'{"model":"gpt-4o","messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "lone surrogate": on(b'"x":"\\ud800"'),
    "lone surrogate in a text": b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\udfff"}]}',
    "lone surrogate in the model": b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}',
    "lone surrogate in a key": on(b'"\\ud800":1'),
    "raw surrogate bytes": b'{"model":"gpt-4o","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "NaN": on(b'"temperature":NaN'),
    "Infinity": on(b'"x":-Infinity'),
    "huge number": on(b'"seed":' + b"9" * 5000),
    "huge exponent": on(b'"x":1e999999'),
    "leading zeros": on(b'"x":007'),
    "duplicate key": on(b'"model":"other"'),
    "duplicate key, escaped": on(b'"mod\\u0065l":"other"'),
    "duplicate key, spaced": on(b' "model" : "other"'),
    "nested duplicate key": b'{"model":"gpt-4o","messages":[{"role":"user","content":"a","content":"b"}]}',
    "deeply nested duplicate key": on(b'"x":{"y":[{"z":1,"z":2}]}'),
    "10,000 deep": deep(10_000),
    "10,000 deep, spaced": deep(10_000, b"another").replace(b":", b": "),
    "10,000 objects deep": deep_objects(10_000),
    "100,000 deep": deep(100_000),
    "100,000 deep, unclosed": b'{"messages":' + b"[" * 100_000,
    "100,000 deep in an unknown field, spaced": on(b'"x": ' + b"[" * 100_000 + b"]" * 100_000),
    **{f"{depth} deep": deep(depth) for depth in (150, 201, 500, 990, 1010, 1500, 3000, 6000)},
    **{f"{depth} deep, spaced": deep(depth, b"another").replace(b":", b": ") for depth in (500, 990, 1010, 1500, 3000, 6000)},
    "deep system": b'{"model":"m","system":%s%s,"messages":[]}' % (b"[" * 9000, b"]" * 9000),
    "deep metadata": b'{"model":"m","metadata":%s%s,"messages":[]}' % (b'{"a":' * 9000, b"1" + b"}" * 9000),
    "a key of a megabyte": on(b'"%s":1' % (b"k" * (1 << 20))),
    "a model of a megabyte": b'{"model":"%s","messages":[{"role":"user","content":"x"}]}' % (b"m" * (1 << 20)),
    "10,000 keys": on(*(b'"k%d":1' % number for number in range(10_000))),
    "NUL in a text": on(b'"x":"a\\u0000b"'),
    "keys like our own marks": on(b'"\\u0000atoms":["","tool-id",""]', b'"\\u0000item":1'),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_body_reaches_the_provider_untouched_and_its_answer_the_client(
    proxy: Proxy, provider: Provider, name: str
) -> None:
    sent = STRANGE[name]
    for host, path in ENDPOINTS:
        case = fresh()
        with proxy.connect(host) as client:
            reply = client.ask(sent, case=case, path=path)
            assert reply.status == 200, path
            asked = provider.asked(case)
            assert [one.sha256 for one in asked] == [hashlib.sha256(sent).hexdigest()], path
            assert asked[0].sha256.encode() in reply.body, path
            assert client.ask(question(fresh(), host=OPENAI), path=CHAT).status == 200


WRONG: list[object] = [None, True, 7, -1.5, "x", "", [], {}, [[]], {"a": {"b": []}}, [None], ["x", 3, None, {}], 10**30]
FIELDS = {
    OPENAI: ["model", "messages", "stream", "stream_options", "temperature", "tools", "metadata", "user", "store", "n",
             "input", "instructions", "previous_response_id", "background", "conversation", "response_format"],
    ANTHROPIC: ["model", "messages", "stream", "system", "metadata", "tools", "max_tokens", "thinking", "temperature"],
    GEMINI: ["contents", "systemInstruction", "tools", "generationConfig", "labels", "cachedContent", "model"],
}  # fmt: skip
BASES: dict[str, dict[str, object]] = {
    OPENAI: {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "input": "hi"},
    ANTHROPIC: {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    GEMINI: {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def _refuses(body: bytes) -> bytes:
    return b'{"error":{"message":"what is that?","sha256":"%s"}}' % hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize(("host", "path"), ENDPOINTS, ids=lambda value: value.rpartition("/")[2])
def test_fields_of_a_wrong_type_are_the_providers_to_refuse(
    proxy: Proxy, provider: Provider, host: str, path: str
) -> None:
    """Every steering field, each with every kind of value, at the top and inside of messages."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.whole(_refuses(exchange.asked.body), status="400 Bad Request")

    with proxy.connect(host) as client:
        for name in FIELDS[host]:
            for value in WRONG:
                body = json.dumps({**BASES[host], name: value}).encode()
                _is_passed_on(client, provider, body, path, refuse)


MESSAGES: list[object] = [
    {}, {"role": None}, {"role": 7, "content": 8}, {"role": "user", "content": [7, None, "x", [[]]]},
    {"role": "user", "content": [{"type": None}, {"type": {}}, {"type": "text"}, {"type": "text", "text": 5}]},
    {"role": "assistant", "tool_calls": 5}, {"role": "assistant", "tool_calls": [5, None, {"id": {}, "function": 3}]},
    {"role": "tool", "tool_call_id": ["x"], "content": {}}, {"role": ["system"], "content": "Working directory: /a/b"},
    {"type": ["tool"], "id": {}}, {"role": "user", "content": {"type": "tool_use", "id": None}},
    {"type": "function_call_output", "output": 5, "call_id": None}, {"type": "item_reference", "id": {}},
    {"parts": 5}, {"parts": [{"functionCall": 5}, {"functionResponse": [[]]}, {"text": {}}, None]},
]  # fmt: skip


@pytest.mark.parametrize(("host", "path"), ENDPOINTS, ids=lambda value: value.rpartition("/")[2])
def test_messages_of_a_wrong_shape_are_the_providers_to_refuse(
    proxy: Proxy, provider: Provider, host: str, path: str
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.whole(_refuses(exchange.asked.body), status="400 Bad Request")

    place = "contents" if host == GEMINI else "input" if path == RESPONSES else "messages"
    with proxy.connect(host) as client:
        for message in MESSAGES:
            for value in ([message], message, [message, message]):
                body = json.dumps({**BASES[host], place: value, "system": value, "tools": value}).encode()
                _is_passed_on(client, provider, body, path, refuse)


def _is_passed_on(client, provider: Provider, body: bytes, path: str, script) -> None:  # type: ignore[no-untyped-def]
    case = fresh()
    provider.script(case, script)
    reply = client.ask(body, case=case, path=path)
    assert provider.asked(case)[0].sha256 == hashlib.sha256(body).hexdigest(), body[:200]
    assert (reply.status, reply.body) == (400, _refuses(body)), body[:200]


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data)


CODERS = {"gzip": gzip.compress, "br": brotli.compress, "zstd": _zstd, "deflate": _deflate}


@pytest.mark.parametrize("coding", CODERS)
def test_a_compressed_question_is_the_same_question(proxy: Proxy, provider: Provider, coding: str) -> None:
    case = fresh()
    plain = question(case)
    packed = CODERS[coding](plain)
    label = [("content-encoding", coding)]
    with proxy.connect() as client:
        first = client.ask(packed, case=case, headers=label)
        assert not first.deflected
        assert provider.asked(case)[0].sha256 == hashlib.sha256(packed).hexdigest()
        assert client.ask(packed, case=case, headers=label).deflected
        assert client.ask(plain, case=case).deflected
        other = "gzip" if coding != "gzip" else "br"
        assert client.ask(CODERS[other](plain), case=case, headers=[("content-encoding", other)]).deflected
    assert len(provider.asked(case)) == 1


@pytest.mark.parametrize("coding", [*CODERS, "rot13", "gzip, gzip", "br, gzip", ",", "\xff", "identity, x"])
def test_a_body_that_is_not_what_its_content_encoding_says_passes_as_it_is(
    proxy: Proxy, provider: Provider, coding: str
) -> None:
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        first, second = (client.ask(body, case=case, headers=[("content-encoding", coding)]) for _ in range(2))
    assert [one.sha256 for one in provider.asked(case)][0] == hashlib.sha256(body).hexdigest()
    assert first.status == 200
    if coding != ",":  # an empty list of codings is none
        assert not second.deflected
        assert len(provider.asked(case)) == 2


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_truncated_compressed_body_passes_as_it_is(proxy: Proxy, provider: Provider, coding: str) -> None:
    case = fresh()
    body = CODERS[coding](question(case))[:-3]
    with proxy.connect() as client:
        for _ in range(2):
            assert not client.ask(body, case=case, headers=[("content-encoding", coding)]).deflected
    assert {one.sha256 for one in provider.asked(case)} == {hashlib.sha256(body).hexdigest()}


def _bomb(coding: str, size: int) -> bytes:
    zeros = bytes(1 << 20)
    match coding:
        case "gzip" | "deflate":
            packer = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
            return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()
        case "br":
            compressor = brotli.Compressor(quality=1, lgwin=24)
            return bytes(b"".join(compressor.process(zeros) for _ in range(size >> 20)) + compressor.finish())
        case _:
            squeezer = zstandard.ZstdCompressor(level=3).compressobj()
            return b"".join(squeezer.compress(zeros) for _ in range(size >> 20)) + squeezer.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_bomb_goes_to_the_provider_as_it_is_and_does_not_go_off(
    proxy: Proxy, provider: Provider, coding: str
) -> None:
    bomb = _bomb(coding.partition(",")[0], 1 << 28)
    if "," in coding:
        bomb = gzip.compress(bomb)
    case = fresh()
    before = proxy.reset_peak()
    with proxy.connect() as client:
        reply = client.ask(bomb, case=case, headers=[("content-encoding", coding)])
    assert reply.status == 200
    assert provider.asked(case)[0].sha256 == hashlib.sha256(bomb).hexdigest()
    assert proxy.peak_bytes() - before < MEMORY_BYTES


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_as_an_answer_passes_as_it_is_and_is_not_learned(proxy: Proxy, provider: Provider, coding: str) -> None:
    bomb = _bomb(coding, 1 << 28)

    async def explode(exchange: Exchange) -> None:
        await exchange.head("content-type: application/json", f"content-encoding: {coding}",
                            f"content-length: {len(bomb)}")  # fmt: skip
        await exchange.send(bomb)

    case = fresh()
    provider.script(case, explode)
    body = question(case)
    before = proxy.reset_peak()
    with proxy.connect() as client:
        assert client.ask(body, case=case).body == bomb
        assert not client.ask(body, case=case).deflected
    assert proxy.peak_bytes() - before < MEMORY_BYTES


DENSE = {
    "numbers": (b"0,", b"0"),
    "empty objects": (b"{},", b"{}"),
    "empty lists": (b"[],", b"[]"),
    "one-key objects": (b'{"":0},', b"0"),
    "empty strings": (b'"",', b'""'),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("size", [1 << 20, 4 << 20, 30 << 20], ids=lambda size: f"{size >> 20}MB")
@pytest.mark.parametrize("place", ["messages", "tools", "unknown", "content", "spaced"])
def test_a_body_of_very_many_small_values_does_not_swell(
    proxy: Proxy, provider: Provider, name: str, place: str, size: int
) -> None:
    unit, last = DENSE[name]
    many = b"[" + unit * (size // len(unit)) + last + b"]"
    match place:
        case "content":
            body = b'{"model":"gpt-4o","messages":[{"role":"user","content":%s}]}' % many
        case "spaced":
            body = b'{"model": "gpt-4o-mini", "unknown": %s}' % many
        case _:
            body = b'{"model":"gpt-4o","%s":%s}' % (place.encode(), many)
    case = fresh()
    before = proxy.reset_peak()
    with proxy.connect() as client:
        assert client.ask(body, case=case).status == 200
    assert provider.asked(case)[0].sha256 == hashlib.sha256(body).hexdigest()
    grown = proxy.peak_bytes() - before
    assert grown < MEMORY_BYTES + 2 * len(body), f"{grown >> 20} MiB for a body of {len(body) >> 20}"
