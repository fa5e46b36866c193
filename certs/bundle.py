"""Bundles: one PEM file with the public roots and our CA, for the TLS stacks that take one file and nothing else.

Goals: a client that is pointed at the file trusts what it trusted before, and our CA besides. The hosts that the proxy
tunnels blind still show their own certificates, and a company's own CA still counts.

Plan: certifi's roots, the system's, ours. The content decides: it is put together anew each time (a few milliseconds)
and written only where it differs from the file, so a change of any source is picked up and nothing has to be watched.
A run whose environment names further PEM files (``SSL_CERT_FILE`` of a corporate CA) gets a bundle of its own.

What it does not do: on macOS it takes Apple's exported roots, not the keychains. A CA that lives in a keychain alone is
merged if a variable names its PEM file.
"""

import base64
import binascii
import hashlib
import os
import re
import ssl
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import certifi

from promptweir.certs import files
from promptweir.certs.ca import CERT_FILE

BUNDLE_FILE = "bundle.pem"
SYSTEM_ROOTS = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Arch, Alpine
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # Fedora, RHEL
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # older Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # openSUSE
    Path("/etc/ssl/cert.pem"),  # macOS, BSD
)
MAX_PEM_BYTES = 16 << 20
"""Per source; the public roots take 0.3 MB."""
MAX_FOLDER_FILES = 2000
"""Per folder that stands in for a file; a hashed folder has two entries for each of some 150 roots."""
MERGED_KEEP_S = 30 * 24 * 3600
"""How long a merged bundle stays after its last use; a program that was started with it may still run."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


def bundle(folder: Path, roots: Sequence[Path] = SYSTEM_ROOTS) -> Path:
    """Return the bundle of the CA in *folder*, written anew if a root or the CA has changed."""
    path = folder / BUNDLE_FILE
    _write(path, _join(_standard(folder, roots)))
    return path


def merge(folder: Path, sources: Iterable[Path], roots: Sequence[Path] = SYSTEM_ROOTS) -> Path:
    """Return a bundle that also holds the certificates of *sources*: PEM files, or folders of them.

    A source that cannot be read is left out: the client could not have read it either.
    """
    standard = _standard(folder, roots)
    wanted = dict(standard)
    for source in sources:
        wanted.update(_usable(_split(_read(source)), wanted))
    if wanted.keys() == standard.keys():
        path = folder / BUNDLE_FILE
        _write(path, _join(standard))
        return path
    content = _join(wanted)
    path = folder / f"bundle-{hashlib.sha256(content).hexdigest()[:16]}.pem"
    _write(path, content)
    os.utime(path)
    _drop_old(folder)
    return path


def certificates(path: Path) -> Mapping[str, bytes]:
    """Return the certificates of the PEM file (or folder of them) at *path*: SHA-256 in hex -> DER."""
    return _split(_read(path))


def _standard(folder: Path, roots: Sequence[Path]) -> dict[str, bytes]:
    found = _split((folder / CERT_FILE).read_bytes()) | _split(_read(Path(certifi.where())))
    # What is in our own file has passed the check before, which takes half a millisecond for each.
    passed = found | _split(_read(folder / BUNDLE_FILE))
    for source in roots:
        found |= _usable(_split(_read(source)), passed)
    return found | _usable({hashlib.sha256(der).hexdigest(): der for der in _windows_roots()}, passed)


def _read(source: Path) -> bytes:
    """Return the PEM text at *source*; empty if it is missing, unreadable or larger than any store."""
    try:
        if source.is_dir():
            # sorted: the same folder has to give the same bundle
            members = sorted(member for member in source.iterdir() if member.is_file())[:MAX_FOLDER_FILES]
            return b"\n".join(_read(member) for member in members)
        if not source.is_file() or source.stat().st_size > MAX_PEM_BYTES:
            return b""
        return source.read_bytes()
    except OSError:
        return b""


def _split(pem: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for block in _BLOCK.finditer(pem):
        try:
            der = base64.b64decode(b"".join(block[1].split()), validate=True)
        except binascii.Error:
            continue
        found[hashlib.sha256(der).hexdigest()] = der
    return found


def _usable(found: Mapping[str, bytes], passed: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those of *found* that OpenSSL can read: for many clients a single bad one spoils the whole file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    good: dict[str, bytes] = {}
    for digest, der in found.items():
        if digest not in passed:
            try:
                context.load_verify_locations(cadata=der)
            except (ssl.SSLError, ValueError):
                continue
        good[digest] = der
    return good


def _windows_roots() -> list[bytes]:
    """Return the roots of Windows' store that count for servers; none on other systems."""
    if sys.platform != "win32":
        return []
    return [
        der
        for der, kind, trust in ssl.enum_certificates("ROOT")
        if kind == "x509_asn" and (trust is True or (isinstance(trust, (set, frozenset)) and _SERVER_AUTH in trust))
    ]


def _join(found: Mapping[str, bytes]) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in found.values()).encode()


def _write(path: Path, content: bytes) -> None:
    try:
        current = path.read_bytes()
    except FileNotFoundError:
        current = b""
    if current != content:
        files.replace(path, content, files.PUBLIC_FILE_MODE)


def _drop_old(folder: Path) -> None:
    limit = time.time() - MERGED_KEEP_S
    for path in folder.glob("bundle-*.pem"):
        try:
            if path.stat().st_mtime < limit:
                path.unlink()
        except FileNotFoundError:  # another run was quicker
            continue
