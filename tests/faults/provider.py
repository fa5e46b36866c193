"""A provider that speaks raw bytes: each test says, byte by byte, how it answers and how it breaks.

It runs in a thread with an event loop of its own, so that tests can be plain functions.  A request names its *case* in
the header ``x-case``; a case without a script gets a sound answer, whose text tells which call it answers.
"""

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

KEEP_BODY_BYTES = 1 << 20
WAIT_S = 30.0


@dataclass(slots=True)
class Asked:
    """A request that reached the provider."""

    number: int
    case: str
    method: str
    target: str
    headers: list[tuple[str, str]]
    size: int = 0
    sha256: str = ""
    body: bytes = b""
    """Only of small ones."""
    closed: threading.Event = field(default_factory=threading.Event)
    """The connection that it came on has ended."""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


@dataclass(slots=True)
class Exchange:
    """One request and the wire on which it is to be answered."""

    asked: Asked
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, *fields: str, status: str = "200 OK") -> None:
        await self.send("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def whole(self, body: bytes, content_type: str = "application/json", status: str = "200 OK") -> None:
        await self.head(f"content-type: {content_type}", f"content-length: {len(body)}", status=status)
        await self.send(body)

    async def stream(self, chunks: list[bytes], *fields: str) -> None:
        await self.head("content-type: text/event-stream", "transfer-encoding: chunked", *fields)
        for chunk in chunks:
            await self.chunk(chunk)
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Drop the connection as a crash would: by RST."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


type Script = Callable[[Exchange], Awaitable[bool | None]]
"""Answers; False when the connection must not be used again."""


class Provider:
    """The server.  ``asked(case)`` lists what came in."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._all: list[Asked] = []
        self._scripts: dict[str, list[Script]] = defaultdict(list)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "Provider":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(WAIT_S)
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)

    def script(self, case: str, *scripts: Script) -> None:
        """Answer the next requests of *case* so, one script each; then soundly."""
        self._scripts[case].extend(scripts)

    def asked(self, case: str) -> list[Asked]:
        return [one for one in self._all if one.case == case]

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=WAIT_S)

    def call(self, function: Callable[[], object]) -> None:
        """Run *function* in the provider's thread."""
        self._loop.call_soon_threadsafe(function)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        mine: list[Asked] = []
        try:
            while await self._serve_one(reader, writer, mine):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for one in mine:
                one.closed.set()
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mine: list[Asked]) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        asked = Asked(len(self._all), dict(fields).get("x-case", ""), method, target, fields)
        self._all.append(asked)
        mine.append(asked)
        await _read_body(reader, asked)
        scripts = self._scripts[asked.case]
        script = scripts.pop(0) if scripts else sound
        exchange = Exchange(asked, writer)
        work = asyncio.ensure_future(script(exchange))
        if script is not sound:
            # A script may wait: see meanwhile whether the other side leaves.
            watch = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                asked.closed.set()
                return False
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        return await work is not False


async def _read_body(reader: asyncio.StreamReader, asked: Asked) -> None:
    digest = hashlib.sha256()

    def take(data: bytes) -> None:
        digest.update(data)
        asked.size += len(data)
        if asked.size <= KEEP_BODY_BYTES:
            asked.body += data

    if asked.header("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            await _take(reader, size, take)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
    else:
        await _take(reader, int(asked.header("content-length") or 0), take)
    asked.sha256 = digest.hexdigest()


async def _take(reader: asyncio.StreamReader, size: int, take: Callable[[bytes], None]) -> None:
    while size:
        data = await reader.read(min(size, 1 << 16))
        if not data:
            raise asyncio.IncompleteReadError(b"", size)
        take(data)
        size -= len(data)


# --- sound answers


def chat(text: str, finish: str = "stop", **more: object) -> bytes:
    """An OpenAI chat completion."""
    message = {"role": "assistant", "content": text, **more}
    return json.dumps(
        {
            "id": "chatcmpl-providerproviderprovider",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "gpt-4o",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        },
        ensure_ascii=False,
    ).encode()


def chat_stream(text: str) -> list[bytes]:
    base = {
        "id": "chatcmpl-providerproviderprovider",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o",
    }

    def one(delta: dict[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n"

    words = [word + " " for word in text.split(" ")]
    return [one({"role": "assistant", "content": ""}), *(one({"content": word}) for word in words), one({}, "stop"),
            b"data: [DONE]\n\n"]  # fmt: skip


def messages(text: str, stop: str = "end_turn") -> bytes:
    """An Anthropic message."""
    return json.dumps(
        {
            "id": "msg_01providerprovider",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": 5, "output_tokens": 3},
        },
        ensure_ascii=False,
    ).encode()


def messages_stream(text: str) -> list[bytes]:
    def one(kind: str, **more: object) -> bytes:
        return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **more}).encode() + b"\n\n"

    head: dict[str, object]
    head = {"id": "msg_01providerprovider", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
            "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 5, "output_tokens": 1}}  # fmt: skip
    words = [word + " " for word in text.split(" ")]
    return [
        one("message_start", message=head),
        one("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(one("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        one("content_block_stop", index=0),
        one("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9}),
        one("message_stop"),
    ]


async def sound(exchange: Exchange) -> bool:
    """Answer as the provider of that path does, saying which call this is and what bytes came."""
    asked = exchange.asked
    text = f"answer {asked.number} to {asked.sha256}"
    streaming = b'"stream":true' in asked.body
    if "/chat/completions" in asked.target:
        if streaming:
            await exchange.stream(chat_stream(text))
        else:
            await exchange.whole(chat(text))
    elif "/v1/messages" in asked.target and streaming:
        await exchange.stream(messages_stream(text))
    elif "/v1/messages" in asked.target:
        await exchange.whole(messages(text))
    else:
        await exchange.whole(json.dumps({"said": text}).encode())
    return True
