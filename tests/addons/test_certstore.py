import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy import certs, http, master, options
from mitmproxy.addons import core, next_layer, proxyserver, tlsconfig
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons

from promptweir.addons import _certstore
from promptweir.certs import ca, leaf

SAN = x509.SubjectAlternativeName


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ca.Authority:
    return ca.ensure(tmp_path_factory.mktemp("state") / "ca", ["anthropic.com"])


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def addon(authority: ca.Authority, clock: Clock) -> tlsconfig.TlsConfig:
    """mitmproxy's addon with a store of the authority's folder, our store in front."""
    addon = tlsconfig.TlsConfig()
    addon.certstore = certs.CertStore.from_store(authority.folder, "mitmproxy", 2048)
    _certstore.install(addon, authority, clock)
    return addon


def dns(*hosts: str) -> list[x509.GeneralName]:
    return [x509.DNSName(host) for host in hosts]


def names(entry: certs.CertStoreEntry) -> list[str]:
    return [str(name.value) for name in entry.cert.altnames]


def test_mitmproxy_takes_the_folder_as_its_own(addon: tlsconfig.TlsConfig, authority: ca.Authority) -> None:
    assert addon.certstore.default_ca.fingerprint().hex() == authority.sha256
    assert addon.crl_path() == f"/mitmproxy-{authority.cert.serial_number}.crl"


def test_names_that_the_ca_may_not_sign_for_stay_out_of_the_leaf(addon: tlsconfig.TlsConfig) -> None:
    """A transparent client's server has an IP address, and a CDN's certificate bears the names of strangers."""
    sans = [
        *dns("api.anthropic.com"),
        x509.IPAddress(ip_address("160.79.104.10")),
        *dns("cdn.example", "anthropic.com"),
    ]

    entry = addon.certstore.get_cert("api.anthropic.com", sans)

    assert names(entry) == ["api.anthropic.com", "anthropic.com"]
    assert entry.cert.to_cryptography().extensions.get_extension_for_class(x509.SubjectKeyIdentifier)


def test_the_leafs_key_is_elliptic_and_not_the_cas(addon: tlsconfig.TlsConfig, authority: ca.Authority) -> None:
    entry = addon.certstore.get_cert("api.anthropic.com", dns("api.anthropic.com"))

    assert isinstance(entry.privatekey, ec.EllipticCurvePrivateKey)
    assert entry.cert.public_key() == entry.privatekey.public_key() != authority.cert.public_key()


def test_a_host_out_of_reach_is_left_to_mitmproxys_store(addon: tlsconfig.TlsConfig) -> None:
    entry = addon.certstore.get_cert("bank.example", dns("bank.example"))

    assert entry.privatekey is addon.certstore.default_privatekey


def test_a_leaf_is_minted_once(addon: tlsconfig.TlsConfig) -> None:
    first = addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))
    other = addon.certstore.get_cert("b.anthropic.com", dns("b.anthropic.com"))
    again = addon.certstore.get_cert("A.anthropic.com", dns("A.anthropic.com"))

    assert again is first is not other


def test_a_leaf_is_minted_anew_before_it_ends(addon: tlsconfig.TlsConfig, clock: Clock) -> None:
    first = addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))

    clock.now += timedelta(days=20)
    same = addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))
    clock.now = first.cert.notafter - timedelta(hours=1)
    second = addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))

    assert same is first
    assert second.cert.notafter > clock.now + timedelta(days=20)


def test_a_clock_that_jumps_back_gets_a_leaf_that_is_valid_then(addon: tlsconfig.TlsConfig, clock: Clock) -> None:
    clock.now += timedelta(days=200)
    addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))
    clock.now -= timedelta(days=200)

    entry = addon.certstore.get_cert("a.anthropic.com", dns("a.anthropic.com"))

    assert entry.cert.notbefore <= clock.now < entry.cert.notafter


def test_the_number_of_leaves_and_of_their_names_is_bounded(
    addon: tlsconfig.TlsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_certstore, "MAX_LEAVES", 3)
    store = addon.certstore
    assert isinstance(store, _certstore.LeafStore)

    many = store.get_cert(None, dns(*(f"{n}.anthropic.com" for n in range(500))))
    first = store.get_cert(None, dns("first.anthropic.com"))
    for n in range(10):
        store.get_cert(None, dns(f"host-{n}.anthropic.com"))
        assert store.get_cert(None, dns("first.anthropic.com")) is first

    assert len(names(many)) == _certstore.MAX_LEAF_NAMES
    assert len(store._leaves) == 3


def test_a_certificate_that_the_user_gave_is_shown_instead(
    addon: tlsconfig.TlsConfig, authority: ca.Authority, tmp_path: Path
) -> None:
    key = leaf.process_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cert = leaf.mint(authority, ["*.anthropic.com"], datetime.now(UTC))
    (tmp_path / "own.pem").write_bytes(key + cert.public_bytes(serialization.Encoding.PEM))
    addon.certstore.add_cert_file("*.anthropic.com", tmp_path / "own.pem")

    entry = addon.certstore.get_cert("api.anthropic.com", dns("api.anthropic.com"))

    assert entry.cert.to_cryptography() == cert


def test_installing_again_does_not_pile_up(addon: tlsconfig.TlsConfig, authority: ca.Authority) -> None:
    _certstore.install(addon, authority)
    _certstore.install(addon, authority)

    store = addon.certstore
    assert isinstance(store, _certstore.LeafStore)
    assert not isinstance(store.inner, _certstore.LeafStore)


