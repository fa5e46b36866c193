"""Streaming and single flight through a real mitmdump, with real TLS, HTTP/1.1 and HTTP/2 on both sides.

The upstream does nothing by itself: every test says what it sends and when, so that no test depends on sleeping.
"""

import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h11
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.test import tflow

from promptweir.addons import _streaming
from promptweir.addons._tee import Tee

ADDON = Path(__file__).with_name("coalescing_addon.py")
STEP_S = 10.0  # a busy machine; nothing here takes longer than some milliseconds
PROMPTLY_S = 1.0
SSE = [(b"content-type", b"text/event-stream")]
PIECES = 192  # 12 MB: more than two sockets' buffers and the flight hold together
TOKENS = [b"data: %d\n\n" % number for number in range(5)]


class BrokenAnswerError(Exception):
    """The client saw that the answer has no clean end."""


async def soon[T](awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, STEP_S)


# --- the provider's side ---------------------------------------------------------------------------------------------


@dataclass
class UpstreamCall:
    """One request that arrived, and the means to answer it."""

    body: bytes
    head: Callable[[int], Awaitable[None]]
    send: Callable[[bytes], Awaitable[None]]
    finish: Callable[[], Awaitable[None]]
    cut: Callable[[], Awaitable[None]]
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Upstream:
    """A TLS server for HTTP/1.1 and HTTP/2 that hands each call to the test."""

    def __init__(self) -> None:
        self.port = 0
        self.arrived: asyncio.Queue[UpstreamCall] = asyncio.Queue()
        self.count = 0

    async def call(self) -> UpstreamCall:
        return await soon(self.arrived.get())

    def _arrive(self, call: UpstreamCall) -> UpstreamCall:
        self.count += 1
        self.arrived.put_nowait(call)
        return call

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
                await self._serve_h2(reader, writer)
            else:
                await self._serve_h1(reader, writer)
        writer.close()

    async def _serve_h1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        async def head(status: int) -> None:
            fields = b"".join(b"%s: %s\r\n" % pair for pair in SSE)
            await write(b"HTTP/1.1 %d X\r\ntransfer-encoding: chunked\r\n%s\r\n" % (status, fields))

        async def cut() -> None:
            writer.transport.abort()

        call: UpstreamCall | None = None
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                length = int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                call = self._arrive(
                    UpstreamCall(
                        body=await reader.readexactly(length),
                        head=head,
                        send=lambda data: write(b"%x\r\n%s\r\n" % (len(data), data)),
                        finish=lambda: write(b"0\r\n\r\n"),
                        cut=cut,
                    )
                )
        finally:
            if call is not None:
                call.gone.set()

    async def _serve_h2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        calls: dict[int, UpstreamCall] = {}
        bodies: dict[int, bytes] = {}

        async def flush() -> None:
            writer.write(conn.data_to_send())
            await writer.drain()

        def call_of(stream: int) -> UpstreamCall:
            async def head(status: int) -> None:
                conn.send_headers(stream, [(b":status", b"%d" % status), *SSE])
                await flush()

            async def send(data: bytes) -> None:
                conn.send_data(stream, data)
                await flush()

            async def finish() -> None:
                conn.end_stream(stream)
                await flush()

            async def cut() -> None:
                conn.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
                await flush()

            return UpstreamCall(body=bodies[stream], head=head, send=send, finish=finish, cut=cut)

        await flush()
        while data := await reader.read(65536):
            for event in conn.receive_data(data):
                match event:
                    case h2.events.RequestReceived(stream_id=int(stream)):
                        bodies[stream] = b""
                    case h2.events.DataReceived(stream_id=int(stream)):
                        bodies[stream] += event.data or b""
                        conn.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                    case h2.events.StreamEnded(stream_id=int(stream)):
                        calls[stream] = self._arrive(call_of(stream))
                    case h2.events.StreamReset(stream_id=int(stream)) if stream in calls:
                        calls[stream].gone.set()
            await flush()
        for call in calls.values():
            call.gone.set()


