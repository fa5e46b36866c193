"""The provider breaks: the client gets what was sent and the same kind of break, and nothing of it is learned."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.client import ANTHROPIC, OPENAI, fresh, head_of, question
from tests.faults.provider import Exchange, Provider, Script, chat, chat_stream, messages, messages_stream
from tests.faults.proxy import Proxy, healthy, up

type Break = Callable[[Exchange, list[bytes]], Awaitable[bool]]

STREAMS: dict[str, Callable[[str], list[bytes]]] = {OPENAI: chat_stream, ANTHROPIC: messages_stream}
WHOLES: dict[str, Callable[[str], bytes]] = {OPENAI: chat, ANTHROPIC: messages}
SSE = "content-type: text/event-stream"


async def _chunked_reset(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, "transfer-encoding: chunked")
    for chunk in chunks:
        await exchange.chunk(chunk)
    await asyncio.sleep(0.05)
    exchange.reset()
    return False


async def _chunked_end(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, "transfer-encoding: chunked")
    for chunk in chunks:
        await exchange.chunk(chunk)
    return False


async def _half_a_chunk(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, "transfer-encoding: chunked")
    for chunk in chunks[:-1]:
        await exchange.chunk(chunk)
    await exchange.send(b"%x\r\n%s" % (len(chunks[-1]) + 100, chunks[-1]))
    return False


async def _bad_chunk_size(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, "transfer-encoding: chunked")
    for chunk in chunks:
        await exchange.chunk(chunk)
    await asyncio.sleep(0.05)
    await exchange.send(b"zz\r\nnonsense\r\n")
    return False


async def _length_end(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, f"content-length: {sum(map(len, chunks)) + 500}")
    for chunk in chunks:
        await exchange.send(chunk)
    return False


async def _length_reset(exchange: Exchange, chunks: list[bytes]) -> bool:
    await _length_end(exchange, chunks)
    await asyncio.sleep(0.05)
    exchange.reset()
    return False


async def _close_end(exchange: Exchange, chunks: list[bytes]) -> bool:
    await exchange.head(SSE, "connection: close")
    for chunk in chunks:
        await exchange.send(chunk)
    return False


async def _close_reset(exchange: Exchange, chunks: list[bytes]) -> bool:
    await _close_end(exchange, chunks)
    await asyncio.sleep(0.05)
    exchange.reset()
    return False


def _cut(how: Break, chunks: list[bytes]) -> Script:
    async def script(exchange: Exchange) -> bool:
        return await how(exchange, chunks)

    return script


def _answered_anew_then_learned(proxy: Proxy, provider: Provider, body: bytes, case: str, host: str) -> None:
    """The broken answer was not learned; the sound one that comes next is."""
    before = len(provider.asked(case))
    with proxy.connect(host) as client:
        second = client.ask(body, case=case)
        assert second.status == 200
        assert second.whole
        assert not second.deflected
        third = client.ask(body, case=case)
    assert len(provider.asked(case)) == before + 1
    assert third.deflected
    assert third.whole


BREAKS = [
    _chunked_reset,
    _chunked_end,
    _half_a_chunk,
    _bad_chunk_size,
    _length_end,
    _length_reset,
    _close_end,
    _close_reset,
]


@pytest.mark.parametrize("host", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("how", BREAKS, ids=lambda how: how.__name__.strip("_"))
def test_a_stream_that_breaks_off_breaks_off_at_the_client_and_is_not_learned(
    proxy: Proxy, provider: Provider, host: str, how: Break
) -> None:
    case = fresh()
    sent = STREAMS[host]("one two three four")[:-3]
    provider.script(case, _cut(how, sent))
    body = question(case, host=host, stream=True)
    with proxy.connect(host) as client:
        first = client.ask(body, case=case)
    assert first.status == 200
    assert first.body == b"".join(sent)
    if how not in (_close_end, _close_reset):
        assert not first.whole, "the client must see that it was cut"
    _answered_anew_then_learned(proxy, provider, body, case, host)


@pytest.mark.parametrize("host", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("how", BREAKS, ids=lambda how: how.__name__.strip("_"))
def test_a_stream_cut_after_its_last_event_is_not_made_whole_by_the_proxy(
    proxy: Proxy, provider: Provider, host: str, how: Break
) -> None:
    """All events are there, but the framing says that it broke: whoever could not tell a cut must not learn it."""
    case = fresh()
    sent = STREAMS[host]("one two three four")
    provider.script(case, _cut(how, sent))
    body = question(case, host=host, stream=True)
    with proxy.connect(host) as client:
        first = client.ask(body, case=case)
        assert first.body == b"".join(sent)
    if how in (_close_end, _close_reset):
        return  # whole by its own account, the terminal event: it may be learned
    assert not first.whole
    _answered_anew_then_learned(proxy, provider, body, case, host)


@pytest.mark.parametrize("host", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("how", [_length_end, _length_reset, _close_end], ids=lambda how: how.__name__.strip("_"))
def test_a_json_answer_that_breaks_off_is_not_learned(proxy: Proxy, provider: Provider, host: str, how: Break) -> None:
    case = fresh()
    sent = WHOLES[host]("one two three four")[:-5]
    provider.script(case, _cut(how, [sent]))
    body = question(case, host=host)
    with proxy.connect(host) as client:
        first = client.ask(body, case=case)
    assert first.body == sent
    assert first.whole is (how is _close_end)
    _answered_anew_then_learned(proxy, provider, body, case, host)


def test_a_provider_that_hangs_up_before_its_head_gives_an_error_and_nothing_else(
    proxy: Proxy, provider: Provider
) -> None:
    async def hang_up(exchange: Exchange) -> bool:
        exchange.reset()
        return False

    case = fresh()
    provider.script(case, hang_up)
    body = question(case)
    with proxy.connect() as client:
        assert client.ask(body, case=case).status == 502
    _answered_anew_then_learned(proxy, provider, body, case, OPENAI)


def test_bytes_come_through_while_the_provider_stalls(proxy: Proxy, provider: Provider) -> None:
    go_on = asyncio.Event()
    chunks = chat_stream("one two three")

    async def stall(exchange: Exchange) -> None:
        await exchange.head(SSE, "transfer-encoding: chunked")
        for chunk in chunks[:2]:
            await exchange.chunk(chunk)
        await go_on.wait()
        for chunk in chunks[2:]:
            await exchange.chunk(chunk)
        await exchange.send(b"0\r\n\r\n")

    case = fresh()
    provider.script(case, stall)
    body = question(case, stream=True)
    with proxy.connect() as client:
        client.send(head_of(OPENAI, body, case=case) + body)
        client.head()
        got = [client.chunk(), client.chunk()]
        assert got == chunks[:2], "what was sent before the stall must not wait for what comes after"
        with proxy.connect() as other:
            assert other.ask(question(fresh()), case=fresh()).status == 200, "others are served meanwhile"
        provider.call(go_on.set)
        while chunk := client.chunk():
            got.append(chunk)
    assert got == chunks
    with proxy.connect() as client:
        assert client.ask(body, case=case).deflected


def _says(status: str, body: bytes, content_type: str, *fields: str) -> Script:
    async def script(exchange: Exchange) -> bool:
        head = [f"content-type: {content_type}", f"content-length: {len(body)}", *fields]
        await exchange.head(*head, status=status)
        await exchange.send(body)
        return True

    return script


ERRORS = {
    "rate-limit": ("429 Too Many Requests", b'{"error":{"message":"slow down"}}', "application/json", "retry-after: 7"),
    "overloaded": ("529 Site is overloaded", b'{"type":"error","error":{"type":"overloaded_error"}}', "application/json", "x-should-retry: true"),
    "html": ("500 Internal Server Error", b"<html><h1>oops</h1></html>", "text/html", "server: cloudflare"),
    "teapot with a sound body": ("418 I'm a teapot", chat("sound"), "application/json", "x-a: b"),
    "redirect": ("307 Temporary Redirect", b"", "text/plain", "location: https://elsewhere.example/"),
    "empty 200": ("200 OK", b"", "application/json", "x-a: b"),
    "204": ("204 No Content", b"", "application/json", "x-a: b"),
    "html 200": ("200 OK", b"<html>captive portal</html>", "text/html", "x-a: b"),
    "null": ("200 OK", b"null", "application/json", "x-a: b"),
    "array": ("200 OK", b"[]", "application/json", "x-a: b"),
    "empty object": ("200 OK", b"{}", "application/json", "x-a: b"),
    "error in a 200": ("200 OK", b'{"error":{"message":"no"}}', "application/json", "x-a: b"),
    "binary": ("200 OK", bytes(range(256)) * 20, "application/octet-stream", "x-a: b"),
    "truncated by the model": ("200 OK", chat("half", "length"), "application/json", "x-a: b"),
    "filtered": ("200 OK", chat("", "content_filter"), "application/json", "x-a: b"),
    "unknown ending": ("200 OK", chat("x", "quantum"), "application/json", "x-a: b"),
    "two documents": ("200 OK", chat("x") + chat("y"), "application/json", "x-a: b"),
    "deep": ("200 OK", b'{"choices":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "application/json", "x-a: b"),
    "wrong types": ("200 OK", b'{"id":7,"choices":[{"index":"x","message":[],"finish_reason":{}}],"usage":"many"}', "application/json", "x-a: b"),
    "choices of nothing": ("200 OK", b'{"id":"x","object":"chat.completion","choices":[null,3,"x"]}', "application/json", "x-a: b"),
    "invalid utf-8": ("200 OK", chat("caf\u00e9").replace("\u00e9".encode(), b"\xe9"), "application/json", "x-a: b"),
    "lone surrogate": ("200 OK", chat("SURROGATE").replace(b"SURROGATE", b"\\ud800"), "application/json", "x-a: b"),
    "gzip label on plain text": ("200 OK", chat("plain"), "application/json", "content-encoding: gzip"),
    "unknown coding": ("200 OK", chat("plain"), "application/json", "content-encoding: rot13"),
    "broken gzip": ("200 OK", b"\x1f\x8b\x08\x00garbage", "application/json", "content-encoding: gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_answer_that_is_no_whole_success_passes_as_it_is_and_is_not_learned(
    proxy: Proxy, provider: Provider, name: str
) -> None:
    status, sent, content_type, extra = ERRORS[name]
    case = fresh()
    provider.script(case, _says(status, sent, content_type, extra))
    body = question(case)
    with proxy.connect() as client:
        first = client.ask(body, case=case)
    assert first.status == int(status[:3])
    assert first.body == sent
    assert first.header("content-type") == content_type
    assert tuple(extra.split(": ", 1)) in first.headers
    _answered_anew_then_learned(proxy, provider, body, case, OPENAI)


HUGE = 10**40
SENT_AS_IT_IS = {
    "huge usage": chat("x").replace(b'"prompt_tokens": 5', b'"prompt_tokens": %d' % HUGE),
    "usage beyond 64 bits": chat("x").replace(b'"prompt_tokens": 5', b'"prompt_tokens": %d' % 2**64),
    "negative usage": chat("x").replace(b'"prompt_tokens": 5', b'"prompt_tokens": -5'),
    "usage in floats": chat("x").replace(b'"prompt_tokens": 5', b'"prompt_tokens": 1e308'),
    "NaN": chat("x").replace(b'"prompt_tokens": 5', b'"prompt_tokens": NaN'),
    "duplicate keys": chat("x").replace(b'"object"', b'"id":"chatcmpl-anotheranotheranother","object"'),
    "null id": chat("x").replace(b'"chatcmpl-providerproviderprovider"', b"null"),
    "NUL in the text": chat("a\x00b"),
    "every control character": chat("".join(map(chr, range(32)))),
    "text of a megabyte": chat("x" * (1 << 20)),
}


@pytest.mark.parametrize("name", SENT_AS_IT_IS)
def test_an_odd_but_possible_answer_passes_as_it_is_and_later_ones_say_the_same(
    proxy: Proxy, provider: Provider, name: str
) -> None:
    case = fresh()
    sent = SENT_AS_IT_IS[name]
    provider.script(case, _says("200 OK", sent, "application/json"), _says("200 OK", sent, "application/json"))
    body = question(case)
    with proxy.connect() as client:
        first, second = (client.ask(body, case=case) for _ in range(2))
        assert client.ask(question(fresh()), case=fresh()).status == 200
    assert first.body == sent
    assert second.status == 200
    if second.deflected:
        # Only the ids may differ.
        assert len(second.body) == len(sent)
    else:
        assert second.body == sent


STREAM_FAULTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "error event": lambda chunks: [*chunks[:3], b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'],
    "error event, then the rest": lambda chunks: [*chunks[:3], b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n', *chunks[3:]],
    "error object": lambda chunks: [*chunks[:3], b'data: {"error":{"message":"busy","code":500}}\n\n', *chunks[3:]],
    "no terminal event": lambda chunks: chunks[:-2],
    "half an event at the end": lambda chunks: [*chunks[:-1], chunks[-1][:-3]],
    "garbage in the middle": lambda chunks: [*chunks[:3], b"<html>\xff\xfe</html>\n\ndata: {\n\n", *chunks[3:]],
    "no event at all": lambda chunks: [b": keep-alive\n\n"] * 3,
    "nothing": lambda chunks: [],
    "a JSON body under the name of a stream": lambda chunks: [chat("x")],
}  # fmt: skip


@pytest.mark.parametrize("host", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_a_stream_that_ends_cleanly_but_is_no_whole_answer_is_not_learned(
    proxy: Proxy, provider: Provider, host: str, name: str
) -> None:
    sent = STREAM_FAULTS[name](STREAMS[host]("one two three four five"))
    case = fresh()

    async def script(exchange: Exchange) -> None:
        await exchange.stream(sent)

    provider.script(case, script)
    body = question(case, host=host, stream=True)
    with proxy.connect(host) as client:
        first = client.ask(body, case=case)
    assert first.whole
    assert first.body == b"".join(sent)
    _answered_anew_then_learned(proxy, provider, body, case, host)


def test_a_provider_that_speaks_no_http_gives_an_error_and_later_calls_work(proxy: Proxy, provider: Provider) -> None:
    async def nonsense(exchange: Exchange) -> bool:
        await exchange.send(b"\x16\x03\x01\x02\x00 SSH-2.0-OpenSSH_9.6\r\n\r\n")
        return False

    case = fresh()
    provider.script(case, nonsense)
    body = question(case)
    with proxy.connect() as client:
        assert client.ask(body, case=case).status == 502
    _answered_anew_then_learned(proxy, provider, body, case, OPENAI)


def test_a_provider_that_cannot_be_reached_costs_only_the_calls_that_need_it(state: Path) -> None:
    with Provider() as mortal:
        proxy = up(state, mortal.port)
        try:
            known, unknown = question(fresh()), question(fresh())
            with proxy.connect() as client:
                assert client.ask(known).status == 200
            mortal.__exit__()
            time.sleep(0.1)
            with proxy.connect() as client:
                assert client.ask(known).deflected, "a hit needs no provider"
                assert client.ask(unknown).status == 502
            healthy(proxy, proxy.log)
        finally:
            proxy.stop()
