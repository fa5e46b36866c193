"""What a hit of the exact cache costs over an addon that answers a constant, on the same Master, in the same run."""

from tests.perf import bodies
from tests.perf.harness import Args, Part, Result
from tests.perf.processes import Stage
from tests.perf.rounds import added_ms, cpu_ratio, take_turns

NAME = "hit"
DESCRIPTION = "a hit of the exact cache against an addon that answers a constant: 2, 50 and 500 kB requests"

LIMITS_MS = {2_000: 0.3, 50_000: 0.8, 500_000: 4.0}
"""What a hit may add at p50."""
ROUNDS = 12
REQUESTS = {2_000: 120, 50_000: 60, 500_000: 16}
CONSTANT, OURS = "constant", "promptweir"


def run(args: Args) -> Result:
    """Measure; an extra word is the number of rounds."""
    rounds = args.count(ROUNDS)
    parts: dict[str, Part] = {}
    worst = 0.0
    with Stage() as stage:
        constant = stage.plain(CONSTANT)
        ours = stage.promptweir(OURS, stage.origin())
        for size in bodies.SIZES:
            stage.teach(ours, size)
            figures = take_turns(
                (constant, ours),
                lambda proxy, _, size=size: stage.ask(proxy, size, [0] * REQUESTS[size]),  # type: ignore[misc]
                rounds=rounds,
            )
            added = added_ms(figures[OURS], figures[CONSTANT])
            worst = max(worst, added / LIMITS_MS[size])
            label = f"{size // 1000}kB"
            parts |= {
                f"{label}_added_ms_p50": added,
                f"{label}_limit_ms": LIMITS_MS[size],
                f"{label}_hit_ms_p50": figures[OURS].all_ms,
                f"{label}_constant_ms_p50": figures[CONSTANT].all_ms,
                f"{label}_hit_cpu_ms": figures[OURS].cpu_ms,
                f"{label}_constant_cpu_ms": figures[CONSTANT].cpu_ms,
                f"{label}_cpu_ratio": cpu_ratio(figures[OURS], figures[CONSTANT]),
            }
    return Result(
        name=NAME,
        baseline="the time that a hit may take over a constant answer (the worst of the three sizes)",
        ratio=worst,
        parts=parts,
    )
