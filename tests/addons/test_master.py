"""Our dispatch does what stock mitmproxy's does, and our Master starts, serves, drains and refuses clearly."""

import asyncio
import inspect
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mitmproxy import addonmanager, exceptions, hooks, master, options
from mitmproxy import flow as flows
from mitmproxy.addons import core
from mitmproxy.proxy.layers.http import HttpRequestHook, HttpResponseHook
from mitmproxy.test import tflow

from promptweir.addons._dispatch import FastAddons
from promptweir.addons._master import FastMaster, Listening, Setting, Sockets, StartFailed, serve

Calls = list[str]
Make = Callable[[], addonmanager.AddonManager]


@pytest.fixture(params=["stock", "fast"])
async def manager(request: pytest.FixtureRequest) -> addonmanager.AddonManager:
    """Stock mitmproxy's manager and ours: every test that takes this states a fact about both."""
    opts = options.Options()
    owner = master.Master(opts) if request.param == "stock" else FastMaster(opts)
    assert isinstance(owner.addons, FastAddons) == (request.param == "fast")
    owner._legacy_log_events.uninstall()
    return owner.addons


class Named:
    """An addon that notes its calls."""

    def __init__(self, name: str, calls: Calls, *children: object) -> None:
        self.name = name
        self.calls = calls
        self.addons = children

    def request(self, flow: flows.Flow) -> None:
        self.calls.append(f"{self.name}.request")

    def update(self, touched: list[flows.Flow]) -> None:
        self.calls.append(f"{self.name}.update")


class Awaiting(Named):
    async def request(self, flow: flows.Flow) -> None:  # type: ignore[override]
        await asyncio.sleep(0.005)
        self.calls.append(f"{self.name}.request")


class Broken(Named):
    def request(self, flow: flows.Flow) -> None:
        self.calls.append(f"{self.name}.request")
        raise ZeroDivisionError("my secret prompt")


class Halting(Named):
    def request(self, flow: flows.Flow) -> None:
        self.calls.append(f"{self.name}.request")
        raise exceptions.AddonHalt


class Refusing(Named):
    def request(self, flow: flows.Flow) -> None:
        raise exceptions.OptionsError("no")


class ListensToNothing:
    pass


async def test_hooks_run_in_chain_order_parents_before_children_then_update(
    manager: addonmanager.AddonManager,
) -> None:
    calls: Calls = []
    manager.add(Named("a", calls, Named("a1", calls), Named("a2", calls)), ListensToNothing(), Named("b", calls))

    await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    order = ["a", "a1", "a2", "b"]
    assert calls == [f"{name}.request" for name in order] + [f"{name}.update" for name in order]


async def test_an_async_hook_is_awaited_before_the_next_addon_runs(manager: addonmanager.AddonManager) -> None:
    calls: Calls = []
    manager.add(Awaiting("slow", calls), Named("after", calls))

    await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    assert calls[:2] == ["slow.request", "after.request"]


async def test_a_broken_addon_silences_its_children_but_not_the_next_addon(
    manager: addonmanager.AddonManager,
) -> None:
    calls: Calls = []
    manager.add(Broken("broken", calls, Named("child", calls)), Named("next", calls))

    await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    assert [call for call in calls if call.endswith("request")] == ["broken.request", "next.request"]


async def test_addon_halt_ends_the_round_but_update_still_follows(manager: addonmanager.AddonManager) -> None:
    calls: Calls = []
    manager.add(Named("first", calls), Halting("halt", calls), Named("never", calls))

    await manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    assert calls == ["first.request", "halt.request", "first.update", "halt.update", "never.update"]


async def test_an_options_error_goes_up_to_the_caller(manager: addonmanager.AddonManager) -> None:
    manager.add(Refusing("refusing", []))

    with pytest.raises(exceptions.OptionsError, match="no"):
        await manager.trigger_event(HttpRequestHook(tflow.tflow()))


async def test_addons_that_come_and_go_are_seen_from_the_next_hook_on(manager: addonmanager.AddonManager) -> None:
    calls: Calls = []
    first, second, child = Named("first", calls), Named("second", calls), Named("child", calls)
    hook = HttpRequestHook(tflow.tflow())
    manager.add(first)
    await manager.trigger_event(hook)
    manager.add(second)
    await manager.trigger_event(hook)
    manager.remove(first)
    await manager.trigger_event(hook)
    second.addons = (manager.register(child),)
    await manager.trigger_event(hook)
    manager.clear()
    await manager.trigger_event(hook)

    assert [call.partition(".")[0] for call in calls] == ["first", "first", "second", "second", "second", "child"]


async def test_a_hook_without_a_flow_gets_its_arguments_and_no_update(manager: addonmanager.AddonManager) -> None:
    seen: list[object] = []

    class Life(Named):
        def running(self) -> None:
            seen.append("running")

        def done(self) -> None:
            seen.append("done")

    calls: Calls = []
    manager.add(Life("life", calls))
    await manager.trigger_event(hooks.RunningHook())
    await manager.trigger_event(hooks.DoneHook())

    assert (seen, calls) == (["running", "done"], [])


async def test_a_module_named_like_a_hook_is_no_hook(manager: addonmanager.AddonManager) -> None:
    calls: Calls = []
    addon = Named("a", calls)
    addon.response = inspect  # type: ignore[attr-defined]
    manager.add(addon)

    await manager.handle_lifecycle(HttpResponseHook(tflow.tflow(resp=True)))

    assert calls == ["a.update"]