@pytest.fixture(scope="module")
def upstream_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path = tmp_path_factory.mktemp("upstream") / "server.pem"
    encoding, layout, plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(pem + key.private_bytes(encoding, layout, plain))
    return path


@pytest.fixture
async def upstream(upstream_tls: Path) -> AsyncIterator[Upstream]:
    async with running_upstream(upstream_tls, ["http/1.1"]) as server:
        yield server


@contextlib.asynccontextmanager
async def running_upstream(pem: Path, protocols: list[str]) -> AsyncIterator[Upstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(protocols)
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=context)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    server.close()


# --- the proxy -------------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    process: subprocess.Popen[bytes]
    regular: int
    gateway: int
    chained: int
    ca: Path

    def wait_until_up(self) -> None:
        for _ in range(600):  # a script is loaded after the ports are open
            assert self.process.poll() is None
            with contextlib.suppress(urllib.error.URLError):
                self.get_state()
                return
            time.sleep(0.05)
        raise AssertionError("the proxy or its addon did not come up")

    def get_state(self) -> dict[str, object]:
        handler = urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{self.regular}"})
        with urllib.request.build_opener(handler).open("http://control.test/", timeout=STEP_S) as response:
            return dict(json.load(response))

    async def state(self) -> dict[str, object]:
        return await asyncio.to_thread(self.get_state)

    async def until(self, **wanted: object) -> dict[str, object]:
        """Wait for a state: what is measured elsewhere has no other signal for a test."""
        deadline = asyncio.get_running_loop().time() + STEP_S
        while (state := await self.state()) | wanted != state:
            assert asyncio.get_running_loop().time() < deadline, f"wanted {wanted}, got {state}"
            await asyncio.sleep(0.01)
        return state


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def mitmdump(confdir: Path, log: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A mitmdump that must not complain, and has to stop at once on SIGINT."""
    settings = [f"confdir={confdir}", "connection_strategy=lazy", "flow_detail=0", "listen_host=127.0.0.1"]
    command = [Path(sys.executable).with_name("mitmdump"), "--ssl-insecure", *arguments]
    command += [part for setting in settings for part in ("--set", setting)]
    complaints = ("crashed", "Traceback", "Addon error", "never retrieved")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        yield process
        assert not any(word in log.read_text() for word in complaints), log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STEP_S)
        finally:
            process.kill()


@contextlib.contextmanager
def running_proxy(folder: Path, parent: int = 1) -> Iterator[Proxy]:
    regular, gateway, chained = free_ports(3)
    modes = [f"regular@{regular}", f"reverse:http://gateway.invalid:1@{gateway}"]
    modes += [f"upstream:http://127.0.0.1:{parent}@{chained}"]
    arguments = ["-s", str(ADDON), *(part for mode in modes for part in ("--mode", mode))]
    with mitmdump(folder, folder / "log", *arguments) as process:
        proxy = Proxy(process, regular, gateway, chained, folder / "mitmproxy-ca-cert.pem")
        proxy.wait_until_up()
        yield proxy


class Tunnel(socketserver.BaseRequestHandler):
    """A corporate proxy that does not decrypt: CONNECT, then bytes both ways."""

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        host, port = head.split()[1].decode().split(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as there:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            onward = threading.Thread(target=self.copy, args=(self.request, there), daemon=True)
            onward.start()
            self.copy(there, self.request)

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def parent_proxy() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, parent_proxy: int) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), parent_proxy) as running:
        yield running


@pytest.fixture(autouse=True)
async def _nothing_is_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    if "proxy" in request.fixturenames:
        state = await request.getfixturevalue("proxy").until(flights=0, held=0, orphans=0, connections=1)
        assert state["followers"] == 0


# --- the client's side -----------------------------------------------------------------------------------------------

Answer = asyncio.Queue[tuple[int, dict[bytes, bytes]] | bytes | BrokenAnswerError | None]


class Call:
    """A call of a client: what it gets, piece by piece, and ways to leave."""

    def __init__(self, leave: Callable[[], Awaitable[None]], disconnect: Callable[[], Awaitable[None]]) -> None:
        self.answer: Answer = asyncio.Queue()
        self.leave = leave
        """Leave this call: HTTP/2 resets the stream, HTTP/1 has to close."""
        self.disconnect = disconnect

    async def next(self) -> object:
        got = await soon(self.answer.get())
        if isinstance(got, BrokenAnswerError):
            raise got
        return got

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        got = await self.next()
        assert isinstance(got, tuple), got
        return got

    async def read(self, size: int) -> bytes:
        """Exactly *size* bytes: nothing more than this may be there yet."""
        got = b""
        while len(got) < size:
            piece = await self.next()
            assert isinstance(piece, bytes), f"{piece} after {got!r}"
            got += piece
        assert len(got) == size
        return got

    async def rest(self) -> bytes:
        got = b""
        while (piece := await self.next()) is not None:
            assert isinstance(piece, bytes), piece
            got += piece
        return got


class Client:
    """Opens calls on one of the ways into the proxy."""

    def __init__(self, proxy: Proxy, upstream: Upstream, way: str) -> None:
        self.proxy = proxy
        self.port = upstream.port
        self.way = way
        self.tasks: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.sessions: list[H2Session] = []

    async def call(
        self, body: bytes = b"same", headers: dict[str, str] | None = None, *, version: bytes = b"1.1"
    ) -> Call:
        reader, writer = await self._open()
        self.writers.append(writer)
        if writer.get_extra_info("ssl_object") and self.way == "connect-h2":
            session = H2Session(reader, writer)
            self.sessions.append(session)
            self.tasks.append(asyncio.create_task(session.run()))
            return session.call(self.port, body, headers or {})
        fields = {"host": f"127.0.0.1:{self.port}", "content-length": str(len(body)), "x-origin-port": str(self.port)}
        lines = [f"{name}: {value}\r\n" for name, value in (fields | (headers or {})).items()]
        writer.write(b"POST /v1 HTTP/%s\r\n%s\r\n%s" % (version, "".join(lines).encode(), body))

        async def disconnect() -> None:
            writer.close()

        call = Call(disconnect, disconnect)
        self.tasks.append(asyncio.create_task(read_h1(reader, call)))
        return call

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.way == "reverse":
            return await asyncio.open_connection("127.0.0.1", self.proxy.gateway)
        port = self.proxy.chained if self.way == "upstream" else self.proxy.regular
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        target = f"127.0.0.1:{self.port}"
        writer.write(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        assert b" 200 " in await soon(reader.readuntil(b"\r\n\r\n"))
        context = ssl.create_default_context(cafile=self.proxy.ca)
        context.set_alpn_protocols(["h2"] if self.way == "connect-h2" else ["http/1.1"])
        await soon(writer.start_tls(context, server_hostname="127.0.0.1"))
        return reader, writer

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.close()


async def read_h1(reader: asyncio.StreamReader, call: Call) -> None:
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    conn.send(h11.EndOfMessage())
    try:
        while True:
            match conn.next_event():
                case h11.NEED_DATA:
                    try:
                        conn.receive_data(await reader.read(65536))
                    except OSError:
                        conn.receive_data(b"")
                case h11.Response(status_code=status, headers=headers):
                    call.answer.put_nowait((status, dict(headers)))
                case h11.Data(data=data):
                    call.answer.put_nowait(bytes(data))
                case h11.EndOfMessage():
                    call.answer.put_nowait(None)
                    return
                case other:
                    call.answer.put_nowait(BrokenAnswerError(f"{other}"))
                    return
    except h11.RemoteProtocolError as error:
        call.answer.put_nowait(BrokenAnswerError(str(error)))


class H2Session:
    """One HTTP/2 connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.reader, self.writer = reader, writer
        self.calls: dict[int, Call] = {}
        self.conn.initiate_connection()
        self.conn.increment_flow_control_window(1 << 24)

    def call(self, port: int, body: bytes, headers: dict[str, str]) -> Call:
        stream = self.conn.get_next_available_stream_id()

        async def leave() -> None:
            self.conn.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            self.writer.write(self.conn.data_to_send())

        async def disconnect() -> None:
            self.writer.close()

        call = self.calls[stream] = Call(leave, disconnect)
        pseudo = {":method": "POST", ":scheme": "https", ":authority": f"127.0.0.1:{port}", ":path": "/v1"}
        self.conn.send_headers(stream, list((pseudo | {"content-length": str(len(body))} | headers).items()))
        self.conn.send_data(stream, body, end_stream=True)
        self.writer.write(self.conn.data_to_send())
        return call

    async def run(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self.reader.read(65536):
                for event in self.conn.receive_data(data):
                    self._note(event)
                self.writer.write(self.conn.data_to_send())

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream)):
                fields = {bytes(name): bytes(value) for name, value in event.headers or []}
                self.calls[stream].answer.put_nowait((int(fields[b":status"]), fields))
            case h2.events.DataReceived(stream_id=int(stream)):
                self.conn.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                if event.data:
                    self.calls[stream].answer.put_nowait(event.data)
            case h2.events.StreamEnded(stream_id=int(stream)):
                self.calls[stream].answer.put_nowait(None)
            case h2.events.StreamReset(stream_id=int(stream)):
                self.calls[stream].answer.put_nowait(BrokenAnswerError(f"reset {event.error_code}"))


