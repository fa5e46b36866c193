"""``stats``: what was deflected, and what it saved."""

from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from promptweir.cli import args
from promptweir.cli.state import resolve
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.types import Totals, Trip

MAX_RECENT = 1000


def stats(
    state: args.State = None,
    as_json: args.JsonOutput = False,
    recent: Annotated[int, typer.Option(min=0, max=MAX_RECENT, help="Also list the latest N calls.")] = 0,
) -> None:
    """Show calls, deflections and savings."""
    found = resolve(state)
    found.need()
    reader = Reader(found.cache)
    totals = reader.totals()
    trips = reader.recent(recent) if recent else []
    entries, size = reader.usage()
    for warning in reader.warnings:
        typer.echo(f"promptweir: {warning}", err=True)
    if as_json:
        typer.echo(msgspec.json.encode(document(totals, trips, entries, size)))
        return
    console = Console(highlight=False)
    console.print(_summary(totals, entries, size))
    if recent:
        console.print(_listing(trips))


def document(totals: Totals, trips: list[Trip], entries: int, size: int) -> dict[str, object]:
    """Return what ``--json`` prints; its keys stay as they are."""
    return {
        "calls": totals.calls,
        "deflected": totals.deflected,
        "layers": totals.layers,
        "provider_calls": totals.provider_calls,
        "saved": {
            "input_tokens": totals.saved_input_tokens,
            "output_tokens": totals.saved_output_tokens,
            "cached_tokens": totals.saved_cached_tokens,
            "elapsed_ms": totals.saved_elapsed_ns // 10**6,
        },
        "spent": {
            "input_tokens": totals.spent_input_tokens,
            "output_tokens": totals.spent_output_tokens,
            "cached_tokens": totals.spent_cached_tokens,
        },
        "entries": entries,
        "entries_bytes": size,
        "recent": [_row(trip) for trip in trips],
    }


def _row(trip: Trip) -> dict[str, object]:
    return {
        "id": trip.id,
        "at_ns": trip.at_ns,
        "layer": trip.layer,
        "deflected": trip.deflected,
        "reason": trip.reason,
        "status": trip.status,
        "provider": trip.provider,
        "dialect": trip.dialect,
        "model": trip.model,
        "client": trip.client,
        "elapsed_ms": round(trip.elapsed_ns / 1e6, 3),
        "input_tokens": trip.input_tokens,
        "output_tokens": trip.output_tokens,
    }


def _summary(totals: Totals, entries: int, size: int) -> Table:
    share = f" ({100 * totals.deflected / totals.calls:.0f} %)" if totals.calls else ""
    layers = ", ".join(f"{layer} {calls:,}" for layer, calls in sorted(totals.layers.items()))
    table = Table.grid(padding=(0, 2))
    table.add_row("calls", f"{totals.calls:,}")
    table.add_row("deflected", f"{totals.deflected:,}{share}")
    table.add_row("answered by", layers or "-")
    table.add_row("to the provider", f"{totals.provider_calls:,}")
    table.add_row(
        "tokens saved",
        f"{totals.saved_input_tokens:,} in ({totals.saved_cached_tokens:,} of them at the cache's price), "
        f"{totals.saved_output_tokens:,} out",
    )
    table.add_row("time saved", f"{totals.saved_elapsed_ns / 1e9:,.1f} s (estimated from the mean provider call)")
    table.add_row("stored", f"{entries:,} answers, {size / 1e6:,.1f} MB")
    return table


def _listing(trips: list[Trip]) -> Table:
    table = Table("id", "time", "layer", "ms", "tokens", "model", "client", "reason", box=None, padding=(0, 1))
    for trip in trips:
        table.add_row(
            trip.id,
            f"{datetime.fromtimestamp(trip.at_ns / 1e9).astimezone():%H:%M:%S}",
            trip.layer,
            f"{trip.elapsed_ns / 1e6:.1f}",
            f"{trip.input_tokens + trip.output_tokens:,}",
            trip.model,
            trip.client,
            trip.reason,
        )
    return table
