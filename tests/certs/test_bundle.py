import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from promptweir.certs import bundle, ca


@pytest.fixture
def corporate(tmp_path: Path) -> ca.Authority:
    """The CA of a company, for hosts of its own."""
    return ca.ensure(tmp_path / "corporate", ["corp.example"])


def digests(path: Path) -> set[str]:
    return set(bundle.certificates(path))


def loaded(path: Path) -> int:
    """How many certificates OpenSSL takes out of *path*; an error if one of them is bad."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return len(context.get_ca_certs())


def test_the_bundle_holds_the_public_roots_the_systems_and_ours(
    authority: ca.Authority, corporate: ca.Authority
) -> None:
    path = bundle.bundle(authority.folder, roots=[corporate.cert_path])

    assert path == authority.folder / "bundle.pem"
    assert digests(path) == digests(Path(certifi.where())) | {authority.sha256, corporate.sha256}
    assert loaded(path) == len(digests(path)) > 100


@pytest.mark.skipif(not any(path.exists() for path in bundle.SYSTEM_ROOTS), reason="no file of system roots here")
def test_the_systems_own_roots_are_found(authority: ca.Authority) -> None:
    system = next(path for path in bundle.SYSTEM_ROOTS if path.exists())

    assert digests(system) <= digests(bundle.bundle(authority.folder))


def test_a_client_with_the_bundle_trusts_our_leaves_and_the_companys(
    authority: ca.Authority, corporate: ca.Authority, serve: Callable, client_says: Callable
) -> None:
    path = bundle.merge(authority.folder, [corporate.cert_path], roots=[])
    ours, theirs = serve(authority, ["api.anthropic.com"]), serve(corporate, ["git.corp.example"])

    for client in ("python", "curl"):
        assert client_says(client, "api.anthropic.com", ours.port, path) == ""
        assert client_says(client, "git.corp.example", theirs.port, path) == ""


def test_no_certificate_is_in_the_bundle_twice(authority: ca.Authority) -> None:
    path = bundle.bundle(authority.folder, roots=[Path(certifi.where()), authority.cert_path])

    assert path.read_bytes().count(b"BEGIN CERTIFICATE") == len(digests(path))


@pytest.mark.skipif(os.name == "nt", reason="modes mean nothing on Windows")
def test_the_bundle_can_be_read_even_under_a_strict_umask(authority: ca.Authority) -> None:
    before = os.umask(0o077)
    try:
        path = bundle.bundle(authority.folder, roots=[])
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_unchanged_bundle_is_not_written_again(authority: ca.Authority) -> None:
    first = bundle.bundle(authority.folder, roots=[]).stat()

    second = bundle.bundle(authority.folder, roots=[]).stat()

    assert (second.st_ino, second.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_new_ca_and_a_new_root_come_into_the_bundle(authority: ca.Authority, corporate: ca.Authority) -> None:
    roots = authority.folder.parent / "roots.pem"
    bundle.bundle(authority.folder, [roots])

    roots.write_bytes(corporate.cert_pem)
    renewed = ca.renew(authority.folder, ["anthropic.com"])
    found = digests(bundle.bundle(authority.folder, [roots]))

    assert {renewed.sha256, corporate.sha256} <= found
    assert authority.sha256 not in found


def test_a_root_that_is_taken_away_leaves_the_bundle(authority: ca.Authority, corporate: ca.Authority) -> None:
    bundle.bundle(authority.folder, [corporate.cert_path])

    assert corporate.sha256 not in digests(bundle.bundle(authority.folder, []))


def test_what_openssl_cannot_read_does_not_spoil_the_bundle(authority: ca.Authority, corporate: ca.Authority) -> None:
    bad = authority.folder.parent / "bad.pem"
    block = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
    bad.write_bytes((block.format("AAAA") + block.format("A") + "junk \xff\n").encode("latin-1") + corporate.cert_pem)

    path = bundle.merge(authority.folder, [bad], roots=[bad])

    assert loaded(path) == len(digests(Path(certifi.where()))) + 2
    assert corporate.sha256 in digests(path)


def test_sources_that_cannot_be_read_are_left_out(authority: ca.Authority, corporate: ca.Authority) -> None:
    plain = bundle.bundle(authority.folder, roots=[])
    fifo = authority.folder.parent / "fifo"
    if hasattr(os, "mkfifo"):
        os.mkfifo(fifo)  # to open one would wait for ever

    path = bundle.merge(authority.folder, [Path("/nonexistent"), fifo], roots=[])

    assert digests(path) >= digests(plain)


def test_a_folder_of_certificates_counts_as_its_files(authority: ca.Authority, corporate: ca.Authority) -> None:
    folder = authority.folder.parent / "certs.d"
    folder.mkdir()
    (folder / "corp.crt").write_bytes(corporate.cert_pem)

    assert corporate.sha256 in digests(bundle.merge(authority.folder, [folder], roots=[]))


def test_sources_that_add_nothing_need_no_bundle_of_their_own(authority: ca.Authority) -> None:
    path = bundle.merge(authority.folder, [Path(certifi.where())], roots=[])

    assert path == authority.folder / "bundle.pem"
    assert authority.sha256 in digests(path)


def test_equal_sources_share_a_merged_bundle_and_old_ones_are_removed(
    authority: ca.Authority, corporate: ca.Authority, tmp_path: Path
) -> None:
    other = ca.ensure(tmp_path / "other", ["other.example"])
    stale = bundle.merge(authority.folder, [other.cert_path], roots=[])
    long_ago = time.time() - bundle.MERGED_KEEP_S - 60
    os.utime(stale, (long_ago, long_ago))

    first = bundle.merge(authority.folder, [corporate.cert_path], roots=[])
    second = bundle.merge(authority.folder, [corporate.cert_path], roots=[])

    assert first == second != stale
    assert sorted(authority.folder.glob("bundle-*.pem")) == [first]
    assert corporate.sha256 not in digests(bundle.bundle(authority.folder, roots=[]))