def test_a_store_that_mitmproxy_makes_later_is_covered_too(authority: ca.Authority) -> None:
    """It makes one when it begins to run, whatever was there before."""
    addon = tlsconfig.TlsConfig()
    _certstore.install(addon, authority)
    with taddons.context(addon) as context:
        context.options.update(confdir=str(authority.folder))
        first = addon.certstore
        addon.running()

    assert isinstance(first, _certstore.LeafStore)
    assert isinstance(addon.certstore, _certstore.LeafStore)
    assert addon.certstore.inner is not first.inner


def test_without_an_authority_mitmproxys_own_ca_signs_for_every_host(tmp_path: Path) -> None:
    addon = tlsconfig.TlsConfig()
    addon.certstore = certs.CertStore.from_store(tmp_path, "mitmproxy", 2048)
    _certstore.install(addon)

    entry = addon.certstore.get_cert("bank.example", dns("bank.example"))

    cert = entry.cert.to_cryptography()
    cert.verify_directly_issued_by(addon.certstore.default_ca.to_cryptography())
    assert isinstance(entry.privatekey, ec.EllipticCurvePrivateKey)


def test_an_expired_ca_does_not_break_the_store(addon: tlsconfig.TlsConfig, clock: Clock) -> None:
    clock.now += timedelta(days=4000)

    assert addon.certstore.get_cert("api.anthropic.com", dns("api.anthropic.com"))


def test_dh_parameters_are_written_as_mitmproxy_reads_them(tmp_path: Path) -> None:
    _certstore.write_dhparams(tmp_path)

    assert certs.CertStore.load_dhparam(tmp_path / "mitmproxy-dhparam.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["mitmproxy-dhparam.pem"]


class Answer:
    """Sends every connection to one port and answers every request here."""

    def __init__(self, provider_port: int) -> None:
        self.provider_port = provider_port

    def server_connect(self, data: ServerConnectionHookData) -> None:
        data.server.address = ("127.0.0.1", self.provider_port)

    def request(self, flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b"local")


@contextlib.asynccontextmanager
async def proxy(authority: ca.Authority, provider_port: int) -> AsyncIterator[int]:
    opts = options.Options(mode=["regular@127.0.0.1:0"], confdir=str(authority.folder))
    running = master.Master(opts)
    server, tls = proxyserver.Proxyserver(), tlsconfig.TlsConfig()
    _certstore.install(tls, authority)
    running.addons.add(core.Core(), server, next_layer.NextLayer(), tls, Answer(provider_port))
    # Eager, so that the proxy sees the provider's certificate before it makes its own.
    opts.update(connection_strategy="eager", ssl_insecure=True)
    task = asyncio.create_task(running.run())
    try:
        async with asyncio.timeout(20):
            while not (addresses := server.listen_addrs()):
                await asyncio.sleep(0.02)
        yield addresses[0][1]
    finally:
        running.shutdown()
        await task


@pytest.fixture
async def provider_port(tmp_path: Path) -> AsyncIterator[int]:
    """A provider whose certificate names strangers and an address, as those of CDNs do."""
    other = certs.CertStore.from_store(tmp_path / "provider", "mitmproxy", 2048)
    sans = [*dns("api.anthropic.com", "stranger.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    entry = other.get_cert("stranger.example", sans, "Somebody Ltd")
    pem = tmp_path / "provider.pem"
    key = entry.privatekey.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(key + entry.cert.to_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def output(*argv: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        text, _ = await process.communicate()
    return process.returncode or 0, text.decode()


def curl(port: int, authority: ca.Authority, host: str) -> list[str]:
    cert = str(authority.cert_path)
    return ["curl", "-sS", "--noproxy", "", "-x", f"http://127.0.0.1:{port}", "--cacert", cert, f"https://{host}/"]


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
@pytest.mark.parametrize("tls_version", ["--tls-max=1.2", "--tlsv1.3"])
async def test_curl_talks_through_mitmproxy_with_our_leaf(
    authority: ca.Authority, provider_port: int, tls_version: str
) -> None:
    flags = tls_version.split("=")
    async with proxy(authority, provider_port) as port:
        assert await output(*curl(port, authority, "api.anthropic.com"), *flags) == (0, "local")


@needs_curl
async def test_curl_refuses_a_host_that_the_ca_may_not_sign_for(authority: ca.Authority, provider_port: int) -> None:
    async with proxy(authority, provider_port) as port:
        code, text = await output(*curl(port, authority, "stranger.example"))

    assert code == 60, text
    assert "local" not in text


async def test_strict_python_talks_through_mitmproxy_with_our_leaf(authority: ca.Authority, provider_port: int) -> None:
    context = ssl.create_default_context(cafile=str(authority.cert_path))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    async with proxy(authority, provider_port) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT api.anthropic.com:443 HTTP/1.1\r\nhost: api.anthropic.com:443\r\n\r\n")
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await writer.start_tls(context, server_hostname="api.anthropic.com")
        writer.write(b"GET / HTTP/1.1\r\nhost: api.anthropic.com\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        shown = writer.get_extra_info("peercert")
        writer.close()

    assert answer.endswith(b"local")
    assert shown["subjectAltName"] == (("DNS", "api.anthropic.com"),)