Connect = Callable[[str], Client]


@pytest.fixture
async def connect(proxy: Proxy, upstream: Upstream) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def make(way: str) -> Client:
        clients.append(Client(proxy, upstream, way))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


WAYS = ["connect-h1", "connect-h2", "reverse", "upstream"]
every_way = pytest.mark.parametrize("way", WAYS)
h1_and_h2 = pytest.mark.parametrize("way", ["connect-h1", "connect-h2"])


async def taking_off(connect: Connect, proxy: Proxy, upstream: Upstream, way: str) -> tuple[Call, Call, UpstreamCall]:
    """A leader and a follower who both have had the first token."""
    client = connect(way)
    leader = await client.call()
    provider = await upstream.call()
    follower = await client.call()
    await provider.head(200)
    await provider.send(TOKENS[0])
    for call in (leader, follower):
        assert (await call.head())[0] == 200
        assert await call.read(len(TOKENS[0])) == TOKENS[0]
    return leader, follower, provider


async def finish(provider: UpstreamCall) -> bytes:
    """Let the provider say the rest, and return it."""
    for token in TOKENS[1:]:
        await provider.send(token)
    await provider.finish()
    return b"".join(TOKENS[1:])


# --- the tests -------------------------------------------------------------------------------------------------------


@every_way
async def test_tokens_come_one_by_one_to_the_leader_to_followers_and_to_who_joins_late(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str
):
    leader, follower, provider = await taking_off(connect, proxy, upstream, way)
    for token in TOKENS[1:4]:
        await provider.send(token)
        for call in (leader, follower):
            assert await call.read(len(token)) == token
    late = await connect(way).call()
    _, headers = await late.head()
    so_far = b"".join(TOKENS[:4])
    assert await late.read(len(so_far)) == so_far
    await provider.send(TOKENS[4])
    await provider.finish()

    for call in (leader, follower, late):
        assert await call.rest() == TOKENS[4]
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"x-role"] == b"follower"
    assert (b"transfer-encoding" in headers) == (way != "connect-h2")
    assert upstream.count == 1


