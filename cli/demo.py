"""``demo``: the main job before one's eyes; the official SDKs through the proxy, cold and then warm.

Plan: without a key, a provider stand-in and a proxy of its own in a fresh folder (see ``demo_world``), the whole workload
(``demo_workload``), and every answer judged (``demo_score``).  With OPENAI_API_KEY or ANTHROPIC_API_KEY, the real provider and
a few cheap calls (``demo_real``).  The exit code is 1 when an answer was wrong or a repeat went out.

What it does not do: it does not touch a proxy that the user runs, nor its cache.
"""

import contextlib
import importlib
import importlib.util
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from promptweir.cli import args, demo_real, demo_table, demo_world, settings
from promptweir.cli.demo_calls import ANTHROPIC, GEMINI, OPENAI, PACKAGES, Recorder
from promptweir.cli.demo_score import Judge, complaints_of, score
from promptweir.cli.state import UserError

if TYPE_CHECKING:
    from promptweir.cli.demo_calls import Exchange

FAILED = 1
State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="State folder; it stays.", show_default="a fresh one, which goes away"),
]
REAL_RETRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The two passes."""

    cold: "Sequence[Exchange]"
    warm: "Sequence[Exchange]"
    complaints: list[str]
    """One sentence for each wrong answer."""


def demo(state: State = None, as_json: args.JsonOutput = False) -> None:
    """Send a workload through the proxy with the official SDKs, cold and then warm.

    Without a key it asks a provider stand-in on this machine; with OPENAI_API_KEY or ANTHROPIC_API_KEY set, the real one.
    """
    keys = demo_real.keys_of(os.environ)
    _need([*keys] or [OPENAI, ANTHROPIC, GEMINI])
    with demo_world.ended_by_signals(), _folder(state) as folder:
        played = _real(folder, keys) if keys else _simulated(folder)
    repeats = [exchange for exchange in played.warm if not exchange.probe]
    missed = [exchange.name for exchange in repeats if not exchange.trace.deflected]
    total = score([*played.cold, *played.warm], len(played.complaints))
    if as_json:
        typer.echo(msgspec.json.encode(asdict(total)))
    else:
        demo_table.show(played.cold, played.warm, total, "" if keys else demo_table.NOTE_STAND_IN)
    for complaint in played.complaints:
        typer.echo(f"wrong: {complaint}", err=True)
    for name in missed:
        typer.echo(f"not deflected: {name}", err=True)
    if total.wrong or missed or not repeats:
        raise typer.Exit(FAILED)


def _need(sdks: Sequence[str]) -> None:
    """Refuse to go on without the SDKs."""
    lacking = [sdk for sdk in sdks if not _is_there(PACKAGES[sdk])]
    if lacking:
        raise UserError(
            f"the demo needs what is not installed: {', '.join(lacking)}; "
            f"install it: {sys.executable} -m pip install {' '.join(lacking)}"
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


@contextlib.contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    """Return the state folder: the user's choice, or one that goes away."""
    if state is not None:
        yield state
        return
    with tempfile.TemporaryDirectory(prefix="promptweir-demo-", ignore_cleanup_errors=True) as folder:
        own = Path(folder) / "state"
        own.mkdir(mode=0o700)
        # Empty, but in the place of the user's own: the demo shows the defaults.
        (own / settings.FILE).touch()
        yield own


def _simulated(folder: Path) -> Played:
    _say("no key is set: starting a provider stand-in and the proxy; nothing leaves this machine")
    # A new key is a new tenant: the cold pass is cold in a folder that has seen demos before, too.
    own = secrets.token_hex(12)
    keys = {OPENAI: f"sk-demo-{own}", ANTHROPIC: f"sk-ant-demo-{own}", GEMINI: f"AIzaDemo{own}"}
    with (
        tempfile.TemporaryDirectory(prefix="promptweir-stand-in-", ignore_cleanup_errors=True) as beside,
        demo_world.bare_environment(keep_sdks=False),
        _odd_sdks(),
        # The SDKs take seconds to import; the proxy starts meanwhile.
        _imported("promptweir.cli.demo_workload"),
        demo_world.stand_in(Path(beside)) as provider,
        _proxied(folder, provider.assignments, None, only_ours=True) as settle,
    ):
        from promptweir.cli import demo_workload

        calls = len(demo_workload.rehearse(keys))
        rehearsed = provider.calls()
        take = [Recorder(key_of=keys) for _ in range(2)]
        for round_, recorder in enumerate(take):
            demo_workload.run_pass(recorder, round_)
            calls += len(recorder.exchanges)
            settle(calls)
        reached = provider.calls() - rehearsed
    cold, warm = take[0].exchanges, take[1].exchanges
    complaints = complaints_of(cold, warm, Judge())
    sent = sum(bool(exchange.trace.path) and not exchange.trace.deflected for exchange in (*cold, *warm))
    if reached != sent:
        complaints.append(f"the proxy says that {sent} calls went out, but {reached} reached the provider")
    return Played(cold=cold, warm=warm, complaints=complaints)


def _real(folder: Path, keys: Mapping[str, str]) -> Played:
    _say(demo_real.announcement(keys))
    behind = demo_world.company_proxy(os.environ)
    with (
        demo_world.bare_environment(keep_sdks=True),
        _odd_sdks(),
        _proxied(folder, [], behind, only_ours=False) as settle,
    ):
        take = [Recorder(key_of=keys, retries=REAL_RETRIES) for _ in range(2)]
        for round_, recorder in enumerate(take):
            demo_real.run_pass(recorder, keys, round_)
            settle(sum(len(one.exchanges) for one in take))
            failed = next((exchange for exchange in recorder.exchanges if exchange.failure), None)
            if failed:
                raise UserError(f"{failed.name}: {failed.failure}")
    cold, warm = take[0].exchanges, take[1].exchanges
    return Played(cold=cold, warm=warm, complaints=complaints_of(cold, warm, None))


@contextlib.contextmanager
def _odd_sdks() -> Iterator[None]:
    """Say in a line that an SDK does not import: it is too old, or too new."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"an SDK is not as expected ({error}); update openai, anthropic and google-genai") from error


@contextlib.contextmanager
def _imported(module: str) -> Iterator[None]:
    """Import *module* beside what the block does; whoever imports it then gets the error, if there is one."""

    def fetch() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)

    thread = threading.Thread(target=fetch, name="import")
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def _proxied(
    folder: Path, assignments: list[str], behind: str | None, *, only_ours: bool
) -> Iterator[Callable[[int], None]]:
    """Run the proxy and send the SDKs' calls through it; the function that it yields waits until they are learned."""
    began_ns = time.time_ns()
    with demo_world.proxy(folder, [*assignments, "promptweir_headers=true"], behind) as (state, running):
        os.environ.update(demo_world.pointed_to(state, running, only_ours=only_ours))
        yield lambda calls: demo_world.settle(state, began_ns, calls)


def _say(text: str) -> None:
    # On standard error: with --json, standard output is the JSON alone.
    typer.echo(text, err=True)
