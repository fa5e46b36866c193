"""What a client pays that connects anew for every request: CONNECT, a TLS handshake with a leaf of ours, and one hit."""

from tests.perf.harness import Args, Part, Result
from tests.perf.processes import Stage
from tests.perf.rounds import cpu_ratio, take_turns

NAME = "handshake"
DESCRIPTION = "CPU per connection with one hit: our own Master against stock mitmdump with the same addon"

ROUNDS = 6
CONNECTIONS = 15
SIZE = 2_000


def run(args: Args) -> Result:
    """Measure; an extra word is the number of rounds."""
    with Stage() as stage:
        origin = stage.origin()
        ours, stock = stage.promptweir("ours", origin), stage.mitmdump("stock", origin)
        for proxy in (ours, stock):
            stage.teach(proxy, SIZE)
        figures = take_turns(
            (ours, stock),
            lambda proxy, _: stage.ask(proxy, SIZE, [0] * CONNECTIONS, anew=True),
            rounds=args.count(ROUNDS),
        )
    parts: dict[str, Part] = {}
    for name, figure in figures.items():
        parts |= {f"{name}_cpu_ms": figure.cpu_ms, f"{name}_ms_p50": figure.all_ms}
    return Result(
        name=NAME,
        baseline=f"stock mitmdump, {figures['stock'].cpu_ms:.3f} CPU-ms a connection",
        ratio=cpu_ratio(figures["ours"], figures["stock"]),
        parts=parts,
    )
