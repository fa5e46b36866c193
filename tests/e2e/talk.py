"""Clients for the tests: httpx behind a proxy, and a socket on which every byte is the test's own."""

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from tests.e2e.harness import Proxy

WAIT_S = 30.0


@cache
def trusting(ca: Path) -> ssl.SSLContext:
    """Return a context that trusts *ca* and nothing else."""
    return ssl.create_default_context(cafile=str(ca))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def client(proxy: Proxy, *, http2: bool = False) -> httpx.Client:
    return httpx.Client(proxy=proxy.url, verify=trusting(proxy.ca), http2=http2, trust_env=False, timeout=WAIT_S)


def async_client(proxy: Proxy, *, http2: bool = False) -> httpx.AsyncClient:
    return httpx.AsyncClient(proxy=proxy.url, verify=trusting(proxy.ca), http2=http2, trust_env=False, timeout=WAIT_S)


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer with the bytes of its body as they were on the wire, content-encoding and all."""

    status: int
    headers: httpx.Headers
    body: bytes
    http: str

    @property
    def deflected(self) -> bool:
        return bool(self.headers.get("x-promptweir-deflected") == "true")


def ask(http: httpx.Client, url: str, body: bytes, headers: dict[str, str]) -> Raw:
    """Post *body* as it is."""
    with http.stream("POST", url, content=body, headers=headers) as response:
        data = b"".join(response.iter_raw())
        return Raw(response.status_code, response.headers, data, response.http_version)


@contextlib.contextmanager
def tunnel(
    proxy: Proxy, target: str, *, context: ssl.SSLContext, sni: str | None, alpn: tuple[str, ...] = ()
) -> Iterator[ssl.SSLSocket]:
    """Open a tunnel to *target* (host:port) and speak TLS in it."""
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as plain:
        plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            said += plain.recv(1)
        assert said.startswith(b"HTTP/1.1 200"), said
        with context.wrap_socket(plain, server_hostname=sni) as wrapped:
            yield wrapped


def unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate: the tests look at it themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def read_until(link: ssl.SSLSocket, end: bytes) -> bytes:
    """Read to *end*, which has to come."""
    data = b""
    while not data.endswith(end):
        more = link.recv(65536)
        assert more, f"the other side closed after {data!r}"
        data += more
    return data
