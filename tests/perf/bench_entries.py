"""What a large store costs: at the start, and for each hit.

Two stores hold the same 100 answers that are asked for, one of them among 100,000 others (``--large``: a million), at
random places.  Each round starts a proxy on each, and one on an empty store; asks for each of the 100 for the first time
(from the disk) and then again and again (from memory).
"""

import shutil
import statistics
from dataclasses import dataclass, field

from tests.perf.filling import fill
from tests.perf.harness import Args, Part, Result
from tests.perf.processes import BenchError, Stage

NAME = "entries"
DESCRIPTION = "100,000 entries against 100: start and hits (at most 1 s more, and 1.2 times); --large: a million"

FEW, MANY, LARGE = 100, 100_000, 1_000_000
MAX_BYTES = 16 << 30
LIMIT_START_S = 1.0
LIMIT_RATIO = 1.2
ROUNDS = 5
AGAIN = 300
SIZE = 2_000


@dataclass(slots=True)
class _Seen:
    start_s: list[float] = field(default_factory=list)
    start_cpu_s: list[float] = field(default_factory=list)
    disk_ms: list[float] = field(default_factory=list)
    memory_ms: list[float] = field(default_factory=list)


def run(args: Args) -> Result:
    """Measure; extra words: the number of rounds, ``--large``."""
    many = LARGE if "--large" in args.extra else MANY
    counts = {"empty": 0, "few": FEW, "many": many}
    seen = {name: _Seen() for name in counts}
    with Stage() as stage:
        origin = stage.origin()
        states = {name: stage.folder / f"state-{name}" for name in counts}
        limits = {"l1a_max_entries": str(2 * LARGE), "l1a_max_bytes": str(MAX_BYTES)}
        teacher = stage.promptweir("few", origin, state=states["few"], **limits)
        stage.ask(teacher, SIZE, range(FEW), layer="any")
        stage.teach(teacher, SIZE, FEW - 1)
        stage.stop(teacher)
        shutil.copytree(states["few"], states["many"])
        fill(states["few"] / "cache", FEW)
        fill(states["many"] / "cache", many)
        for number in range(args.count(ROUNDS) + 1):
            names = list(counts) if number % 2 else list(reversed(counts))
            for name in names:
                proxy = stage.promptweir(name, origin, state=states[name], **limits)
                if number:  # the first start imports from a cold disk
                    seen[name].start_s.append(proxy.started_s)
                    seen[name].start_cpu_s.append(proxy.cpu_ns() / 1e9)
                if counts[name]:
                    stage.ask(proxy, 50_000, [number], layer="any")  # opens the connection
                    disk = stage.ask(proxy, SIZE, range(FEW))
                    memory = stage.ask(proxy, SIZE, [index % FEW for index in range(AGAIN)])
                    if number:
                        seen[name].disk_ms += disk.all_ms
                        seen[name].memory_ms += memory.all_ms
                stage.stop(proxy)
        size = sum(path.stat().st_size for path in (states["many"] / "cache").glob("*.db"))
    return _result(seen, many, size)


def _result(seen: dict[str, _Seen], many: int, size: int) -> Result:
    if not seen["few"].disk_ms:
        raise BenchError("at least one round is needed")
    # Other work on the machine can only make a start longer.
    start = {name: min(figures.start_s) for name, figures in seen.items()}
    start_cpu = {name: min(figures.start_cpu_s) for name, figures in seen.items()}
    disk = {name: statistics.median(seen[name].disk_ms) for name in ("few", "many")}
    memory = {name: statistics.median(seen[name].memory_ms) for name in ("few", "many")}
    parts: dict[str, Part] = {
        "entries": many,
        "file_mb": size / 1e6,
        "start_empty_s": start["empty"],
        "start_few_s": start["few"],
        "start_many_s": start["many"],
        "start_added_s": start["many"] - start["empty"],
        "start_added_cpu_s": start_cpu["many"] - start_cpu["empty"],
        "start_limit_s": LIMIT_START_S,
        "disk_few_ms_p50": disk["few"],
        "disk_many_ms_p50": disk["many"],
        "disk_ratio": disk["many"] / disk["few"],
        "memory_few_ms_p50": memory["few"],
        "memory_many_ms_p50": memory["many"],
        "memory_ratio": memory["many"] / memory["few"],
        "disk_many_to_memory_few": disk["many"] / memory["few"],
        "ratio_limit": LIMIT_RATIO,
    }
    return Result(
        name=NAME,
        baseline=f"hits with {FEW} entries (the worse of first hits, from the disk, and later ones, from memory)",
        ratio=max(disk["many"] / disk["few"], memory["many"] / memory["few"]),
        parts=parts,
    )