async def test_httpx_streams_a_followed_answer(connect: Connect, proxy: Proxy, upstream: Upstream):
    leader = await connect("connect-h1").call()
    provider = await upstream.call()
    context = ssl.create_default_context(cafile=proxy.ca)
    async with httpx.AsyncClient(proxy=f"http://127.0.0.1:{proxy.regular}", verify=context) as client:
        url = f"https://127.0.0.1:{upstream.port}/v1"
        asking = asyncio.create_task(client.send(client.build_request("POST", url, content=b"same"), stream=True))
        await proxy.until(followers=1)
        await provider.head(200)
        response = await soon(asking)
        await provider.send(TOKENS[0])
        pieces = response.aiter_bytes()
        assert await soon(anext(pieces)) == TOKENS[0]
        rest = await finish(provider)

        assert b"".join([piece async for piece in pieces]) == rest
    assert (await leader.head())[0] == 200
    assert await leader.rest() == TOKENS[0] + rest
    assert upstream.count == 1


@pytest.mark.parametrize("farewell", ["leave", "disconnect"])
@every_way
async def test_the_leader_may_leave_in_the_middle_and_the_follower_gets_everything(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str, farewell: str
):
    leader, follower, provider = await taking_off(connect, proxy, upstream, way)
    await (leader.leave() if farewell == "leave" else leader.disconnect())
    await proxy.until(orphans=1)
    late = await connect(way).call()
    await late.head()
    rest = await finish(provider)

    assert await follower.rest() == rest
    assert await late.rest() == TOKENS[0] + rest
    assert upstream.count == 1
    state = await proxy.until(orphans=0)
    assert isinstance(state["learned"], list)
    assert state["learned"][-1].encode() == TOKENS[0] + rest
    if farewell == "disconnect" or way != "connect-h2":
        await asyncio.wait_for(provider.gone.wait(), PROMPTLY_S)