async def test_an_addon_error_is_one_log_line_without_a_traceback_or_the_exceptions_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = FastMaster(options.Options())
    owner.addons.add(Broken("broken", []))

    await owner.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is None
    assert record.getMessage().startswith("addon error in request: ZeroDivisionError at test_master.py:")
    assert "secret" not in record.getMessage()


class Answers:
    """Answer every request here; while ``gate`` is closed, not yet."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.configured: list[set[str]] = []

    def configure(self, updated: set[str]) -> None:
        self.configured.append(updated)

    async def request(self, flow: flows.Flow) -> None:
        self.asked.set()
        await self.gate.wait()
        flow.response = tflow.tresp(content=b"from us")  # type: ignore[attr-defined]


@asynccontextmanager
async def serving(
    addon: object, sockets: Sockets, folder: Path, settings: dict[str, Setting] | None = None
) -> AsyncIterator[tuple[Listening, "asyncio.Task[None]"]]:
    ready: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve([addon], sockets, confdir=folder, settings=settings or {}, on_ready=ready.set_result)
    )
    done, _ = await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    if task in done:
        task.result()
    try:
        yield ready.result(), task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(task, 20)


async def ask(port: int | None, target: str = "http://provider.invalid/v1") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: provider.invalid\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 15)
    writer.close()
    return answer


def loopback(port: int = 0, gateway_port: int | None = None, modes: tuple[str, ...] = ("regular",)) -> Sockets:
    return Sockets(host="127.0.0.1", port=port, gateway_port=gateway_port, modes=modes)


async def test_proxy_and_gateway_answer_locally_for_a_provider_that_does_not_exist(tmp_path: Path) -> None:
    async with serving(Answers(), loopback(gateway_port=0), tmp_path) as (listening, _):
        through_proxy = await ask(listening.port)
        through_gateway = await ask(listening.gateway_port, "/v1")

    assert listening.port != listening.gateway_port
    assert through_proxy.endswith(b"from us")
    assert through_gateway.endswith(b"from us")


async def test_an_addon_is_configured_once_with_every_option_in_place(tmp_path: Path) -> None:
    addon = Answers()
    async with serving(addon, loopback(), tmp_path, {"connection_strategy": "eager", "ssl_insecure": True}):
        pass

    (updated,) = addon.configured
    assert {"mode", "confdir", "connection_strategy", "ssl_insecure"} <= updated


async def test_a_stop_waits_for_the_answer_under_way_and_takes_no_new_connection(tmp_path: Path) -> None:
    addon = Answers()
    addon.gate.clear()
    async with serving(addon, loopback(), tmp_path) as (listening, task):
        asking = asyncio.create_task(ask(listening.port))
        await asyncio.wait_for(addon.asked.wait(), 10)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert not task.done()
        with pytest.raises(ConnectionRefusedError):
            await ask(listening.port)
        addon.gate.set()

        assert (await asking).endswith(b"from us")
        await asyncio.wait_for(task, 10)


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    addon = Answers()
    addon.gate.clear()
    async with serving(addon, loopback(), tmp_path) as (listening, task):
        asking = asyncio.create_task(ask(listening.port))
        await asyncio.wait_for(addon.asked.wait(), 10)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

        await asyncio.wait_for(task, 3)
        asking.cancel()
        addon.gate.set()


@pytest.mark.parametrize("busy", ["proxy", "gateway"])
async def test_a_busy_port_is_one_sentence_and_leaves_nothing_listening(tmp_path: Path, busy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        port, other = taken.getsockname()[1], probe.getsockname()[1]
        probe.close()
        sockets = loopback(port, other) if busy == "proxy" else loopback(other, port)
        with pytest.raises(StartFailed, match=rf"^port in use: .*127\.0\.0\.1:{port};[^\n]*$"):
            async with serving(Answers(), sockets, tmp_path):
                pass

        with pytest.raises(ConnectionRefusedError):
            await ask(other)


@pytest.mark.parametrize(
    ("settings", "modes", "message"),
    [
        ({"no_such_thing": "1"}, ("regular",), "unknown option no_such_thing"),
        ({"tcp_timeout": "soon"}, ("regular",), "tcp_timeout"),
        ({"connection_strategy": "never"}, ("regular",), "connection_strategy"),
        ({}, ("sideways",), "sideways"),
        ({}, ("regular@1", "regular@1"), "same address"),
        ({"upstream_auth": "nocolon"}, ("regular",), "nocolon"),
    ],
)
async def test_a_wrong_option_is_one_sentence(
    tmp_path: Path, settings: dict[str, Setting], modes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StartFailed, match=message) as caught:
        async with serving(Answers(), loopback(modes=modes), tmp_path, settings):
            pass

    assert "\n" not in str(caught.value)


async def test_a_certificate_authority_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "mitmproxy-ca.pem").write_text("no key at all")

    with pytest.raises(StartFailed) as caught:
        async with serving(Answers(), loopback(), tmp_path):
            pass
    assert "\n" not in str(caught.value)


async def test_an_addon_that_fails_while_starting_stops_the_start(tmp_path: Path) -> None:
    class Fails(core.Core):
        name = "fails"

        def running(self) -> None:
            raise RuntimeError("no disk")

    with pytest.raises(StartFailed, match="no disk"):
        async with serving(Fails(), loopback(), tmp_path):
            pass
