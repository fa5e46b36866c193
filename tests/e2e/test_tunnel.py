"""Only the hosts of LLM APIs are decrypted; everything else is tunnelled blind, however little is known about it.

TLS itself is the witness: where the client sees the origin's own certificate, nobody in between can have read a byte.
"""

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from promptweir.cli.standin import StandIn
from tests.e2e import harness, pki
from tests.e2e.counting import Calls
from tests.e2e.harness import PLAIN_HOST, STANDIN_HOSTS, TLS_HOST, Loop, Proxy
from tests.e2e.origin import Origin
from tests.e2e.talk import ask, client, read_until, trusting, tunnel, unverified

NAMES = ("localhost", "files.example.com", "127.0.0.1")


@pytest.fixture(scope="module")
def origin_cert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pki.self_signed(tmp_path_factory.mktemp("origin"), *NAMES)


@pytest.fixture(scope="module")
def origin(loop: Loop, origin_cert: tuple[Path, Path]) -> Iterator[Origin]:
    found = Origin()
    loop.run(found.start(pki.server_context(*origin_cert, "shout/1", "h2", "http/1.1")))
    yield found
    loop.run(found.stop())


@pytest.mark.parametrize(
    ("host", "sni"),
    [
        ("localhost", "localhost"),
        ("127.0.0.1", "files.example.com"),
        ("127.0.0.1", "api.openai.com.example.org"),
        ("127.0.0.1", "xapi.openai.com"),
        ("localhost", None),
        ("127.0.0.1", None),
    ],
    ids=["name", "name-for-address", "look-alike", "another-look-alike", "no-sni", "bare-address"],
)
def test_other_hosts_are_tunnelled_blind(
    proxy: Proxy, origin: Origin, origin_cert: tuple[Path, Path], host: str, sni: str | None
) -> None:
    with tunnel(proxy, f"{host}:{origin.port}", context=unverified(), sni=sni, alpn=("shout/1",)) as link:
        shown = link.getpeercert(binary_form=True)
        protocol = link.selected_alpn_protocol()
        link.sendall(b"no http\x00\xff\n")
        answer = read_until(link, b"\n")

    assert shown == pki.der(origin_cert[0])
    assert protocol == "shout/1"  # agreed end to end; the proxy knows no such thing
    assert answer == b"NO HTTP\x00\xff\n"


def test_a_client_that_pins_the_origin_s_certificate_is_satisfied(
    proxy: Proxy, origin: Origin, origin_cert: tuple[Path, Path]
) -> None:
    pinned = ssl.create_default_context(cafile=str(origin_cert[0]))
    with tunnel(proxy, f"localhost:{origin.port}", context=pinned, sni="localhost") as link:
        link.sendall(b"x\n")

        assert read_until(link, b"\n") == b"X\n"


def test_plain_http_to_other_hosts_passes_too(proxy: Proxy, standin: StandIn) -> None:
    with client(proxy) as http:
        answer = http.get(f"{standin.origin}/v1/models")

    assert answer.json()["data"]
    assert "x-promptweir-layer" not in answer.headers


@pytest.mark.parametrize("host", [*STANDIN_HOSTS, PLAIN_HOST, TLS_HOST])
def test_the_hosts_of_llm_apis_are_decrypted_with_our_authority(proxy: Proxy, host: str) -> None:
    with tunnel(proxy, f"{host}:443", context=trusting(proxy.ca), sni=host) as link:
        shown = link.getpeercert()

    assert shown is not None
    assert shown["subjectAltName"] == (("DNS", host),)


def test_without_a_name_in_the_handshake_the_name_in_connect_counts(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.ca))
    context.check_hostname = False
    with tunnel(proxy, "api.openai.com:443", context=context, sni=None) as link:
        shown = link.getpeercert()

    assert shown is not None
    assert ("DNS", "api.openai.com") in shown["subjectAltName"]


