"""The client of the benches: raw sockets, one CONNECT and one TLS session for each proxy, nothing between the clock and
the wire.

It runs in a process of its own and obeys one JSON order per line on its standard input (``Order``), with one JSON line
as the answer (``Timings``).  The request is made before the clock starts; the clock stops at the first byte of the body
and again at its end.
"""

import socket
import ssl
import sys
import time
from dataclasses import dataclass, field

import msgspec

from tests.perf import bodies

WAIT_S = 30.0
READ_BYTES = 1 << 16


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send."""

    port: int
    """Of the proxy."""
    ca: str
    """The certificate to trust."""
    size: int
    """Bytes of a request."""
    questions: list[int]
    """One request each."""
    first_number: int
    """Sessions are numbered from here; no number is used twice."""
    layer: str = ""
    """What ``x-promptweir-layer`` must say in every answer; empty: the header must be absent; "any": do not look."""
    salted: bool = False
    pause_s: float = 0.0
    """Between two requests."""
    anew: bool = False
    """A new connection for each request; its making is part of the time."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long it took."""

    first_ms: list[float]
    """To the first byte of the body."""
    all_ms: list[float]
    """To its last byte."""
    problem: str = ""
    """Why there are no timings."""


@dataclass(slots=True)
class Connection:
    """One connection to the provider's host, through a proxy."""

    port: int
    ca: str
    _rest: bytes = b""
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        """Connect."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.sendall(f"CONNECT {bodies.HOST}:443 HTTP/1.1\r\nHost: {bodies.HOST}:443\r\n\r\n".encode())
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += _received(plain)
        if b" 200 " not in reply.split(b"\r\n", 1)[0] + b" ":
            raise OSError(f"the proxy refused the tunnel: {reply[:80]!r}")
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["http/1.1"])
        self._socket = context.wrap_socket(plain, server_hostname=bodies.HOST)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, request: bodies.Request) -> tuple[bytes, int, int]:
        """Send *request*; return the head of the answer and the instants of its body's first and last byte."""
        self._socket.sendall(request.head + request.body)
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += _received(self._socket)
        head, data = data[:end].lower(), data[end + 4 :]
        if not data:
            data = _received(self._socket)
        first_ns = time.perf_counter_ns()
        length = _length(head)
        while (over := _end(data, length)) is None:
            data += _received(self._socket)
        self._rest = data[over:]
        return head, first_ns, time.perf_counter_ns()


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(READ_BYTES)
    if not data:
        raise OSError("the proxy hung up")
    return data


def _length(head: bytes) -> int | None:
    """Return the body's length, None where it is chunked."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return None


def _end(data: bytes, length: int | None) -> int | None:
    if length is not None:
        return length if len(data) >= length else None
    last = data.find(b"0\r\n\r\n") if data.startswith(b"0\r\n\r\n") else data.find(b"\r\n0\r\n\r\n")
    return None if last < 0 else last + (5 if data.startswith(b"0\r\n\r\n") else 7)


def obey(order: Order, connections: dict[int, Connection]) -> Timings:
    """Send what *order* says."""
    first: list[float] = []
    last: list[float] = []
    for index, question in enumerate(order.questions):
        request = bodies.request(order.size, order.first_number + index, question, salted=order.salted)
        if order.pause_s:
            time.sleep(order.pause_s)
        start_ns = time.perf_counter_ns()
        connection = None if order.anew else connections.get(order.port)
        if connection is None:
            connection = Connection(order.port, order.ca)
        head, first_ns, last_ns = connection.ask(request)
        if order.anew:
            connection.close()
        else:
            connections[order.port] = connection
        if problem := _problem(head, order.layer):
            return Timings(first_ms=[], all_ms=[], problem=problem)
        first.append((first_ns - start_ns) / 1e6)
        last.append((last_ns - start_ns) / 1e6)
    return Timings(first_ms=first, all_ms=last)


def _problem(head: bytes, layer: str) -> str:
    status, *lines = head.decode("latin-1").split("\r\n")
    if " 200" not in status:
        return f"the answer was {status}"
    seen = next((line.partition(":")[2].strip() for line in lines if line.startswith("x-promptweir-layer:")), "")
    return "" if layer in {seen, "any"} else f"layer {seen or 'none'} answered, not {layer or 'none'}"


def main() -> None:
    """Obey until the standard input ends."""
    connections: dict[int, Connection] = {}
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        try:
            timings = obey(order, connections)
        except OSError as error:
            connections.pop(order.port, None)
            timings = Timings(first_ms=[], all_ms=[], problem=f"{type(error).__name__}: {error}")
        sys.stdout.buffer.write(msgspec.json.encode(timings) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