@every_way
async def test_the_leader_may_leave_before_the_provider_says_anything(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str
):
    leader = await connect(way).call()
    provider = await upstream.call()
    follower = await connect(way).call()
    await proxy.until(followers=1)
    await leader.leave()
    await proxy.until(orphans=1)
    await provider.head(200)
    await provider.send(TOKENS[0])

    assert (await follower.head())[0] == 200
    assert await follower.read(len(TOKENS[0])) == TOKENS[0]
    rest = await finish(provider)
    assert await follower.rest() == rest
    assert upstream.count == 1


async def test_an_http2_provider_serves_orphans_as_well(proxy: Proxy, upstream_tls: Path):
    async with running_upstream(upstream_tls, ["h2"]) as upstream:
        client = Client(proxy, upstream, "connect-h2")
        leader, follower, provider = await taking_off(lambda _: client, proxy, upstream, "connect-h2")
        await leader.leave()
        await proxy.until(orphans=1)
        await provider.send(TOKENS[1])
        assert await follower.read(len(TOKENS[1])) == TOKENS[1]
        await follower.leave()

        await asyncio.wait_for(provider.gone.wait(), PROMPTLY_S)
        await client.close()


@pytest.mark.parametrize("order", ["leader first", "follower first"])
@every_way
async def test_when_all_have_left_the_upstream_is_closed_at_once(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str, order: str
):
    leader, follower, provider = await taking_off(connect, proxy, upstream, way)
    first, second = (leader, follower) if order == "leader first" else (follower, leader)
    await first.leave()
    await (proxy.until(orphans=1) if order == "leader first" else proxy.until(followers=0))
    assert not provider.gone.is_set()
    await second.leave()

    await asyncio.wait_for(provider.gone.wait(), PROMPTLY_S)
    state = await proxy.until(flights=0, orphans=0)
    assert isinstance(state["ended"], list)
    assert state["ended"][-2:] == ["error aborted"] * 2


@h1_and_h2
@pytest.mark.parametrize("failure", ["cut before head", 429, 500])
async def test_when_the_leader_fails_the_next_is_promoted_and_the_last_follows_it(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str, failure: str | int
):
    leader = await connect(way).call()
    provider = await upstream.call()
    others = [await connect(way).call() for _ in range(2)]
    await proxy.until(followers=2)
    if isinstance(failure, int):
        await provider.head(failure)
        await provider.finish()
        assert (await leader.head())[0] == failure
    else:
        await provider.cut()
        assert (await leader.head())[0] == 502
    second = await upstream.call()
    await proxy.until(followers=1)
    await second.head(200)
    rest = await finish(second)

    for call in others:
        assert (await call.head())[0] == 200
        assert await call.rest() == rest
    assert upstream.count == 2


