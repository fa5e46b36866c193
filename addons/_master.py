"""The fast path: our own mitmproxy ``Master`` with the addons that a prompt firewall needs and no others.

Goals: a hit costs less than half of the CPU that it costs under stock ``mitmdump`` (31 addons, four hooks a request, each
followed by ``update``), a start that fails says so in one line, and a stop lets the answers that are under way finish.

Plan: the needed addons, ``FastAddons`` for dispatch, lazy upstream connections (a hit then needs no provider at all) and
uvloop where there is one.  ``StartCheck`` takes the place of mitmproxy's ``errorcheck`` under the same name, by which
``Master.run`` finds it.

What it does not do: scripts, saving, replaying, blocking, rewriting.  Who wants those runs the same addon in ``mitmdump``.
"""

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mitmproxy import exceptions, hooks, http, master, options, optmanager
from mitmproxy.addons import (
    core,
    disable_h2c,
    dns_resolver,
    next_layer,
    proxyauth,
    proxyserver,
    tlsconfig,
    upstream_auth,
)
from mitmproxy.proxy import mode_specs

from promptweir.addons import _certstore
from promptweir.addons._dispatch import FastAddons
from promptweir.addons._stop import InFlight, Stops

GATEWAY_TARGET = "reverse:http://gateway.invalid:1"
"""The gateway's mode; the addon decides by path where a call goes, so the target must be one that cannot exist."""

GC_NEW_OBJECTS = 20_000
"""Objects made between two collections of the youngest; one request makes hundreds, and next to no cycles."""

SWITCH_S = 0.001
"""How long a thread may keep the interpreter from the event loop, which waits for it each time it wakes up."""

type Setting = bool | int | str | list[str]
"""The value of a mitmproxy option; a string is read as ``--set`` reads it, a list is an option given several times."""


class StartFailed(Exception):  # noqa: N818 - it names what happened
    """The proxy could not start.  The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the proxy can be reached; None where a mode has no port (local capture) or there is no gateway."""

    host: str
    port: int | None
    gateway_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Where to listen, and as what."""

    host: str
    port: int
    gateway_port: int | None
    modes: tuple[str, ...] = ("regular",)

    def specs(self) -> list[str]:
        """Return mitmproxy's mode specifications; those without a port of their own take ``port``."""
        specs = list(self.modes)
        if self.gateway_port is not None:
            # mitmproxy refuses port 0 twice: it would take the two for the same address.
            port = self.gateway_port or _free_port(self.host)
            specs.append(f"{GATEWAY_TARGET}@{port}")
        return specs


class StartCheck:
    """Collect what goes wrong until the proxy runs, and turn it into one ``StartFailed``."""

    name = "errorcheck"

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.errors: list[str] = []
        self._on_ready = on_ready
        self._handler = _Collect(self.errors)
        logging.getLogger().addHandler(self._handler)

    async def shutdown_if_errored(self) -> None:
        """Raise ``StartFailed`` with the first error; ``Master.run`` calls this between the steps of the start."""
        if self.errors:
            raise StartFailed(self.errors[0].splitlines()[0])

    def finish(self) -> None:
        """Stop collecting: the proxy runs."""
        self.close()
        self._on_ready()

    def close(self) -> None:
        """Stop collecting."""
        logging.getLogger().removeHandler(self._handler)


