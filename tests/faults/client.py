"""A client that speaks raw bytes through the proxy, and sees exactly what comes back and how it ends."""

import itertools
import json
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 30.0
OPENAI, ANTHROPIC = "api.openai.com", "api.anthropic.com"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
PATHS = {OPENAI: CHAT, ANTHROPIC: MESSAGES}

type Header = tuple[str, str]

_numbers = itertools.count()


def fresh(name: str = "case") -> str:
    """A word that no other test uses: to name a case, and to make its prompt a question of its own."""
    return f"{name}-{os.getpid()}-{next(_numbers)}"


@dataclass(slots=True)
class Reply:
    """What came back."""

    status: int
    headers: list[Header]
    body: bytes
    whole: bool
    """The framing says that the body is complete; False: it broke off."""
    framing: str

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def deflected(self) -> bool:
        return self.header("x-promptweir-deflected") == "true"


class Client:
    """One connection."""

    def __init__(
        self, port: int, host: str = OPENAI, *, ca: Path | None = None, tunnel: bool = True, wait_s: float = WAIT_S
    ) -> None:
        self.host = host
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), wait_s)
        if tunnel:
            self._socket.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += self._socket.recv(1)
            assert b" 200 " in answer, answer
            context = ssl.create_default_context(cafile=str(ca))
            context.set_alpn_protocols(["http/1.1"])
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        self._buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(
        self,
        body: bytes,
        *,
        case: str = "",
        path: str = "",
        headers: Iterable[Header] = (),
        key: str = "sk-test",
        method: str = "POST",
    ) -> Reply:
        self.send(head_of(self.host, body, case=case, path=path, headers=headers, key=key, method=method) + body)
        return self.reply()

    def reply(self) -> Reply:
        """Read one answer to its end, whatever end that is."""
        status, fields = self.head()
        names = dict(fields)
        if names.get("transfer-encoding") == "chunked":
            body, whole = self._chunked()
            return Reply(status, fields, body, whole, "chunked")
        if "content-length" in names:
            body = self.read(int(names["content-length"]))
            return Reply(status, fields, body, len(body) == int(names["content-length"]), "length")
        parts = []
        while part := self.some():
            parts.append(part)
        return Reply(status, fields, b"".join(parts), True, "close")

    def head(self) -> tuple[int, list[Header]]:
        while b"\r\n\r\n" not in self._buffer:
            more = self._recv()
            if not more:
                raise ConnectionError(f"the connection ended within the head: {self._buffer!r}")
            self._buffer += more
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        return int(lines[0].split(" ")[1]), fields

    def some(self) -> bytes:
        """Return what is there, or comes next; nothing at the end."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self._recv()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and (more := self._recv()):
            self._buffer += more
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def chunk(self) -> bytes | None:
        """Return the next chunk of a chunked body, nothing for the last one, None when it breaks off."""
        line = self._line()
        if line is None:
            return None
        size = int(line, 16)
        data = self.read(size)
        end = self.read(2)
        return data if len(data) == size and end == b"\r\n" else None

    def _chunked(self) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        while True:
            data = self.chunk()
            if not data:
                return b"".join(parts), data is not None
            parts.append(data)

    def _line(self) -> bytes | None:
        while b"\r\n" not in self._buffer:
            more = self._recv()
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _recv(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""


def head_of(
    host: str,
    body: bytes | None,
    *,
    case: str = "",
    path: str = "",
    headers: Iterable[Header] = (),
    key: str = "sk-test",
    method: str = "POST",
    version: str = "1.1",
) -> bytes:
    """The head of a request; with *body* None the caller says how long it is."""
    lines = [f"{method} {path or PATHS[host]} HTTP/{version}", f"host: {host}"]
    lines += [f"authorization: Bearer {key}"] if host == OPENAI else [f"x-api-key: {key}"]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    given = {name for name, _ in headers}
    if "content-type" not in given:
        lines.append("content-type: application/json")
    if case:
        lines.append(f"x-case: {case}")
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def question(text: str, *, host: str = OPENAI, stream: bool = False, **more: object) -> bytes:
    """A request of the dialect that *host* speaks."""
    doc: dict[str, object] = {"model": "gpt-4o" if host == OPENAI else "claude-sonnet-4-5"}
    if host == ANTHROPIC:
        doc["max_tokens"] = 100
    doc["messages"] = [{"role": "user", "content": text}]
    if stream:
        doc["stream"] = True
    return json.dumps({**doc, **more}, separators=(",", ":")).encode()
