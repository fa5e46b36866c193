"""Bodies of 300 MB in either direction stream through: every byte arrives, and the proxy hardly grows."""

import hashlib

import pytest

from tests.faults.client import OPENAI, fresh, head_of, question
from tests.faults.provider import Exchange, Provider
from tests.faults.proxy import Proxy

SIZE = 300 << 20
BLOCK = 1 << 20
MAX_GROWTH_BYTES = 150 << 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _blocks() -> list[bytes]:
    """One block, over and over: what matters is how many."""
    return [bytes(range(256)) * (BLOCK // 256)] * (SIZE // BLOCK)


def _digest() -> str:
    digest = hashlib.sha256()
    for block in _blocks():
        digest.update(block)
    return digest.hexdigest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_of_300_mb_streams_through(proxy: Proxy, provider: Provider, framing: str) -> None:
    case = fresh()
    before = proxy.reset_peak()
    with proxy.connect(wait_s=200) as client:
        if framing == "length":
            head = head_of(OPENAI, None, case=case, headers=[("content-length", str(SIZE))])
        else:
            head = head_of(OPENAI, None, case=case, headers=[("transfer-encoding", "chunked")])
        client.send(head)
        for block in _blocks():
            client.send(block if framing == "length" else b"%x\r\n%s\r\n" % (len(block), block))
        if framing == "chunked":
            client.send(b"0\r\n\r\n")
        reply = client.reply()
    assert reply.status == 200
    [asked] = provider.asked(case)
    assert (asked.size, asked.sha256) == (SIZE, _digest())
    grown = proxy.peak_bytes() - before
    assert grown < MAX_GROWTH_BYTES, f"{grown >> 20} MiB"
    with proxy.connect() as client:
        assert client.ask(question(fresh())).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_an_answer_of_300_mb_streams_through_and_is_not_kept(
    proxy: Proxy, provider: Provider, framing: str, kind: str
) -> None:
    async def pour(exchange: Exchange) -> bool:
        fields = {
            "length": f"content-length: {SIZE}",
            "chunked": "transfer-encoding: chunked",
            "close": "connection: close",
        }
        await exchange.head(f"content-type: {kind}", fields[framing])
        for block in _blocks():
            await (exchange.chunk(block) if framing == "chunked" else exchange.send(block))
        if framing == "chunked":
            await exchange.send(b"0\r\n\r\n")
        return framing != "close"

    case = fresh()
    provider.script(case, pour)
    body = question(case, stream=kind == "text/event-stream")
    before = proxy.reset_peak()
    digest, size = hashlib.sha256(), 0
    with proxy.connect(wait_s=200) as client:
        client.send(head_of(OPENAI, body, case=case) + body)
        status, fields = client.head()
        assert status == 200
        chunked = ("transfer-encoding", "chunked") in fields
        while size < SIZE and (data := client.chunk() if chunked else client.some()):
            digest.update(data)
            size += len(data)
    assert (size, digest.hexdigest()) == (SIZE, _digest())
    grown = proxy.peak_bytes() - before
    assert grown < MAX_GROWTH_BYTES, f"{grown >> 20} MiB"
    with proxy.connect() as client:
        assert not client.ask(body, case=case).deflected


def test_a_300_mb_upload_to_a_host_path_that_is_no_llm_call_streams_through(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    before = proxy.reset_peak()
    with proxy.connect(wait_s=200) as client:
        client.send(head_of(OPENAI, None, case=case, path="/v1/files", headers=[("content-length", str(SIZE))]))
        for block in _blocks():
            client.send(block)
        assert client.reply().status == 200
    assert provider.asked(case)[0].sha256 == _digest()
    assert proxy.peak_bytes() - before < MAX_GROWTH_BYTES
