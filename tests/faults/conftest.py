"""One raw provider and one proxy for all quick tests of a session; after each, the proxy must be as well as before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.provider import Provider
from tests.faults.proxy import Proxy, authority, healthy, up


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="session")
def shared_proxy(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = up(tmp_path_factory.mktemp("faults") / "state", provider.port, gateway=True)
    authority.append(proxy.state / "ca")
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Iterator[Proxy]:
    """The shared proxy, which has to survive the test without a word of complaint."""
    before = len(shared_proxy.log)
    yield shared_proxy
    healthy(shared_proxy, shared_proxy.log[before:])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"
