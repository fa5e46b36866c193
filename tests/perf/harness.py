"""``scripts/bench``: finds the benches, runs one, prints its figures.

A bench is a module ``tests/perf/bench_*.py`` with ``NAME``, ``DESCRIPTION`` and ``run(args) -> Result``.  It measures both
sides in the same run on the same machine, and its claim is the ratio: seconds and requests per second are the machine's.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, cast

FOLDER = Path(__file__).resolve().parent
UNKNOWN_BENCH = 2
YARDSTICK = 1_000_000
"""Turns of an empty loop: some 15 ms on a core of its own, several times as much where others have a share of it."""

type Part = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a bench found."""

    name: str
    baseline: str
    """What it was compared with, and that side's figure."""
    ratio: float
    """Ours divided by the baseline's; below 1 is better where less is better."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Every figure that went into it, by name and unit (``ours_cpu_ms`` ...)."""


@dataclass(frozen=True, slots=True)
class Args:
    """What the user asked for."""

    name: str
    extra: tuple[str, ...] = ()
    """Words and flags after the bench's name; each bench says what it takes."""

    def count(self, default: int) -> int:
        """Return the first word that is a number: how many rounds."""
        return next((int(word) for word in self.extra if word.isdigit()), default)


class Bench(Protocol):
    """What a bench module looks like."""

    NAME: str
    DESCRIPTION: str
    run: Callable[[Args], Result]


def benches() -> dict[str, Bench]:
    """Import every bench, by name."""
    found: dict[str, Bench] = {}
    for path in sorted(FOLDER.glob("bench_*.py")):
        bench = cast(Bench, importlib.import_module(f"tests.perf.{path.stem}"))
        found[bench.NAME] = bench
    return found


def machine() -> str:
    """Return what the figures were measured on."""
    begin_ns = time.process_time_ns()
    for _ in range(YARDSTICK):
        pass
    speed = f", {(time.process_time_ns() - begin_ns) / 1e6:.0f} ms for {YARDSTICK:,} empty loops"
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}{speed}{load}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure.")
    parser.add_argument("name", help="a bench's name, or `list`")
    parser.add_argument("extra", nargs="*", help="what the bench takes, flags included")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given, flags = parser.parse_known_args(argv)
    known = benches()
    if given.name == "list":
        _print_list(known, as_json=given.json)
        return 0
    if given.name not in known:
        sys.stderr.write(f"scripts/bench: no bench is called {given.name}; there are: {', '.join(sorted(known))}\n")
        return UNKNOWN_BENCH
    result = known[given.name].run(Args(given.name, (*given.extra, *flags)))
    _print_result(result, as_json=given.json)
    return 0


def _print_list(known: Mapping[str, Bench], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": name, "description": bench.DESCRIPTION} for name, bench in sorted(known.items())]))
        return
    for name, bench in sorted(known.items()):
        print(f"{name:16} {bench.DESCRIPTION}")


def _print_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(result), "machine": machine()}))
        return
    print(f"{result.name}: ratio {result.ratio:.3f} to {result.baseline}")
    for name, value in result.parts.items():
        print(f"  {name:32} {value:.4g}" if isinstance(value, float) else f"  {name:32} {value}")
    print(f"  {machine()}")


if __name__ == "__main__":
    sys.exit(main())
