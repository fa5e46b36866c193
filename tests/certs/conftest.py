"""A TLS server on loopback and the clients that are sent to it."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from promptweir.certs import ca, leaf

CLIENT_TIMEOUT_S = 20

NODE = """
const [port, host] = process.argv.slice(1);
require("https").get({host: "127.0.0.1", port, servername: host, headers: {host}}, (answer) => {
  answer.resume(); console.log(answer.statusCode);
}).on("error", (error) => { console.error(error.code, error.message); process.exit(1); });
"""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "ca"
    ca.ensure(folder, ["anthropic.com", "api.openai.com"])
    return folder


@pytest.fixture
def authority(tmp_path: Path, made_once: Path) -> ca.Authority:
    """A CA in a folder of the test's own; copied, because an RSA key takes its time."""
    return ca.load(shutil.copytree(made_once, tmp_path / "state" / "ca"))


def clean_environment() -> dict[str, str]:
    """The environment without anything that steers TLS or proxies: the machine's own settings must not decide a test."""
    words = ("CERT", "_CA_", "PROXY", "CAINFO", "SSL", "ROOTS")
    return {name: value for name, value in os.environ.items() if not any(word in name.upper() for word in words)}


class Server:
    """Answers every HTTPS request on a loopback port with 200."""

    def __init__(self, authority: ca.Authority, hosts: list[str], folder: Path) -> None:
        cert = leaf.mint(authority, hosts, datetime.now(UTC))
        self.pem = folder / f"leaf-{hosts[0]}.pem"
        self.pem.write_bytes(
            leaf.process_key().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + cert.public_bytes(serialization.Encoding.PEM)
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.pem)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(CLIENT_TIMEOUT_S)
            # A client that refuses the certificate ends the handshake: that is what some tests are about.
            with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(4096)
                tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept, which close alone does not
        self._socket.close()
        self._thread.join(CLIENT_TIMEOUT_S)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[ca.Authority, list[str]], Server]]:
    servers: list[Server] = []

    def start(authority: ca.Authority, hosts: list[str]) -> Server:
        servers.append(Server(authority, hosts, tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def connect(client: str, host: str, port: int, ca_file: Path) -> str:
    """Have *client* request https://host, with *ca_file* as its trust; return "" or what it complains of."""
    if client == "python":
        return _python(host, port, ca_file)
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    environ = clean_environment()
    match client:
        case "openssl":
            address = f"127.0.0.1:{port}"
            argv = ["openssl", "s_client", "-connect", address, "-servername", host, "-verify_hostname", host]
            argv += ["-CAfile", str(ca_file), "-no-CApath", "-no-CAstore", "-verify_return_error", "-x509_strict"]
        case "curl":
            argv = ["curl", "-sS", "--noproxy", "*", "--cacert", str(ca_file), "--resolve", f"{host}:{port}:127.0.0.1"]
            argv.append(f"https://{host}:{port}/")
        case _:
            argv = ["node", "-e", NODE, str(port), host]
            environ["NODE_EXTRA_CA_CERTS"] = str(ca_file)
    done = subprocess.run(argv, env=environ, input=b"", capture_output=True, timeout=CLIENT_TIMEOUT_S, check=False)
    return "" if done.returncode == 0 else (done.stderr + done.stdout).decode()


def _python(host: str, port: int, ca_file: Path) -> str:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    try:
        with (
            socket.create_connection(("127.0.0.1", port), CLIENT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return "" if tls.recv(4096).startswith(b"HTTP/1.1 200") else "no answer"
    except ssl.SSLError as error:
        return str(error)


@pytest.fixture
def client_says() -> Callable[[str, str, int, Path], str]:
    return connect


@pytest.fixture
def clean_environ() -> dict[str, str]:
    return clean_environment()


@pytest.fixture
def node_script() -> str:
    return NODE
