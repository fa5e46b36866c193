"""``up``: run the proxy here, or start one that goes on by itself.

Plan for ``--detach``: the child is this same command, with its standard error on a pipe.  It keeps the pipe open until it
listens or fails, so the parent reads to the end and then knows: a child that ended said why, one that lives is ready.

What it does not do: it never daemonises itself by forking; a fork of a threaded program is asking for trouble.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from promptweir.certs import bundle, ca
from promptweir.cli import args, logs
from promptweir.cli import settings as sources
from promptweir.cli.state import Running, State, UserError, process_start, resolve
from promptweir.layers.config import config_of
from promptweir.layers.providers import DOMAINS, domains_of

DEFAULT_PORT = 8788
START_WAIT_S = 60.0
"""The first start makes a CA and imports a lot; on a loaded machine that is many seconds."""
MAX_COMPLAINT_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to start."""

    state: State
    settings: sources.Settings
    assignments: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    gateway_port: int | None = None
    modes: tuple[str, ...] = ("regular",)

    def argv(self) -> list[str]:
        """Return the command that carries this out in a process of its own."""
        # -P: a folder called promptweir in the current directory is not to be imported.
        argv = [sys.executable, "-P", "-m", "promptweir.cli.main", "up", "--hand-over"]
        argv += ["--state", str(self.state.folder), "--host", self.host, "--port", str(self.port)]
        if self.gateway_port is not None:
            argv += ["--gateway-port", str(self.gateway_port)]
        for flag, values in (("--mode", self.modes), ("--set", self.assignments)):
            for value in values:
                argv += [flag, value]
        return argv


def up(
    state: args.State = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the proxy; 0 takes a free one.")] = DEFAULT_PORT,
    gateway_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the plain-HTTP gateway.", show_default="no gateway"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    mode: args.Mode = None,
    assignments: args.Set = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as it listens.")] = False,
    hand_over: Annotated[bool, typer.Option("--hand-over", hidden=True)] = False,
) -> None:
    """Run the proxy; Ctrl-C stops it."""
    plan = planned(state, assignments, host=host, port=port, gateway_port=gateway_port, mode=mode)
    if detach:
        announce(start(plan), plan.state)
    elif hand_over:
        serve(plan, logs.FileLog(plan.state))
    else:
        for name in sources.strangers(os.environ):
            typer.echo(f"promptweir: {name} is set, but there is no such option", err=True)
        serve(plan, logs.StderrLog(), on_ready=lambda running: announce(running, plan.state))


def planned(
    state: Path | None,
    assignments: list[str] | None,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    gateway_port: int | None = None,
    mode: list[str] | None = None,
) -> Plan:
    """Read the options and find the state folder."""
    given = tuple(assignments or ())
    early = sources.collect(given, state)
    found = resolve(state, str(early.values.get("promptweir_state", "")))
    return Plan(
        state=found,
        settings=sources.collect(given, found.folder),
        assignments=given,
        host=host,
        port=port,
        gateway_port=gateway_port,
        modes=tuple(mode or ("regular",)),
    )


def serve(plan: Plan, log: logs.StderrLog | logs.FileLog, on_ready: Callable[[Running], None] | None = None) -> None:
    """Run the proxy in this process until it is told to stop."""
    # Late: mitmproxy takes half a second to import, and most commands do without it.
    from promptweir.addons import _master
    from promptweir.addons._promptweir import Promptweir

    os.umask(0o077)
    plan.state.make()
    with plan.state.hold():
        log.install()
        _prepare_ca(plan)

        def ready(listening: _master.Listening) -> None:
            running = Running(
                pid=os.getpid(),
                process_start=process_start(os.getpid()) or "",
                version=version("promptweir"),
                host=listening.host,
                port=listening.port,
                gateway_port=listening.gateway_port,
                modes=plan.modes,
                started_at_s=time.time(),
            )
            plan.state.write(running)
            log.started()
            if on_ready is not None:
                on_ready(running)

        sockets = _master.Sockets(host=plan.host, port=plan.port, gateway_port=plan.gateway_port, modes=plan.modes)
        settings = {**plan.settings.all, "promptweir_state": str(plan.state.folder)}

        async def main() -> None:
            await _master.serve([Promptweir()], sockets, confdir=plan.state.ca, settings=settings, on_ready=ready)

        try:
            _master.run(main())
        except _master.StartFailed as failure:
            raise UserError(str(failure)) from failure


def start(plan: Plan) -> Running:
    """Start the proxy in a process of its own and wait until it listens."""
    plan.state.make()
    child = subprocess.Popen(
        plan.argv(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    try:
        complaint = _read_all(child)
    except KeyboardInterrupt:
        child.kill()  # it is in a session of its own, so the terminal's signal passed it by
        raise
    running = plan.state.running() if child.poll() is None else None
    if running is None or running.pid != child.pid:
        child.kill()
        # Its last line is its complaint; warnings may come before.
        lines = complaint.strip().splitlines()
        raise UserError(lines[-1].removeprefix("promptweir: ") if lines else f"it did not start; see {plan.state.log}")
    return running


def announce(running: Running, state: State) -> None:
    """Say where the proxy listens, and the two lines that a user needs."""
    typer.echo(f"promptweir {running.version} listens on {running.proxy_url} (process {running.pid})")
    if running.gateway_url:
        typer.echo(f"gateway: {running.gateway_url}  for OPENAI_BASE_URL={running.gateway_url}/v1 and the like")
    option = "" if state.folder == resolve(None).folder else f" --state {state.folder}"
    certificate = state.ca / ca.CERT_FILE
    typer.echo(f"one program:  promptweir run{option} -- claude")
    typer.echo(
        f"this shell:   export HTTPS_PROXY={running.proxy_url} NODE_EXTRA_CA_CERTS={certificate} "
        f"SSL_CERT_FILE={state.ca / bundle.BUNDLE_FILE}"
    )


def _prepare_ca(plan: Plan) -> None:
    hosts = domains_of(config_of(plan.settings.values).hosts)
    try:
        authority = ca.ensure(plan.state.ca, (*DOMAINS, *hosts))
        bundle.bundle(authority.folder)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot use the certificate authority: {error}") from error
    lacking = [host for host in hosts if not authority.covers(host)]
    if lacking:
        more = " ".join(f"--domain {host}" for host in lacking)
        typer.echo(f"promptweir: the CA may not sign for these; run: promptweir certs renew {more}", err=True)


def _read_all(child: subprocess.Popen[bytes]) -> str:
    """Return what *child* says until it closes its standard error; kill it if that takes too long."""
    said: list[bytes] = []

    def read() -> None:
        assert child.stderr is not None
        with child.stderr:
            said.append(child.stderr.read())

    reader = threading.Thread(target=read, name="start", daemon=True)
    reader.start()
    reader.join(START_WAIT_S)
    if reader.is_alive():
        child.kill()
        raise UserError(f"the proxy did not start within {START_WAIT_S:.0f} s")
    # It closes the pipe a moment before it ends, if it ends.
    with contextlib.suppress(subprocess.TimeoutExpired):
        if said[0]:
            child.wait(5)
    return said[0].decode(errors="replace")[:MAX_COMPLAINT_CHARS]
