"""``stop`` and ``status``."""

import os
import signal
import time
from typing import Annotated

import msgspec
import typer

from promptweir.cli import args
from promptweir.cli.state import POLL_S, UserError, resolve

NOT_RUNNING = 1
STOP_WAIT_S = 20.0
"""The proxy itself waits up to ten seconds for answers under way."""


def status(state: args.State = None, as_json: args.JsonOutput = False) -> None:
    """Say whether the proxy runs and where it listens; exit code 1 if it does not."""
    found = resolve(state)
    running = found.running()
    if as_json:
        typer.echo(msgspec.json.encode({"running": running, "state": str(found.folder)}))
    elif running is None:
        typer.echo(f"no proxy runs in {found.folder}")
    else:
        gateway = f", gateway {running.gateway_url}" if running.gateway_url else ""
        age_min = (time.time() - running.started_at_s) / 60
        typer.echo(f"promptweir {running.version} listens on {running.proxy_url}{gateway}")
        typer.echo(f"process {running.pid}, {', '.join(running.modes)}, for {age_min:.0f} min, state in {found.folder}")
    if running is None:
        raise typer.Exit(NOT_RUNNING)


def stop(
    state: args.State = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for answers under way.")] = False,
) -> None:
    """Stop the proxy; answers under way may finish."""
    found = resolve(state)
    running = found.running()
    if running is None:
        typer.echo(f"no proxy runs in {found.folder}")
        return
    for _ in range(2 if now else 1):
        try:
            os.kill(running.pid, signal.SIGTERM)
        except ProcessLookupError:
            break
        except PermissionError as error:
            raise UserError(f"process {running.pid} is another user's") from error
        time.sleep(POLL_S)
    deadline = time.monotonic() + STOP_WAIT_S
    while (again := found.running()) and again.pid == running.pid:
        if time.monotonic() > deadline:
            raise UserError(f"process {running.pid} has not stopped after {STOP_WAIT_S:.0f} s; try --now")
        time.sleep(POLL_S)
    typer.echo(f"stopped (process {running.pid})")