async def test_a_refused_connection_promotes_too_and_everybody_gets_the_proxys_own_error(
    connect: Connect, proxy: Proxy, upstream: Upstream
):
    client = connect("connect-h1")
    (client.port,) = free_ports(1)
    calls = [await client.call() for _ in range(3)]

    for call in calls:
        assert (await call.head())[0] == 502


@every_way
async def test_a_provider_that_breaks_in_the_middle_is_visible_to_the_follower_too(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str
):
    leader, follower, provider = await taking_off(connect, proxy, upstream, way)
    await provider.cut()

    for call in (leader, follower):
        with pytest.raises(BrokenAnswerError):
            await call.rest()
    assert upstream.count == 1


@every_way
async def test_a_follower_may_leave_and_nobody_else_notices(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str
):
    leader, follower, provider = await taking_off(connect, proxy, upstream, way)
    leaver = await connect(way).call()
    await leaver.head()
    await leaver.read(len(TOKENS[0]))
    await leaver.leave()
    await proxy.until(followers=1)
    rest = await finish(provider)

    assert await leader.rest() == await follower.rest() == rest
    assert upstream.count == 1


@h1_and_h2
async def test_a_follower_that_leaves_while_it_waits_is_not_promoted(
    connect: Connect, proxy: Proxy, upstream: Upstream, way: str
):
    leader = await connect(way).call()
    provider = await upstream.call()
    leaver = await connect(way).call()
    await proxy.until(followers=1)
    stayer = await connect(way).call()
    await proxy.until(followers=2)
    await leaver.leave()
    await proxy.until(followers=1)
    await provider.cut()
    assert (await leader.head())[0] == 502
    second = await upstream.call()
    await second.head(200)

    assert (await stayer.head())[0] == 200
    whole = await finish(second)
    assert await stayer.rest() == whole
    assert upstream.count == 2


async def test_a_call_that_only_waits_for_the_outcome_is_told_when_the_answer_was_learned(
    connect: Connect, proxy: Proxy, upstream: Upstream
):
    leader = await connect("connect-h1").call()
    provider = await upstream.call()
    waiter = await connect("connect-h1").call(headers={"x-wait-for": "outcome"})
    await proxy.until(followers=1)
    await leader.leave()
    await proxy.until(orphans=1)
    await provider.head(200)
    await finish(provider)

    assert (await waiter.head())[0] == 200
    assert await waiter.rest() == b"landed"


async def test_a_waiting_stream_does_not_block_others_on_its_http2_connection(
    connect: Connect, proxy: Proxy, upstream: Upstream
):
    client = connect("connect-h2")
    leader = await client.call()
    provider = await upstream.call()
    session = client.sessions[0]
    follower = session.call(upstream.port, b"same", {})
    await proxy.until(followers=1)
    other = session.call(upstream.port, b"other", {})
    second = await upstream.call()
    await second.head(200)
    whole = await finish(second)
    assert (await other.head())[0] == 200
    assert await other.rest() == whole
    await leader.leave()
    await proxy.until(orphans=1)
    await provider.head(200)
    whole = await finish(provider)

    assert (await follower.head())[0] == 200
    assert await follower.rest() == whole


async def test_an_http_1_0_follower_gets_a_body_that_ends_with_the_connection(
    connect: Connect, proxy: Proxy, upstream: Upstream
):
    leader = await connect("connect-h1").call()
    provider = await upstream.call()
    follower = await connect("connect-h1").call(version=b"1.0")
    await proxy.until(followers=1)
    await provider.head(200)
    whole = await finish(provider)
    _, headers = await follower.head()

    assert not {b"transfer-encoding", b"content-length"} & headers.keys()
    assert await follower.rest() == whole
    await leader.head()
    assert await leader.rest() == whole


