"""The demo's surroundings: an environment without surprises, a provider stand-in, and our proxy in front of it.

Goals: nothing of the user's (keys, proxies, base URLs, options) can disturb the demo, and the demo leaves nothing behind:
no process, no file.

Plan: the stand-in and the proxy are processes of their own, as in life, so that neither slows the SDKs down.  The
stand-in shows a certificate made for the occasion, which the proxy is told to trust.  The SDKs get their environment as
`promptweir run` gives it, but against the stand-in they trust our CA and no other: nothing can go out by mistake.

What this module does not do: it calls no LLM.
"""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from promptweir.certs import ca, files
from promptweir.certs.environment import LOOPBACK, for_child
from promptweir.cli import up
from promptweir.cli.state import POLL_S, Running, State, UserError
from promptweir.layers.stores.reader import Reader

HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com")
START_WAIT_S = 30.0
STOP_WAIT_S = 15.0
LEARN_WAIT_S = 15.0
"""Answers are learned behind the client's back; the ledger tells when all have been."""
CERT_VALIDITY = timedelta(days=2)
_PROXIES = frozenset({"https_proxy", "http_proxy", "all_proxy", "no_proxy"})
_ROOTS = frozenset({"ssl_cert_file", "ssl_cert_dir"})
_OURS = "PROMPTWEIR_"
_SDKS = ("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")


@contextlib.contextmanager
def bare_environment(*, keep_sdks: bool) -> Iterator[None]:
    """Take away, for a while, what steers proxies, the SDKs and ourselves; what TLS trusts goes with the SDKs' variables."""
    before = dict(os.environ)
    for name in before:
        lowered = name.lower()
        sdk = name.upper().startswith(_SDKS) or lowered in _ROOTS
        if lowered in _PROXIES or name.upper().startswith(_OURS) or (sdk and not keep_sdks):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that it cleans up."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), signal.default_int_handler) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


class Provider:
    """A stand-in that runs."""

    def __init__(self, origin: str, cert: Path, log: Path) -> None:
        self.origin = origin
        self.cert = cert
        self._log = log

    @property
    def assignments(self) -> list[str]:
        """Return the options that make the proxy use it in the place of the real ones."""
        upstream = ",".join(f"{host}={self.origin}" for host in HOSTS)
        return [f"promptweir_upstream={upstream}", f"ssl_verify_upstream_trusted_ca={self.cert}"]

    def calls(self) -> int:
        """Return how many LLM calls have reached it."""
        if not self._log.exists():
            return 0
        whole = self._log.read_bytes().split(b"\n")[:-1]  # the last one may be half written
        return sum(bool(json.loads(line)["llm"]) for line in whole)


@contextlib.contextmanager
def stand_in(folder: Path) -> Iterator[Provider]:
    """Run the stand-in; its files lie in *folder*."""
    cert, key, log = folder / "stand-in-cert.pem", folder / "stand-in-key.pem", folder / "stand-in.log"
    _make_certificate(cert, key)
    child = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "promptweir.cli.standin"),
            *("--cert", str(cert), "--key", str(key), "--log", str(log)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Provider(_first_line(child), cert, log)
    finally:
        child.terminate()
        try:
            child.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def proxy(folder: Path, assignments: list[str], behind: str | None) -> Iterator[tuple[State, Running]]:
    """Run our proxy as `promptweir up --detach` does; *behind* is a company's proxy, if there is one."""
    mode = [f"upstream:{behind}"] if behind else None
    plan = up.planned(folder, assignments, port=0, mode=mode)
    running = up.start(plan)
    try:
        yield plan.state, running
    finally:
        _stop(plan.state, running)


def pointed_to(state: State, running: Running, *, only_ours: bool) -> Mapping[str, str]:
    """Return the environment for the SDKs; with *only_ours* no other CA is trusted."""
    authority = ca.load(state.ca)
    found = for_child(authority, os.environ, running.proxy_url)
    # What keeps hosts away from the user's proxy must not keep them away from ours.
    found |= {"NO_PROXY": ",".join(LOOPBACK), "no_proxy": ",".join(LOOPBACK)}
    return found | {"SSL_CERT_FILE": str(authority.cert_path)} if only_ours else found


def settle(state: State, began_ns: int, calls: int) -> None:
    """Wait until the proxy has dealt with all of the *calls* since *began_ns*, learning included."""
    deadline = time.monotonic() + LEARN_WAIT_S
    while Reader(state.cache).since(began_ns).calls < calls and time.monotonic() < deadline:
        time.sleep(POLL_S)


def company_proxy(environ: Mapping[str, str]) -> str | None:
    """Return the proxy that the user goes through, as mitmproxy writes it; ``UserError`` if it wants a password."""
    given = next((environ[name] for name in ("https_proxy", "HTTPS_PROXY") if environ.get(name)), "")
    if not given:
        return None
    try:
        split = urlsplit(given if "://" in given else f"http://{given}")
        port = split.port or 80
    except ValueError as error:
        raise UserError(f"HTTPS_PROXY is no proxy's address: {error}") from error
    if split.scheme not in {"http", "https"} or not split.hostname or split.username:
        raise UserError(
            "the demo cannot go through this HTTPS_PROXY (SOCKS, or a password); unset it, or unset the keys"
        )
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{split.scheme}://{host}:{port}"


def _first_line(child: subprocess.Popen[bytes]) -> str:
    said: list[bytes] = []

    def read() -> None:
        assert child.stdout is not None
        said.append(child.stdout.readline())

    reader = threading.Thread(target=read, name="stand-in", daemon=True)
    reader.start()
    reader.join(START_WAIT_S)
    line = said[0].decode(errors="replace").strip() if said else ""
    if not line.startswith("https://"):
        raise UserError("the provider stand-in did not start")
    return line


def _stop(state: State, running: Running) -> None:
    # Twice: nobody waits for an answer any more.
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGTERM)
        time.sleep(POLL_S)
    deadline = time.monotonic() + STOP_WAIT_S
    while state.locked() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _make_certificate(cert: Path, key: Path) -> None:
    """Write a certificate for the loopback address that is trusted by being named, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Promptweir provider stand-in")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CERT_VALIDITY)
        .not_valid_after(now + CERT_VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.replace(key, pem, files.PRIVATE_FILE_MODE)
    files.replace(cert, made.public_bytes(serialization.Encoding.PEM), files.PUBLIC_FILE_MODE)
