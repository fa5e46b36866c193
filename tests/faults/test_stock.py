"""The same addon in a stock mitmdump: faults and inputs leave no trace in its log either."""

import gzip
import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.faults.client import ANTHROPIC, OPENAI, fresh, head_of, question
from tests.faults.provider import Exchange, Provider, chat, chat_stream
from tests.faults.proxy import Proxy, healthy, stock


@pytest.fixture(scope="module")
def mitmdump(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = stock(tmp_path_factory.mktemp("stock") / "state", provider.port)
    yield proxy
    healthy(proxy, proxy.log)
    proxy.stop()


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_stream_that_breaks_off_is_not_learned_in_mitmdump(mitmdump: Proxy, provider: Provider, framing: str) -> None:
    sent = chat_stream("one two three")[:-2]

    async def cut(exchange: Exchange) -> bool:
        head = "transfer-encoding: chunked" if framing == "chunked" else "content-length: 9999"
        await exchange.head("content-type: text/event-stream", head)
        for chunk in sent:
            await (exchange.chunk(chunk) if framing == "chunked" else exchange.send(chunk))
        return False

    case = fresh()
    provider.script(case, cut)
    body = question(case, stream=True)
    with mitmdump.connect() as client:
        first = client.ask(body, case=case)
    assert (first.body, first.whole) == (b"".join(sent), False)
    with mitmdump.connect() as client:
        assert not client.ask(body, case=case).deflected
        assert client.ask(body, case=case).deflected


BODIES = [b"", b"\xff\xfe", b"[]", b'"x"', b"{" * 50_000, b'{"messages":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
          b'{"model":1,"messages":{}}', b'{"model":"a","model":"b","messages":[]}', b'{"x":"\\ud800"}',
          b'{"messages":[' + b"{}," * 2_000_000 + b"{}]}"]  # fmt: skip


def test_strange_bodies_reach_the_provider_untouched_in_mitmdump(mitmdump: Proxy, provider: Provider) -> None:
    for host in (OPENAI, ANTHROPIC):
        for body in BODIES:
            case = fresh()
            with mitmdump.connect(host) as client:
                assert client.ask(body, case=case).status == 200
            assert provider.asked(case)[0].sha256 == hashlib.sha256(body).hexdigest()


def test_a_large_body_of_unknown_length_streams_through_in_mitmdump(mitmdump: Proxy, provider: Provider) -> None:
    case = fresh()
    block = bytes(1 << 20)
    digest = hashlib.sha256()
    before = mitmdump.reset_peak()
    with mitmdump.connect() as client:
        client.send(head_of(OPENAI, None, case=case, headers=[("transfer-encoding", "chunked")]))
        for _ in range(64):
            client.send(b"%x\r\n%s\r\n" % (len(block), block))
            digest.update(block)
        client.send(b"0\r\n\r\n")
        assert client.reply().status == 200
    assert provider.asked(case)[0].sha256 == digest.hexdigest()
    assert mitmdump.peak_bytes() - before < 150 << 20


def test_a_compressed_answer_is_learned_and_a_broken_one_is_not_in_mitmdump(
    mitmdump: Proxy, provider: Provider
) -> None:
    for broken in (False, True):
        packed = gzip.compress(chat("packed"))
        sent = packed[:-4] if broken else packed

        async def script(exchange: Exchange, sent: bytes = sent) -> None:
            await exchange.head(
                "content-type: application/json", "content-encoding: gzip", f"content-length: {len(sent)}"
            )
            await exchange.send(sent)

        case = fresh()
        provider.script(case, script)
        body = question(case)
        with mitmdump.connect() as client:
            assert client.ask(body, case=case).body == sent
            second = client.ask(body, case=case)
        assert second.deflected is not broken
        if not broken:
            assert json.loads(second.body)["choices"][0]["message"]["content"] == "packed"
