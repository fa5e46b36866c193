"""One stand-in, one scripted provider and few proxies for all tests: the tests keep apart by their API keys."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptweir.cli.standin import StandIn
from tests.e2e import harness, pki
from tests.e2e.counting import Calls
from tests.e2e.harness import PLAIN_HOST, STANDIN_HOSTS, TLS_HOST, Loop, Proxy
from tests.e2e.scripted import Put, Scripted


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def standin(loop: Loop) -> Iterator[StandIn]:
    """A provider that understands what it is asked; see promptweir.cli.standin."""
    found = StandIn(keep_bodies=True)
    loop.run(found.start())
    yield found
    loop.run(found.stop())


@pytest.fixture(scope="session")
def provider_cert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pki.self_signed(tmp_path_factory.mktemp("provider"), "127.0.0.1")


@pytest.fixture(scope="session")
def scripted(loop: Loop, provider_cert: tuple[Path, Path]) -> Iterator[Scripted]:
    """A provider that says what it is told to; see tests.e2e.scripted."""
    found = Scripted()
    loop.run(found.start(pki.server_context(*provider_cert, "h2", "http/1.1")))
    yield found
    loop.run(found.stop())


@pytest.fixture(scope="session")
def options(standin: StandIn, scripted: Scripted, provider_cert: tuple[Path, Path]) -> dict[str, str]:
    """The options that put the tests' providers in the place of the real ones."""
    origins = dict.fromkeys(STANDIN_HOSTS, standin.origin)
    origins[PLAIN_HOST] = f"http://127.0.0.1:{scripted.plain_port}"
    origins[TLS_HOST] = f"https://127.0.0.1:{scripted.tls_port}"
    return {
        "promptweir_upstream": ",".join(f"{host}={origin}" for host, origin in origins.items()),
        "ssl_verify_upstream_trusted_ca": str(provider_cert[0]),
    }


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory, options: dict[str, str]) -> Iterator[Proxy]:
    """`promptweir up --detach`, every option of ours at its default."""
    with harness.own(tmp_path_factory.mktemp("own") / "state", options) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, options: dict[str, str]) -> Iterator[Proxy]:
    """`mitmdump -s addons/promptweir.py`."""
    with harness.stock(tmp_path_factory.mktemp("stock"), options) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, options: dict[str, str], own: Proxy) -> Iterator[Proxy]:
    """A proxy that adds no headers, believes no account before the provider did, takes nothing for a retry that does
    not say so, and lets WebSockets pass."""
    more = {
        "promptweir_headers": "false",
        "promptweir_tenant_proof": "always",
        "promptweir_l1a_retry_window_s": "0",
        "promptweir_websocket_426": "false",
    }
    state = tmp_path_factory.mktemp("guarded") / "state"
    with harness.own(state, options | more, ca=own.state / "ca") as proxy:
        yield proxy


@pytest.fixture(params=["own", "stock"])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    """Either kind of proxy."""
    found: Proxy = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def calls(proxy: Proxy, standin: StandIn) -> Calls:
    return Calls(proxy, standin)


@pytest.fixture
def key() -> str:
    """An API key that no other test has."""
    return f"sk-e2e-{secrets.token_hex(12)}"


@pytest.fixture
def put(scripted: Scripted, key: str) -> Put:
    """Put an answer on the scripted provider; requests name it by ``x-script: <key>``."""
    return Put(scripted, key)