def test_our_authority_may_sign_for_llm_hosts_only(own: Proxy) -> None:
    cert = x509.load_pem_x509_certificates(own.ca.read_bytes())[0]
    constraints = cert.extensions.get_extension_for_class(x509.NameConstraints)
    permitted = {name.value for name in constraints.value.permitted_subtrees or ()}

    assert constraints.critical
    assert {"api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com"} <= permitted
    assert permitted.isdisjoint({"com", "", "googleapis.com", "openai.com", "amazonaws.com", "github.com"})


@pytest.mark.parametrize("name", ["www.example.org", "github.com", "127.0.0.1"])
def test_a_certificate_made_with_a_stolen_key_of_ours_is_refused_for_any_other_host(
    own: Proxy, loop: Loop, tmp_path: Path, name: str
) -> None:
    cert, key = pki.signed_by(own.state / "ca" / "mitmproxy-ca.pem", tmp_path, name)
    impostor = Origin()
    loop.run(impostor.start(pki.server_context(cert, key)))

    async def connect() -> None:
        await asyncio.open_connection("127.0.0.1", impostor.port, ssl=trusting(own.ca), server_hostname=name)

    with pytest.raises(ssl.SSLCertVerificationError, match="subtree"):
        loop.run(connect())
    loop.run(impostor.stop())


def test_the_same_for_a_host_of_an_llm_api_is_taken_so_the_refusal_is_no_accident(
    own: Proxy, loop: Loop, tmp_path: Path
) -> None:
    cert, key = pki.signed_by(own.state / "ca" / "mitmproxy-ca.pem", tmp_path, "api.openai.com")
    server = Origin()
    loop.run(server.start(pki.server_context(cert, key)))

    async def connect() -> bytes:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting(own.ca), server_hostname="api.openai.com"
        )
        writer.write(b"x\n")
        answer = await reader.readline()
        writer.close()
        return answer

    assert loop.run(connect()) == b"X\n"
    loop.run(server.stop())


@pytest.mark.slow
def test_a_host_added_later_than_the_authority_was_made_is_tunnelled_rather_than_broken(
    tmp_path: Path, own: Proxy, options: dict[str, str], origin: Origin, origin_cert: tuple[Path, Path]
) -> None:
    """No client would take a certificate of ours for it."""
    more = {"promptweir_hosts": "files.example.com,localhost"}
    with harness.own(tmp_path / "state", options | more, ca=own.state / "ca") as proxy:
        for host, sni in (("127.0.0.1", "files.example.com"), ("localhost", "localhost"), ("localhost", None)):
            with tunnel(proxy, f"{host}:{origin.port}", context=unverified(), sni=sni) as link:
                assert link.getpeercert(binary_form=True) == pki.der(origin_cert[0])
        with tunnel(proxy, "api.openai.com:443", context=trusting(proxy.ca), sni="api.openai.com") as link:
            assert link.getpeercert() is not None


@pytest.mark.slow
def test_a_host_that_an_option_names_is_a_provider_like_any_other(tmp_path: Path, standin: StandIn, key: str) -> None:
    options = {
        "promptweir_hosts": "llm.example.com,*.models.example.net",
        "promptweir_upstream": f"llm.example.com={standin.origin},eu.models.example.net={standin.origin}",
    }
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
    headers = {"authorization": f"Bearer {key}"}
    with harness.own(tmp_path / "state", options) as proxy, client(proxy) as http:
        calls = Calls(proxy, standin)
        for host in ("llm.example.com", "eu.models.example.net"):
            with calls.cold():
                ask(http, f"https://{host}/api/v1/chat/completions", body, headers)
            with calls.warm():
                answer = ask(http, f"https://{host}/api/v1/chat/completions", body, headers)

    assert answer.headers["x-promptweir-provider"] == "custom"


def test_the_proxy_makes_no_call_of_its_own_to_check_a_provider_before_a_hit(own: Proxy, key: str) -> None:
    """The provider here does not exist, so a connection to it would fail the call."""
    only = {"x-promptweir-cache": "only", "authorization": f"Bearer {key}"}
    with client(own) as http:
        answer = ask(http, "https://api.together.xyz/v1/chat/completions", b'{"model":"m","messages":[]}', only)

    assert answer.status == 504
