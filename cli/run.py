"""``run``: start a program whose LLM calls go through the proxy.

The program gets an environment and nothing else: no file of the user is touched.  It stays in our process group and on
our terminal, so Ctrl-C and Ctrl-Z reach it as ever; signals sent to us alone are passed on.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from promptweir.certs import ca
from promptweir.certs.environment import exempted, for_child
from promptweir.cli import args, up
from promptweir.cli.state import Running, UserError
from promptweir.layers.providers import PROVIDERS
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.types import Totals

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have it
SIGNAL_BASE = 128
FORWARDED = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT", "SIGUSR1", "SIGUSR2")
FROM_TERMINAL = ("SIGINT", "SIGQUIT")
"""The terminal sends these to the whole foreground group, the program included."""
RECORD_WAIT_S = 20.0
LEDGER_WAIT_S = 0.3
"""The last call's row reaches the store a moment after its answer reached the program."""


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The program and its arguments.")],
    state: args.State = None,
    mode: args.Mode = None,
    assignments: args.Set = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Leave out the two lines at the end.")] = False,
) -> None:
    """Run a program through the proxy, which is started if none runs.

    A proxy that this starts goes on running, for the next time; `promptweir stop` stops it.
    """
    program = _program(command[0])
    plan = up.planned(state, assignments, port=0, mode=mode)
    running = _proxy(plan, given=bool(mode or assignments))
    if running.port is None:
        raise UserError(f"the running proxy has no port to point {command[0]} to (mode {', '.join(running.modes)})")
    for host in exempted(os.environ, [host for provider in PROVIDERS for host in provider.hosts if "*" not in host]):
        typer.echo(f"promptweir: NO_PROXY keeps {host} away from the proxy", err=True)
    environ = {**os.environ, **for_child(ca.load(plan.state.ca), os.environ, running.proxy_url)}
    began_ns = time.time_ns()
    code = _run_child(program, command, environ)
    if not quiet:
        time.sleep(LEDGER_WAIT_S)
        for line in summary(Reader(plan.state.cache).since(began_ns)):
            typer.echo(f"promptweir: {line}", err=True)
    raise typer.Exit(code)


def _program(name: str) -> str:
    """Return the path of the program *name*; as shells do, tell what is not there from what cannot be run."""
    program = shutil.which(name)
    if program is not None:
        return program
    there = os.sep in name and Path(name).exists()
    typer.echo(
        f"promptweir: {f'cannot run {name}: Permission denied' if there else f'no such program: {name}'}", err=True
    )
    raise typer.Exit(NOT_EXECUTABLE if there else NOT_FOUND)


def summary(totals: Totals) -> tuple[str, str]:
    """Return the two lines that end a run."""
    share = f" ({100 * totals.deflected // totals.calls} %)" if totals.calls else ""
    layers = ", ".join(f"{layer} {calls}" for layer, calls in sorted(totals.layers.items()))
    saved_s = totals.saved_elapsed_ns / 1e9
    return (
        f"{totals.calls} calls, {totals.deflected} deflected{share}" + (f": {layers}" if layers else ""),
        f"saved {saved_s:.1f} s and {totals.saved_input_tokens + totals.saved_output_tokens:,} tokens "
        f"({totals.saved_input_tokens:,} in, {totals.saved_output_tokens:,} out)",
    )


def _proxy(plan: up.Plan, *, given: bool) -> Running:
    """Return the proxy of this state folder, started if need be."""
    if running := plan.state.running(RECORD_WAIT_S):
        if given:
            raise UserError("the proxy is already running with its own options; `promptweir stop` stops it")
        return running
    _mention_parent(plan.modes)
    try:
        return up.start(plan)
    except UserError:
        # Another `run` may have been a moment faster.
        if not given and (running := plan.state.running(RECORD_WAIT_S)):
            return running
        raise


def _mention_parent(modes: tuple[str, ...]) -> None:
    parent = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if parent and not any(mode.startswith("upstream:") for mode in modes):
        shown = parent.rpartition("@")[2]  # without credentials
        typer.echo(f"promptweir: not going through the proxy {shown}; for that add: --mode upstream:URL", err=True)


def _run_child(program: str, command: list[str], environ: Mapping[str, str]) -> int:
    try:
        child = subprocess.Popen([program, *command[1:]], env=dict(environ))
    except OSError as error:
        typer.echo(f"promptweir: cannot run {command[0]}: {error.strerror}", err=True)
        raise typer.Exit(NOT_EXECUTABLE) from error

    def forward(number: int, _: FrameType | None) -> None:
        if not (signal.Signals(number).name in FROM_TERMINAL and _in_foreground()):
            child.send_signal(number)

    before = {}
    for name in FORWARDED:
        if hasattr(signal, name):
            number = getattr(signal, name)
            before[number] = signal.signal(number, forward)
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return SIGNAL_BASE - code if code < 0 else code


def _in_foreground() -> bool:
    """Tell whether a terminal's Ctrl-C has reached the child as well."""
    if sys.platform == "win32":
        return True
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
