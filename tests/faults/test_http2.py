"""The same over HTTP/2: a provider that resets a stream, a client that resets one, and bytes that stay what they were."""

import asyncio
import hashlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated

from tests.faults.client import fresh, question
from tests.faults.provider import chat, chat_stream
from tests.faults.proxy import Proxy, healthy, up, wait_for

WAIT_S = 20.0
URL = "https://api.openai.com/v1/chat/completions"
SSE = [(":status", "200"), ("content-type", "text/event-stream")]


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "provider.pem"
    key_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key_text)
    return path


class Stream:
    """One request at the provider, to be answered by a test's script."""

    def __init__(self, server: "_Connection", number: int, case: str) -> None:
        self.case = case
        self.body = b""
        self.reset = threading.Event()
        self._server = server
        self._number = number

    def head(self, headers: list[tuple[str, str]], *, end: bool = False) -> None:
        self._server.h2.send_headers(self._number, headers, end_stream=end)
        self._server.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        self._server.h2.send_data(self._number, data, end_stream=end)
        self._server.flush()

    def break_off(self, code: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        self._server.h2.reset_stream(self._number, code)
        self._server.flush()

    def goodbye(self) -> None:
        self._server.h2.close_connection(ErrorCodes.INTERNAL_ERROR)
        self._server.flush()
        self._server.transport.close()


type Script = Callable[[Stream], None]


class _Connection(asyncio.Protocol):
    def __init__(self, provider: "H2Provider") -> None:
        self.provider = provider
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.streams: dict[int, Stream] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in self.streams.values():
            stream.reset.set()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived():
                    case = dict(event.headers).get(b"x-case", b"").decode()
                    stream = self.streams[event.stream_id] = Stream(self, event.stream_id, case)
                    self.provider.seen.append(stream)
                case DataReceived():
                    self.streams[event.stream_id].body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    stream = self.streams[event.stream_id]
                    scripts = self.provider.scripts.get(stream.case, [])
                    (scripts.pop(0) if scripts else _sound)(stream)
                case StreamReset():
                    self.streams[event.stream_id].reset.set()
                case WindowUpdated():
                    pass
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())


def _sound(stream: Stream) -> None:
    text = f"{stream.case} {hashlib.sha256(stream.body).hexdigest()}"
    if b'"stream":true' in stream.body:
        stream.head(SSE)
        chunks = chat_stream(text)
        for number, chunk in enumerate(chunks):
            stream.data(chunk, end=number == len(chunks) - 1)
    else:
        stream.head([(":status", "200"), ("content-type", "application/json")])
        stream.data(chat(text), end=True)


class H2Provider:
    def __init__(self, certificate: Path) -> None:
        self.seen: list[Stream] = []
        self.scripts: dict[str, list[Script]] = {}
        self.port = 0
        self._certificate = certificate
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(WAIT_S)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)

    async def _listen(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate)
        context.set_alpn_protocols(["h2"])
        server = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]

    def asked(self, case: str) -> list[Stream]:
        return [stream for stream in self.seen if stream.case == case]


