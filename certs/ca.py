"""The certificate authority: made once per state folder, able to sign for LLM APIs and for nothing else.

Goals: a stolen key is of no use against a bank, because every TLS stack refuses what lies outside the CA's permitted
subtrees; the key is never readable by others; two processes that start at once agree on one CA.

Plan: an RSA-2048 root with critical basic constraints (path length 0), critical key usage and critical name
constraints (RFC 5280 4.2.1.10): the given DNS subtrees permitted, every IP address excluded. The folder is laid out as
mitmproxy lays out its own, so that it can be given to mitmproxy as ``confdir``:

    mitmproxy-ca.pem        key and certificate, 0600
    mitmproxy-ca-cert.pem   the certificate alone

What it does not do: it never replaces a CA by itself, not even an expired one. A new CA has to be trusted anew, so the
user is the one to ask for it (``renew``).
"""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from promptweir.certs import files

KEY_FILE = "mitmproxy-ca.pem"
CERT_FILE = "mitmproxy-ca-cert.pem"

KEY_BITS = 2048
VALIDITY = timedelta(days=5 * 365)
BACKDATED = timedelta(days=2)
"""Clocks of containers and of suspended machines run behind; a certificate from the future is refused."""
ORGANIZATION = "Promptweir"
MAX_PEM_BYTES = 1 << 20
"""A key and a short chain take 5 kB; anything near this size is not a CA file."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NO_ADDRESSES = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA's key and certificate, and where they lie."""

    folder: Path
    key: rsa.RSAPrivateKey
    cert: x509.Certificate
    permitted: tuple[str, ...] | None
    """The DNS subtrees that the CA may sign for; None where it is not constrained (a CA made by other means)."""

    @classmethod
    def of(cls, folder: Path, key: rsa.RSAPrivateKey, cert: x509.Certificate) -> Self:
        """Return the authority of *key* and *cert*, with what it may sign for read off *cert*."""
        try:
            constraints = cert.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            return cls(folder=folder, key=key, cert=cert, permitted=None)
        subtrees = constraints.permitted_subtrees
        names = None if subtrees is None else tuple(n.value for n in subtrees if isinstance(n, x509.DNSName))
        return cls(folder=folder, key=key, cert=cert, permitted=names)

    @property
    def cert_path(self) -> Path:
        """The file with the certificate alone: what clients are told to trust."""
        return self.folder / CERT_FILE

    @property
    def cert_pem(self) -> bytes:
        """The certificate alone."""
        return self.cert.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """The subject's common name, by which people find the CA in a list of hundreds."""
        names = self.cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else self.cert.subject.rfc4514_string()

    @property
    def sha256(self) -> str:
        """The certificate's fingerprint in hex."""
        return self.cert.fingerprint(hashes.SHA256()).hex()

    @property
    def sha1(self) -> str:
        """The thumbprint in hex, by which the stores of Windows and macOS know a certificate."""
        return self.cert.fingerprint(hashes.SHA1()).hex()

    def covers(self, host: str) -> bool:
        """Return whether a leaf for *host* (``*.`` in front allowed) would be accepted by clients."""
        name = _dns_name(host.removeprefix("*."))
        if name is None:
            return self.permitted is None and _is_address(host)
        if self.permitted is None:
            return True
        return any(name == subtree or name.endswith("." + subtree) for subtree in self.permitted)

    def expired(self, now: datetime | None = None) -> bool:
        """Return whether clients refuse the CA at *now*."""
        moment = now or datetime.now(UTC)
        return not self.cert.not_valid_before_utc <= moment <= self.cert.not_valid_after_utc


def ensure(folder: Path, permitted: Sequence[str], *, now: datetime | None = None) -> Authority:
    """Return the CA in *folder*, made for the *permitted* domains if there is none.

    A CA that is already there keeps the subtrees it was made with; ask ``covers``.
    """
    files.private_folder(folder)
    if not (folder / KEY_FILE).exists():
        files.write_new(folder / KEY_FILE, _new_pem(permitted, now), files.PRIVATE_FILE_MODE)
    return load(folder)


def load(folder: Path) -> Authority:
    """Return the CA in *folder*; ValueError or OSError, naming the file, when it cannot be used."""
    path = folder / KEY_FILE
    if not path.exists():
        raise FileNotFoundError(f"no certificate authority at {path}")
    files.tighten(folder, files.PRIVATE_FOLDER_MODE)
    files.tighten(path, files.PRIVATE_FILE_MODE)
    authority = _parse(path)
    cert_path = authority.cert_path
    if not cert_path.exists() or cert_path.read_bytes() != authority.cert_pem:
        files.replace(cert_path, authority.cert_pem, files.PUBLIC_FILE_MODE)
    return authority


def renew(folder: Path, permitted: Sequence[str], *, now: datetime | None = None) -> Authority:
    """Put a new CA in the place of the one in *folder*; whatever trusts the old one has to be told."""
    files.private_folder(folder)
    files.replace(folder / KEY_FILE, _new_pem(permitted, now), files.PRIVATE_FILE_MODE)
    return load(folder)


def _parse(path: Path) -> Authority:
    remedy = "restore it, or move it away to have a new one made"
    if path.stat().st_size > MAX_PEM_BYTES:
        raise ValueError(f"{path} is larger than {MAX_PEM_BYTES} bytes and cannot be a CA's key: {remedy}")
    pem = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        cert = x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError) as error:  # TypeError: the key is under a passphrase
        raise ValueError(f"{path} does not hold a readable key and certificate: {remedy}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{path} holds a key that is not RSA, which mitmproxy needs: {remedy}")
    if key.public_key() != cert.public_key():
        raise ValueError(f"{path} holds a key and a certificate that do not belong together: {remedy}")
    try:
        is_ca = cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        raise ValueError(f"{path} holds a certificate that is not a CA's: {remedy}")
    return Authority.of(path.parent, key, cert)


def _new_pem(permitted: Sequence[str], now: datetime | None) -> bytes:
    subtrees = [x509.DNSName(domain) for domain in domains(permitted)]
    start = (now or datetime.now(UTC)) - BACKDATED
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    # The random part keeps several CAs (old and new, several machines) apart in lists and in the stores' own indexes.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"Promptweir CA {secrets.token_hex(4)}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        ]
    )
    cert = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(start)
        .not_valid_after(start + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=subtrees,
                excluded_subtrees=[x509.IPAddress(network) for network in _NO_ADDRESSES],
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    # The traditional form is the one that mitmproxy writes itself.
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return key_pem + cert.public_bytes(serialization.Encoding.PEM)


_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def domains(permitted: Sequence[str]) -> tuple[str, ...]:
    """Return *permitted* as DNS subtrees, without repeats; ValueError for what would constrain nothing."""
    found: dict[str, None] = {}
    for text in permitted:
        name = _dns_name(text.removeprefix("*."))
        # "com" would let the CA sign for half of the world; "localhost" is nobody's.
        if name is None or ("." not in name and name != "localhost"):
            raise ValueError(f"a certificate authority needs domains such as api.example.com, not {text!r}")
        found[name] = None
    if not found:
        raise ValueError("a certificate authority needs at least one domain; with none it could sign for any")
    return tuple(found)


def _dns_name(host: str) -> str | None:
    """Return *host* as it is written in certificates; None if it is an address or no name at all."""
    name = host.lower().rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            return None
    if _is_address(name) or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return None
    return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
