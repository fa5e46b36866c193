"""The demo's table."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from promptweir.cli.demo_calls import Exchange
from promptweir.cli.demo_score import Score, score

NOTE = "Latencies in ms around the SDKs' calls; the SDKs' own work and new connections are in them."
NOTE_STAND_IN = " The stand-in answers at once; a real model adds its seconds to every miss."


def show(cold: Sequence[Exchange], warm: Sequence[Exchange], total: Score, note: str = "") -> None:
    """Print a row per part of the demo, and what it means."""
    repeats = [exchange for exchange in warm if not exchange.probe]
    probes = [exchange for exchange in warm if exchange.probe]
    table = Table("", "calls", "deflected", "layers")
    for name in ("hit p50", "p99", "miss p50", "p99"):
        table.add_column(name, justify="right")
    _add(table, "cold", score(cold, 0))
    _add(table, "warm", score(repeats, 0))
    _add(table, "others", score(probes, 0))
    table.add_section()
    _add(table, "all", total)
    console = Console(highlight=False)
    console.print(table)
    hits = sum(exchange.trace.deflected for exchange in repeats)
    console.print(f"{hits} of {len(repeats)} repeats answered without the provider; wrong answers: {total.wrong}")
    console.print("others: as one asked before, but for the key, model, prompt, tools or picture")
    console.print(NOTE + note)


def _add(table: Table, name: str, row: Score) -> None:
    layers = " ".join(f"{layer}:{calls}" for layer, calls in row.layers.items())
    latencies = (row.hit_ms_p50, row.hit_ms_p99, row.miss_ms_p50, row.miss_ms_p99)
    table.add_row(
        name, str(row.calls), str(row.deflected), layers, *("-" if ms is None else f"{ms:.1f}" for ms in latencies)
    )
