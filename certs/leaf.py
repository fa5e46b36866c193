"""Leaves: the certificates that the proxy shows to clients in place of a provider's.

Goals: accepted by the strictest of the clients. Python 3.13 sets ``VERIFY_X509_STRICT``, which wants an authority key
identifier equal to the CA's own and a subject key identifier; SChannel refuses a leaf whose subject key identifier is
the CA's. Hence the leaves have a key of their own, and the CA's key only signs.

Plan: one EC P-256 key per process, held in memory only. Signing with it in the handshake costs a small part of what an
RSA-2048 signature costs, and a leaf is minted without making a key.

What it does not do: no revocation lists; a leaf lives for a month at most and dies with the process.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from promptweir.certs.ca import BACKDATED, Authority

VALIDITY = timedelta(days=30)
"""Far under the 397 days that browsers and Apple's stacks allow; leaves are made in memory, so short costs nothing."""
MAX_COMMON_NAME_CHARS = 64
"""RFC 5280 A.1, ub-common-name-length."""


@cache
def process_key() -> ec.EllipticCurvePrivateKey:
    """Return the key of all leaves of this process."""
    return ec.generate_private_key(ec.SECP256R1())


def mint(
    authority: Authority, hosts: Sequence[str], now: datetime, key: ec.EllipticCurvePrivateKey | None = None
) -> x509.Certificate:
    """Return a leaf of *authority* for *hosts*, signed at *now*, for *key* (the process's own by default).

    The caller leaves out the hosts that the CA does not cover: one of them makes clients refuse the whole leaf.
    """
    if not hosts:
        raise ValueError("a leaf certificate needs at least one host name")
    public = (key or process_key()).public_key()
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])] if len(hosts[0]) <= MAX_COMMON_NAME_CHARS else []
    # A leaf that is valid where its issuer is not would only move the error to a place that is harder to read.
    start = max(now - BACKDATED, authority.cert.not_valid_before_utc)
    end = min(start + VALIDITY, authority.cert.not_valid_after_utc)
    if end <= start:
        raise ValueError(f"{authority.name} has expired; run: promptweir certs renew")
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(x509.Name(subject))
        .issuer_name(authority.cert.subject)
        .public_key(public)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # RFC 5280 4.2.1.6: critical where the subject is empty.
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=not subject)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key(authority.cert), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _authority_key(cert: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Copy the CA's own identifier: one that is computed anew need not be equal to it."""
    try:
        own = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        own = x509.SubjectKeyIdentifier.from_public_key(cert.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
