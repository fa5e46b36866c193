from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from promptweir.certs import ca, leaf
from promptweir.layers.providers import DOMAINS

NOW = datetime.now(UTC)
CLIENTS = ("python", "openssl", "curl", "node")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_strict_client_that_trusts_the_ca_accepts_a_leaf(
    client: str, tmp_path: Path, serve: Callable, client_says: Callable
) -> None:
    """With all the domains of the registry: the constraints are checked one by one against each name."""
    authority = ca.ensure(tmp_path / "full", DOMAINS)
    server = serve(authority, ["api.anthropic.com", "api.openai.com"])

    assert client_says(client, "api.anthropic.com", server.port, authority.cert_path) == ""
    assert client_says(client, "api.openai.com", server.port, authority.cert_path) == ""


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_refuses_a_leaf_for_a_host_outside_of_the_permitted_domains(
    client: str, authority: ca.Authority, serve: Callable, client_says: Callable
) -> None:
    server = serve(authority, ["bank.example"])

    complaint = client_says(client, "bank.example", server.port, authority.cert_path)

    assert "permitted subtree violation" in complaint.lower()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_without_the_ca_refuses_the_leaf(
    client: str, authority: ca.Authority, tmp_path: Path, serve: Callable, client_says: Callable
) -> None:
    server = serve(authority, ["api.anthropic.com"])
    other = ca.ensure(tmp_path / "other", ["anthropic.com"])

    assert client_says(client, "api.anthropic.com", server.port, other.cert_path) != ""


def test_a_name_too_long_for_a_subject_is_accepted_all_the_same(
    authority: ca.Authority, serve: Callable, client_says: Callable
) -> None:
    host = f"{'a' * 60}.{'b' * 60}.anthropic.com"
    server = serve(authority, [host])

    assert client_says("python", host, server.port, authority.cert_path) == ""


def test_a_leaf_has_both_key_identifiers_and_they_differ(authority: ca.Authority) -> None:
    cert = leaf.mint(authority, ["api.anthropic.com"], NOW)

    issuer = authority.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    own = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    above = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value

    assert above.key_identifier == issuer.key_identifier
    assert own.key_identifier != issuer.key_identifier


def test_the_authority_key_identifier_is_the_cas_own_and_not_computed(authority: ca.Authority) -> None:
    """Some tools make it of a SHA-256 of the key; a strict client compares bytes."""
    odd = (
        x509.CertificateBuilder()
        .serial_number(1)
        .subject_name(authority.cert.subject)
        .issuer_name(authority.cert.subject)
        .public_key(authority.key.public_key())
        .not_valid_before(authority.cert.not_valid_before_utc)
        .not_valid_after(authority.cert.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"20 bytes of any kind"), critical=False)
        .sign(authority.key, hashes.SHA256())
    )

    cert = leaf.mint(ca.Authority.of(authority.folder, authority.key, odd), ["api.anthropic.com"], NOW)

    above = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert above.key_identifier == b"20 bytes of any kind"


def test_a_leaf_is_for_servers_only_and_for_the_given_names(authority: ca.Authority) -> None:
    cert = leaf.mint(authority, ["api.anthropic.com", "anthropic.com"], NOW)

    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert names.get_values_for_type(x509.DNSName) == ["api.anthropic.com", "anthropic.com"]
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_leaves_share_one_elliptic_key_that_is_not_the_cas(authority: ca.Authority) -> None:
    first, second = (leaf.mint(authority, [host], NOW) for host in ("a.anthropic.com", "b.anthropic.com"))

    assert first.public_key() == second.public_key()
    assert isinstance(first.public_key(), ec.EllipticCurvePublicKey)
    assert first.serial_number != second.serial_number


def test_a_leaf_lives_less_than_397_days_and_within_the_life_of_its_ca(authority: ca.Authority) -> None:
    end = authority.cert.not_valid_after_utc

    early = leaf.mint(authority, ["anthropic.com"], NOW)
    late = leaf.mint(authority, ["anthropic.com"], end - timedelta(days=1))

    assert early.not_valid_after_utc - early.not_valid_before_utc < timedelta(days=397)
    assert early.not_valid_before_utc < NOW - timedelta(days=1)
    assert early.not_valid_before_utc >= authority.cert.not_valid_before_utc
    assert late.not_valid_after_utc == end


def test_an_expired_ca_mints_nothing(authority: ca.Authority) -> None:
    with pytest.raises(ValueError, match="has expired; run: promptweir certs renew"):
        leaf.mint(authority, ["anthropic.com"], authority.cert.not_valid_after_utc + timedelta(days=3))


def test_a_leaf_without_a_name_is_an_error(authority: ca.Authority) -> None:
    with pytest.raises(ValueError, match="at least one host name"):
        leaf.mint(authority, [], NOW)