async def test_a_follower_that_does_not_read_is_broken_and_does_not_fill_memory(
    connect: Connect, proxy: Proxy, upstream: Upstream
):
    leader, _, provider = await taking_off(connect, proxy, upstream, "connect-h1")
    sleepy_reader, sleepy_writer = await connect("connect-h1")._open()
    fields = f"host: 127.0.0.1:{upstream.port}\r\ncontent-length: 4\r\n"
    sleepy_writer.write(f"POST /v1 HTTP/1.1\r\n{fields}\r\nsame".encode())
    await proxy.until(followers=2)
    sleepy_writer.transport.pause_reading()  # type: ignore[attr-defined]
    piece = b"x" * 65536
    for _ in range(PIECES):
        await provider.send(piece)
        assert len(await leader.read(len(piece))) == len(piece)
    await provider.finish()

    assert await leader.rest() == b""
    sleepy_writer.transport.resume_reading()  # type: ignore[attr-defined]
    got = await soon(sleepy_reader.read())
    assert not got.endswith(b"0\r\n\r\n")
    assert len(got) < PIECES * len(piece)
    sleepy_writer.close()


@pytest.mark.slow
async def test_the_proxy_stops_at_once_while_an_orphan_is_under_way(tmp_path: Path, upstream: Upstream):
    with running_proxy(tmp_path) as proxy:
        client = Client(proxy, upstream, "connect-h1")
        leader, _, _ = await taking_off(lambda _: client, proxy, upstream, "connect-h1")
        await leader.disconnect()
        await proxy.until(orphans=1)
        proxy.process.send_signal(signal.SIGINT)
        started = time.monotonic()
        await asyncio.to_thread(proxy.process.wait, STEP_S)
        stopping_s = time.monotonic() - started
        await client.close()
        # Python 3.12.1 prints a traceback for any connection open at this moment, with and without orphans.
        (tmp_path / "log").write_text("")

    assert proxy.process.returncode == 0
    assert stopping_s < STEP_S / 2


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
def test_whoever_waits_for_a_client_that_has_left_still_cleans_up(runner: str):
    async def scenario() -> tuple[object, object, list[str]]:
        log: list[str] = []

        async def wait(answer: str) -> str:
            try:
                if answer == "never":
                    await asyncio.Event().wait()
                return answer
            finally:
                log.append(answer)

        flow = tflow.tflow()
        there = await _streaming.unless_gone(flow, wait("there"))
        _streaming._departed.add(flow)
        return there, await _streaming.unless_gone(flow, wait("never")), log

    loops = pytest.importorskip("uvloop").new_event_loop if runner == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=loops) as running:
        there, gone, log = running.run(scenario())

    assert (there, gone) == ("there", _streaming.Gone())
    assert log == ["there", "never"]


def test_this_release_of_mitmproxy_has_all_that_streaming_builds_on():
    assert _streaming.problems() == [], "mitmproxy changed: adapt addons/_streaming.py, or narrow the dependency"
    assert _streaming.supported()


def test_a_changed_release_of_mitmproxy_is_noticed_and_left_alone(monkeypatch: pytest.MonkeyPatch):
    before = HttpStream.send_response
    monkeypatch.setattr(HttpStream, "check_killed", lambda self: None)
    monkeypatch.delattr(HttpStream, "handle_protocol_error")

    assert _streaming.problems() == [
        "HttpStream.handle_protocol_error is gone",
        "HttpStream.check_killed takes ['self'], not ['self', 'emit_error_hook']",
    ]
    assert not _streaming.install()
    assert HttpStream.send_response is before


def test_a_tee_passes_every_chunk_and_keeps_them_up_to_its_limit():
    copied: list[bytes] = []
    tee = Tee(max_bytes=4, copies_to=copied.append)
    for chunk in (b"ab", b"cd"):
        assert tee(chunk) is chunk
    assert tee.body() is None
    tee(b"")
    assert tee.body() == b"abcd"

    over = Tee(max_bytes=4, copies_to=copied.append)
    for chunk in (b"abc", b"de", b"f", b""):
        assert over(chunk) is chunk
    assert over.over
    assert over.body() is None
    assert b"".join(copied) == b"abcdabcdef"


def test_a_tee_never_raises():
    def fails(chunk: bytes) -> None:
        raise MemoryError

    tee = Tee(max_bytes=4, copies_to=fails)

    assert tee(b"ab") == b"ab"
    assert tee(b"") == b""
    assert tee.body() is None
