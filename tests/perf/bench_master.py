"""What a hit costs on our own Master, compared with stock ``mitmdump`` running the same addon.

The figure is CPU time of the proxy's process per hit.  A second pair runs an addon that answers a constant: it tells the
Masters' own share from the work of the cache, which costs the same on both.
"""

from tests.perf.harness import Args, Part, Result
from tests.perf.processes import Stage
from tests.perf.rounds import cpu_ratio, take_turns

NAME = "master"
DESCRIPTION = "CPU per hit: our own Master against stock mitmdump with the same addon (at most 0.5)"

ROUNDS = 8
HITS = 150
SIZE = 2_000


def run(args: Args) -> Result:
    """Measure; an extra word is the number of rounds."""
    with Stage() as stage:
        origin = stage.origin()
        ours, stock = stage.promptweir("ours", origin), stage.mitmdump("stock", origin)
        ours_constant, stock_constant = stage.plain("ours-constant"), stage.mitmdump("stock-constant")
        for proxy in (ours, stock):
            stage.teach(proxy, SIZE)
        figures = take_turns(
            (ours, stock, ours_constant, stock_constant),
            lambda proxy, _: stage.ask(proxy, SIZE, [0] * HITS),
            rounds=args.count(ROUNDS),
        )
    parts: dict[str, Part] = {}
    for name, figure in figures.items():
        parts |= {
            f"{name.replace('-', '_')}_cpu_ms": figure.cpu_ms,
            f"{name.replace('-', '_')}_ms_p50": figure.all_ms,
        }
    parts["constant_ratio"] = cpu_ratio(figures["ours-constant"], figures["stock-constant"])
    parts["request_bytes"] = SIZE
    return Result(
        name=NAME,
        baseline=f"stock mitmdump, {figures['stock'].cpu_ms:.3f} CPU-ms a hit",
        ratio=cpu_ratio(figures["ours"], figures["stock"]),
        parts=parts,
    )