class _Collect(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


class FastMaster(master.Master):
    """mitmproxy's ``Master`` with ``FastAddons``."""

    def __init__(self, opts: options.Options) -> None:
        super().__init__(opts)
        self.addons = FastAddons(self)
        # It sends every log record through all addons, for the sake of a hook that none of ours has.
        self._legacy_log_events.uninstall()


async def serve(
    addons: Sequence[object],
    sockets: Sockets,
    *,
    confdir: Path,
    settings: Mapping[str, Setting],
    on_ready: Callable[[Listening], None],
) -> None:
    """Run the proxy with *addons* until SIGTERM or SIGINT; call *on_ready* once it listens.

    Raises ``StartFailed`` when an option is wrong or a port cannot be had.
    """
    for spec in sockets.specs():
        try:
            mode_specs.ProxyMode.parse(spec)
        except ValueError as error:
            # Before anything is configured: mitmproxy would fall back to its own folder and make a CA there.
            raise StartFailed(f"cannot use mode {spec}: {error}") from error
    owner = FastMaster(options.Options())
    tls = tlsconfig.TlsConfig()
    server, in_flight = proxyserver.Proxyserver(), InFlight()  # type: ignore[no-untyped-call]
    check = StartCheck(lambda: on_ready(_listening(server, sockets)))
    try:
        _configure(
            owner,
            sockets,
            confdir,
            {"connection_strategy": "lazy", **settings},
            _needed(sockets, settings, server, tls),
        )
        await check.shutdown_if_errored()  # a CA that cannot be read, for one
        _certstore.install(tls)
        _extend(owner, [in_flight, check, *addons])
        _check_choices(owner.options, settings)
        with Stops(owner, server, in_flight):
            try:
                await owner.run()
            except StartFailed as failure:
                refusal = _refusal(server, sockets)
                if refusal:
                    raise StartFailed(refusal) from failure
                raise
            finally:
                await server.servers.update([])
    finally:
        check.close()


def run[T](main: Coroutine[object, object, T]) -> T:
    """Run *main* on uvloop, or on asyncio's own loop where there is no uvloop."""
    if "__post_init__" in vars(http.MessageData):
        # It checks the type of every field of every message, a tenth of a hit; under `python -O` mitmproxy drops it too.
        http.MessageData.__post_init__ = _unchecked  # type: ignore[method-assign]
    # What is imported by now stays: full collections need not look through all of it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_NEW_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop  # not made for Windows

    return uvloop.run(main)


def _unchecked(_: http.MessageData) -> None:
    """Take the place of a check that is meant for debugging."""


def _needed(
    sockets: Sockets, settings: Mapping[str, Setting], server: proxyserver.Proxyserver, tls: tlsconfig.TlsConfig
) -> list[object]:
    needed: list[object] = [core.Core(), disable_h2c.DisableH2C()]
    if "proxyauth" in settings:
        needed.append(proxyauth.ProxyAuth())
    needed.append(server)
    if any(mode.partition(":")[0].lower() in {"wireguard", "local", "tun", "dns"} for mode in sockets.modes):
        needed.append(dns_resolver.DnsResolver())  # these modes also carry DNS
    needed += [next_layer.NextLayer(), tls]
    if "upstream_auth" in settings:
        needed.append(upstream_auth.UpstreamAuth())
    return needed


def _configure(
    owner: FastMaster, sockets: Sockets, confdir: Path, settings: Mapping[str, Setting], addons: Sequence[object]
) -> None:
    """Add mitmproxy's *addons* and set the options; those that are not known yet wait for the addon that has them."""
    _certstore.write_dhparams(confdir)
    specs = [spec for name, value in settings.items() for spec in _specs(name, value)]
    try:
        owner.addons.add(*addons)  # type: ignore[no-untyped-call]
        owner.options.update(  # type: ignore[no-untyped-call]
            mode=sockets.specs(), listen_host=sockets.host, listen_port=sockets.port, confdir=str(confdir)
        )
        owner.options.set(*specs, defer=True)
    except exceptions.OptionsError as error:
        raise StartFailed(str(error)) from error


def _extend(owner: FastMaster, addons: Sequence[object]) -> None:
    """Add our *addons*; as with a script, each is then configured with every option, so that defaults are read too."""
    try:
        owner.addons.add(*addons)  # type: ignore[no-untyped-call]
        if owner.options.deferred:
            raise StartFailed(f"unknown option {min(owner.options.deferred)}; `promptweir options` lists them")
        for addon in addons:
            owner.addons.invoke_addon_sync(addon, hooks.ConfigureHook(set(owner.options.keys())))  # type: ignore[no-untyped-call]
    except exceptions.OptionsError as error:
        raise StartFailed(str(error)) from error


def _check_choices(opts: options.Options, names: Collection[str]) -> None:
    """Refuse a value that is not among its option's choices; mitmproxy leaves that to its user interfaces."""
    for name, option in optmanager.dump_dicts(opts, set(names)).items():
        if option["choices"] and option["value"] not in option["choices"]:
            raise StartFailed(f"{name} must be one of {', '.join(option['choices'])}, not {option['value']!r}")


def _specs(name: str, value: Setting) -> list[str]:
    match value:
        case bool():
            return [f"{name}={str(value).lower()}"]
        case int() | str():
            return [f"{name}={value}"]
        case list():
            return [f"{name}={item}" for item in value]


def _listening(server: proxyserver.Proxyserver, sockets: Sockets) -> Listening:
    port = gateway_port = None
    for instance in server.servers:
        if not instance.listen_addrs:
            continue
        if sockets.gateway_port is not None and instance.mode.full_spec.startswith(GATEWAY_TARGET + "@"):
            gateway_port = instance.listen_addrs[0][1]
        elif port is None:
            port = instance.listen_addrs[0][1]
    return Listening(host=sockets.host, port=port, gateway_port=gateway_port)


def _refusal(server: proxyserver.Proxyserver, sockets: Sockets) -> str | None:
    """Return why a socket could not be had, if that is what stopped the start."""
    for instance in server.servers:
        error = instance.last_exception
        if not isinstance(error, OSError):
            continue
        mode: mode_specs.ProxyMode = instance.mode
        where = f"{mode.listen_host(sockets.host)}:{mode.listen_port(sockets.port)}"
        match error.errno:
            case errno.EADDRINUSE:
                return f"port in use: another program listens on {where}; choose another with --port or --gateway-port"
            case errno.EACCES:
                return f"not allowed to listen on {where}; ports below 1024 are for the administrator"
            case errno.EADDRNOTAVAIL:
                return f"this machine has no address for {where}; choose another with --host"
            case _:
                return str(error).splitlines()[0]
    return None


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
