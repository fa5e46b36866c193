"""Just enough HTTP/1.1 for the provider stand-in: read a request, write a reply, break a reply off.

Goals: keep-alive, bodies with a length or in chunks in both directions, and full control over how a reply ends, since
the fault tests need ends that no well-behaved server library would produce.

What this module does not do: HTTP/2, WebSocket, ranges, pipelined replies out of order.
"""

import asyncio
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

MAX_HEAD_BYTES = 1 << 17  # a coding agent's request head is below 4 kB
MAX_BODY_BYTES = 1 << 29  # the largest body that a test sends is 300 MB

type Headers = tuple[tuple[str, str], ...]


class BadRequest(ValueError):  # noqa: N818 - named after the status it becomes
    """The bytes are not HTTP, or more of it than we take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, read to its end."""

    method: str
    target: str
    headers: Headers
    body: bytes
    """As sent, content-encoding included."""
    keep_alive: bool

    def header(self, name: str) -> str:
        """Return the first value of a header, or an empty string."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def path(self) -> str:
        """The target without its query; of an absolute target, without the origin."""
        return _origin_form(self.target).partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    def decoded(self) -> bytes:
        """Return the body without its content-encoding; ``BadRequest`` if it has one that we do not know."""
        match self.header("content-encoding").strip().lower():
            case "" | "identity":
                return self.body
            case "gzip" | "deflate":
                try:
                    return zlib.decompressobj(47).decompress(self.body, MAX_BODY_BYTES)  # 47: either header
                except zlib.error as error:
                    raise BadRequest(f"content-encoding: {error}") from error
            case other:
                raise BadRequest(f"content-encoding {other} is not supported, send gzip or none")


def _origin_form(target: str) -> str:
    if target.startswith("/"):
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Read the next request of a connection; None where the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise BadRequest("the request head breaks off") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequest(f"the request head is longer than {MAX_HEAD_BYTES} bytes") from error
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("the first line is not METHOD TARGET HTTP/1.x")
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    fields = dict(headers)
    if fields.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, fields)
    connection = fields.get("connection", "").lower()
    keep_alive = "close" not in connection and (words[2] != "HTTP/1.0" or "keep-alive" in connection)
    return Request(method=words[0], target=words[1], headers=headers, body=body, keep_alive=keep_alive)


async def _read_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if "chunked" in fields.get("transfer-encoding", "").lower():
        return await _read_chunked(reader)
    length = fields.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        raise BadRequest(f"content-length must be a number up to {MAX_BODY_BYTES}, not {length[:40]}")
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as error:
        raise BadRequest("the request body breaks off") from error


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    try:
        while True:
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
            total += size
            if not 0 <= size <= MAX_BODY_BYTES or total > MAX_BODY_BYTES:
                raise BadRequest(f"the chunks are longer than {MAX_BODY_BYTES} bytes")
            if size == 0:
                break
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise BadRequest("the chunked body breaks off") from error
    return b"".join(parts)


class Response:
    """The reply to one request: a head, body parts, and an end of one's choice."""

    def __init__(self, writer: asyncio.StreamWriter, *, head_only: bool = False) -> None:
        self._writer = writer
        self._head_only = head_only
        self._chunked = False
        self.digest = hashlib.sha256()
        """Over the body bytes as sent, without the chunk framing."""

    async def start(self, status: int, headers: Sequence[tuple[str, str]], length: int | None, *, close: bool) -> None:
        """Send the head.  Without a *length* the body is chunked, or, with *close*, ends with the connection."""
        self._chunked = length is None and not close
        framing = [("content-length", str(length))] if length is not None else []
        if self._chunked:
            framing.append(("transfer-encoding", "chunked"))
        if close:
            framing.append(("connection", "close"))
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in (*headers, *framing)]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        await self._writer.drain()

    async def part(self, data: bytes) -> None:
        """Send some of the body."""
        if not data or self._head_only:
            return
        self.digest.update(data)
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._writer.drain()

    async def end(self) -> None:
        """End the body as its framing says."""
        if self._chunked and not self._head_only:
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send a reply that is already complete."""
        await self.start(status, headers, len(body), close=False)
        await self.part(body)
        await self.end()


_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    426: "Upgrade Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    529: "Overloaded",
}