@pytest.fixture(scope="module")
def h2_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[H2Provider]:
    provider = H2Provider(_certificate(tmp_path_factory.mktemp("h2")))
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def h2_proxy(shared_proxy: Proxy, h2_provider: H2Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Made after the shared proxy, whose CA it takes over."""
    origin = f"promptweir_upstream=api.openai.com=https://127.0.0.1:{h2_provider.port}"
    trust = f"ssl_verify_upstream_trusted_ca={h2_provider._certificate}"
    proxy = up(tmp_path_factory.mktemp("h2") / "state", 1, origin, trust)
    yield proxy
    healthy(proxy, proxy.log)
    proxy.stop()


class _OnlyH2(ssl.SSLContext):
    """What httpx offers puts HTTP/1.1 first, and the proxy takes the first."""

    @classmethod
    def trusting(cls, ca: Path) -> "_OnlyH2":
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca)
        return context

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        super().set_alpn_protocols(["h2"])


@pytest.fixture
def client(h2_proxy: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(
        http2=True,
        proxy=f"http://127.0.0.1:{h2_proxy.port}",
        verify=_OnlyH2.trusting(h2_proxy.ca),
        timeout=WAIT_S,
        headers={"authorization": "Bearer sk-test", "content-type": "application/json"},
        trust_env=False,
    ) as made:
        yield made


def _deflected(response: httpx.Response) -> bool:
    return bool(response.headers.get("x-promptweir-deflected") == "true")


def test_bytes_are_the_same_over_http_2_and_a_repeat_is_a_hit(client: httpx.Client, h2_provider: H2Provider) -> None:
    for stream in (False, True):
        case = fresh()
        body = question(case, stream=stream)
        first, second = (client.post(URL, content=body, headers={"x-case": case}) for _ in range(2))
        assert first.http_version == "HTTP/2"
        assert [one.body for one in h2_provider.asked(case)] == [body]
        assert hashlib.sha256(body).hexdigest() in first.text
        assert _deflected(second)


@pytest.mark.parametrize("how", ["reset", "goodbye", "reset at the end", "cancel"])
def test_a_stream_that_the_provider_resets_is_reset_at_the_client_and_not_learned(
    client: httpx.Client, h2_provider: H2Provider, how: str
) -> None:
    chunks = chat_stream("one two three four")
    sent = chunks if how == "reset at the end" else chunks[:-3]

    def script(stream: Stream) -> None:
        stream.head(SSE)
        for chunk in sent:
            stream.data(chunk)
        end = {"goodbye": stream.goodbye, "cancel": lambda: stream.break_off(ErrorCodes.CANCEL)}
        h2_provider.loop.call_later(0.1, end.get(how, stream.break_off))

    case = fresh()
    h2_provider.scripts[case] = [script]
    body = question(case, stream=True)
    got = b""
    with (
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
        client.stream("POST", URL, content=body, headers={"x-case": case}) as response,
    ):
        for data in response.iter_raw():
            got += data
    assert got == b"".join(sent)
    second, third = (client.post(URL, content=body, headers={"x-case": case}) for _ in range(2))
    assert not _deflected(second)
    assert second.content.endswith(b"[DONE]\n\n")
    assert _deflected(third)
    assert len(h2_provider.asked(case)) == 2


def _leave(proxy: Proxy, body: bytes, case: str, *, reset: bool) -> None:
    """Ask, and leave when the answer has begun: by a reset of the stream, or by closing the connection."""
    h2 = H2Connection()
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as plain:
        plain.sendall(b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n\r\n")
        while not plain.recv(1 << 16).endswith(b"\r\n\r\n"):
            pass
        context = _OnlyH2.trusting(proxy.ca)
        context.set_alpn_protocols([])
        with context.wrap_socket(plain, server_hostname="api.openai.com") as wire:
            h2.initiate_connection()
            head = [(":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "https"),
                    (":authority", "api.openai.com"), ("authorization", "Bearer sk-test"), ("x-case", case)]  # fmt: skip
            h2.send_headers(1, head)
            h2.send_data(1, body, end_stream=True)
            wire.sendall(h2.data_to_send())
            while not any(isinstance(event, DataReceived) for event in h2.receive_data(wire.recv(1 << 16))):
                wire.sendall(h2.data_to_send())
            if reset:
                h2.reset_stream(1, ErrorCodes.CANCEL)
                wire.sendall(h2.data_to_send())
                time.sleep(1)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "connection closed"])
def test_a_client_that_leaves_its_stream_frees_the_provider(
    h2_proxy: Proxy, client: httpx.Client, h2_provider: H2Provider, reset: bool
) -> None:
    def script(stream: Stream) -> None:
        stream.head(SSE)
        stream.data(chat_stream("one")[0])

    case = fresh()
    h2_provider.scripts[case] = [script]
    body = question(case, stream=True)
    _leave(h2_proxy, body, case, reset=reset)
    assert h2_provider.asked(case)[0].reset.wait(5), "the provider goes on for nobody"
    again = client.post(URL, content=body, headers={"x-case": case})
    assert not _deflected(again)


def test_a_reset_before_the_head_is_an_error_and_later_calls_work(
    client: httpx.Client, h2_provider: H2Provider
) -> None:
    case = fresh()
    h2_provider.scripts[case] = [lambda stream: stream.break_off()]
    body = question(case)
    try:
        assert client.post(URL, content=body, headers={"x-case": case}).status_code == 502
    except httpx.RemoteProtocolError:
        pass
    assert client.post(URL, content=body, headers={"x-case": case}).status_code == 200


def test_many_streams_on_one_connection_do_not_mix(h2_proxy: Proxy, client: httpx.Client) -> None:
    cases = [fresh() for _ in range(8)]
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(10):
            case = cases[(number * 3 + turn) % len(cases)]
            text = client.post(URL, content=question(case), headers={"x-case": case}).text
            if case not in text:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    wait_for(lambda: h2_proxy.alive, "it lives")
