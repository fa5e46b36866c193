"""A provider that says exactly the bytes that a test hands it, and keeps exactly the bytes that it was sent.

A request names its script by the header ``x-script``, which no layer looks at.  One server speaks HTTP/1.1 in plain
text, the other TLS, and HTTP/2 in it where the proxy offers that.  In lockstep a script sends a chunk only after the test has said ``go``: whoever holds
a chunk back on the way then stops the whole conversation, whatever the speed of the machine.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.events

MAX_HEAD_BYTES = 1 << 17
LOCKSTEP_WAIT_S = 20.0

type Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it was on the wire."""

    head: bytes
    """HTTP/1.1 only: request line and headers, the empty line not included.  Nothing for HTTP/2."""
    headers: Pairs
    body: bytes


@dataclass(slots=True, kw_only=True)
class Script:
    """One answer."""

    chunks: tuple[bytes, ...]
    headers: Pairs = ()
    status: int = 200
    framing: str = "chunked"
    """``chunked``, ``length`` or ``close``; HTTP/2 has its own."""
    lockstep: bool = False
    received: list[Received] = field(default_factory=list)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def go(self) -> None:
        """Let the next chunk out."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._gate.release)

    async def turn(self) -> None:
        """Wait until the next chunk may go out."""
        if self.lockstep:
            async with asyncio.timeout(LOCKSTEP_WAIT_S):
                await self._gate.acquire()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop


class Scripted:
    """The two servers."""

    def __init__(self) -> None:
        self.plain_port = 0
        self.tls_port = 0
        self._scripts: dict[str, Script] = {}
        self._servers: list[asyncio.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, context: ssl.SSLContext) -> None:
        self._loop = asyncio.get_running_loop()
        plain = await asyncio.start_server(self._plain, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        tls = await asyncio.start_server(self._tls, "127.0.0.1", 0, ssl=context)
        self._servers = [plain, tls]
        self.plain_port, self.tls_port = (server.sockets[0].getsockname()[1] for server in self._servers)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()

    def put(self, name: str, script: Script) -> Script:
        """Give the answer to requests with ``x-script: name``."""
        assert self._loop is not None
        script.bind(self._loop)
        self._scripts[name] = script
        return script

    async def _plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        headers = tuple(
            (name.decode().lower(), value.strip().decode())
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        )
        found = dict(headers)
        if found.get("transfer-encoding") == "chunked":
            body = await _chunked(reader)
        else:
            body = await reader.readexactly(int(found.get("content-length", "0")))
        script = self._scripts[found["x-script"]]
        script.received.append(Received(head, headers, body))
        lines = [f"HTTP/1.1 {script.status} Fine", *(f"{name}: {value}" for name, value in script.headers)]
        if script.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif script.framing == "length":
            lines.append(f"content-length: {len(script.body)}")
        else:
            lines.append("connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await writer.drain()
        for chunk in script.chunks:
            await script.turn()
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if script.framing == "chunked" else chunk)
            await writer.drain()
        await script.turn()
        if script.framing == "chunked":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return script.framing != "close"

    async def _tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        await (self._h2 if agreed == "h2" else self._plain)(reader, writer)

    async def _h2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        link = h2.connection.H2Connection(config)
        link.initiate_connection()
        writer.write(link.data_to_send())
        heads: dict[int, Pairs] = {}
        bodies: dict[int, bytearray] = {}
        answers: set[asyncio.Task[None]] = set()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for event in link.receive_data(data):
                    match event:
                        case h2.events.RequestReceived():
                            heads[event.stream_id] = cast("Pairs", tuple(event.headers))
                            bodies[event.stream_id] = bytearray()
                        case h2.events.DataReceived():
                            bodies[event.stream_id] += event.data
                            link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        case h2.events.StreamEnded():
                            id_ = event.stream_id
                            script = self._scripts[dict(heads[id_])["x-script"]]
                            script.received.append(Received(b"", heads[id_], bytes(bodies[id_])))
                            answers.add(asyncio.create_task(_answer_h2(link, writer, id_, script)))
                        case _:
                            pass
                writer.write(link.data_to_send())
        for answer in answers:
            answer.cancel()
        writer.close()


class Put:
    """Puts one test's answer."""

    def __init__(self, scripted: Scripted, name: str) -> None:
        self._scripted = scripted
        self.name = name

    def __call__(self, script: Script) -> Script:
        return self._scripted.put(self.name, script)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _answer_h2(
    link: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream_id: int, script: Script
) -> None:
    with contextlib.suppress(OSError):
        link.send_headers(stream_id, [(":status", str(script.status)), *script.headers])
        writer.write(link.data_to_send())
        for chunk in script.chunks:
            await script.turn()
            link.send_data(stream_id, chunk)  # the tests' answers are smaller than a fresh window
            writer.write(link.data_to_send())
        await script.turn()
        link.end_stream(stream_id)
        writer.write(link.data_to_send())
