"""The client breaks: the provider is not paid for what nobody reads, and nothing half is learned."""

import asyncio
import time

import pytest

from tests.faults.client import ANTHROPIC, CHAT, OPENAI, Client, fresh, head_of, question
from tests.faults.provider import Exchange, Provider, chat, chat_stream
from tests.faults.proxy import Proxy, wait_for

SSE = "content-type: text/event-stream"


async def _endless(exchange: Exchange) -> None:
    await exchange.head(SSE, "transfer-encoding: chunked")
    chunks = chat_stream("one two three")
    await exchange.chunk(chunks[0])
    while True:
        await exchange.chunk(chunks[1])
        await asyncio.sleep(0.02)


async def _silent(exchange: Exchange) -> None:
    await asyncio.sleep(60)


def test_when_the_client_leaves_in_mid_stream_the_provider_is_let_go_and_nothing_is_learned(
    proxy: Proxy, provider: Provider
) -> None:
    case = fresh()
    provider.script(case, _endless)
    body = question(case, stream=True)
    client = proxy.connect()
    client.send(head_of(OPENAI, body, case=case) + body)
    assert client.head()[0] == 200
    assert client.chunk()
    client.close()
    assert provider.asked(case)[0].closed.wait(5), "the provider goes on writing for nobody"
    with proxy.connect() as other:
        again = other.ask(body, case=case)
        assert not again.deflected
        assert again.whole
        assert other.ask(body, case=case).deflected


def test_when_the_client_leaves_before_the_answer_begins_the_provider_is_let_go(
    proxy: Proxy, provider: Provider
) -> None:
    case = fresh()
    provider.script(case, _silent)
    body = question(case)
    client = proxy.connect()
    client.send(head_of(OPENAI, body, case=case) + body)
    wait_for(lambda: provider.asked(case), "the request reaches the provider")
    client.close()
    assert provider.asked(case)[0].closed.wait(5)
    with proxy.connect() as other:
        assert not other.ask(body, case=case).deflected


def test_when_the_client_leaves_after_half_of_its_request_nothing_reaches_the_provider(
    proxy: Proxy, provider: Provider
) -> None:
    case = fresh()
    body = question(case)
    client = proxy.connect()
    client.send(head_of(OPENAI, body, case=case) + body[: len(body) // 2])
    time.sleep(0.1)
    client.close()
    with proxy.connect() as other:
        assert other.ask(question(fresh()), case=fresh()).status == 200
    assert provider.asked(case) == []


def test_one_who_follows_a_call_in_flight_gets_all_of_it_when_its_leader_leaves(
    proxy: Proxy, provider: Provider
) -> None:
    chunks = chat_stream("one two three four five six")
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.head(SSE, "transfer-encoding: chunked")
        for chunk in chunks[:3]:
            await exchange.chunk(chunk)
        half.set()
        await go_on.wait()
        for chunk in chunks[3:]:
            await exchange.chunk(chunk)
        await exchange.send(b"0\r\n\r\n")

    case = fresh()
    provider.script(case, slow)
    body = question(case, stream=True)
    leader, follower = proxy.connect(), proxy.connect()
    leader.send(head_of(OPENAI, body, case=case) + body)
    leader.head()
    assert leader.chunk() == chunks[0]
    follower.send(head_of(OPENAI, body, case=case) + body)
    status, _ = follower.head()
    assert status == 200
    leader.close()
    time.sleep(0.1)
    provider.call(go_on.set)
    got = b""
    while chunk := follower.chunk():
        got += chunk
    assert chunk == b""
    assert got == b"".join(chunks)
    assert len(provider.asked(case)) == 1
    follower.close()


def test_followers_of_a_broken_call_see_the_break_and_the_next_call_is_made_anew(
    proxy: Proxy, provider: Provider
) -> None:
    go_on = asyncio.Event()
    chunks = chat_stream("one two three")

    async def cut(exchange: Exchange) -> bool:
        await exchange.head(SSE, "transfer-encoding: chunked")
        await exchange.chunk(chunks[0])
        await go_on.wait()
        exchange.reset()
        return False

    case = fresh()
    provider.script(case, cut)
    body = question(case, stream=True)
    with proxy.connect() as leader, proxy.connect() as follower:
        for client in (leader, follower):
            client.send(head_of(OPENAI, body, case=case) + body)
            assert client.head()[0] == 200
            assert client.chunk() == chunks[0]
        provider.call(go_on.set)
        assert leader.chunk() is None
        assert follower.chunk() is None
    with proxy.connect() as client:
        assert not client.ask(body, case=case).deflected
    assert len(provider.asked(case)) == 2


def test_those_who_wait_for_a_call_that_ends_in_an_error_make_their_own(proxy: Proxy, provider: Provider) -> None:
    go_on = asyncio.Event()

    async def busy(exchange: Exchange) -> None:
        await go_on.wait()
        await exchange.whole(b'{"error":{"message":"busy"}}', status="529 Overloaded")

    case = fresh()
    provider.script(case, busy)
    body = question(case)
    with proxy.connect() as leader, proxy.connect() as follower:
        leader.send(head_of(OPENAI, body, case=case) + body)
        wait_for(lambda: provider.asked(case), "the first call goes out")
        follower.send(head_of(OPENAI, body, case=case) + body)
        time.sleep(0.2)
        assert len(provider.asked(case)) == 1
        provider.call(go_on.set)
        assert leader.reply().status == 529
        assert follower.reply().status == 200
    assert len(provider.asked(case)) == 2


@pytest.mark.parametrize("count", [30])
def test_connections_that_say_nothing_or_nonsense_leave_nothing_behind(proxy: Proxy, count: int) -> None:
    nonsense = [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x00\xff" + bytes(255), b"POST / HTTP/9.9\r\n\r\n",
                b"CONNECT : HTTP/1.1\r\n\r\n",
                b"POST http://api.openai.com/v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
                b"POST http://api.openai.com/v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"]  # fmt: skip
    with proxy.connect() as client:
        assert client.ask(question(fresh())).status == 200
    before = proxy.open_files()
    for number in range(count):
        client = Client(proxy.port, tunnel=False)
        client.send(nonsense[number % len(nonsense)])
        client.close()
    wait_for(lambda: proxy.open_files() <= before + 3, "the connections are closed")
    with proxy.connect(ANTHROPIC) as client:
        assert client.ask(question(fresh(), host=ANTHROPIC)).status == 200


def test_a_client_that_reads_slowly_gets_every_byte(proxy: Proxy, provider: Provider) -> None:
    sent = chat("slow " * 400_000)

    async def large(exchange: Exchange) -> None:
        await exchange.whole(sent)

    case = fresh()
    provider.script(case, large)
    body = question(case)
    with proxy.connect() as client:
        client.send(head_of(OPENAI, body, case=case, path=CHAT) + body)
        client.head()
        got = bytearray(client.read(1))
        time.sleep(0.3)
        while len(got) < len(sent):
            more = client.some()
            assert more
            got += more
    assert bytes(got) == sent
