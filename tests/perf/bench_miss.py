"""What a miss waits longer for its first token than behind an addon that does nothing, on the same Master.

Every request is a new question.  Three kinds: a small one; one of an agent, whose tools and instructions were seen
before; and one of which no block was ever seen.  The provider on loopback sends its first event at once, so what is
measured is ours: reading the request, making its key, looking it up, and joining a flight.
"""

from dataclasses import dataclass
from itertools import count

from tests.perf.client import Timings
from tests.perf.harness import Args, Part, Result
from tests.perf.processes import Proxy, Stage
from tests.perf.rounds import added_ms, take_turns

NAME = "miss"
DESCRIPTION = "first-token delay that a miss gets over an addon that does nothing (at most 1 ms)"

LIMIT_MS = 1.0
ROUNDS = 10
REQUESTS = 20
PAUSE_S = 0.03
"""Answers are learned behind the client's back; the next request is not to wait for that."""
NOTHING, OURS = "no-op", "promptweir"


@dataclass(frozen=True, slots=True)
class _Kind:
    label: str
    size: int
    salted: bool = False


_KINDS = (_Kind("2kB", 2_000), _Kind("50kB", 50_000), _Kind("50kB_new", 50_000, salted=True))
_JUDGED = ("2kB", "50kB")
"""What an agent sends all day; tools and instructions change once in a while."""


def run(args: Args) -> Result:
    """Measure; an extra word is the number of rounds."""
    parts: dict[str, Part] = {"limit_ms": LIMIT_MS}
    worst = 0.0
    questions = count(1)
    with Stage() as stage:
        origin = stage.origin()
        nothing, ours = stage.plain(NOTHING, origin), stage.promptweir(OURS, origin)
        for kind in _KINDS:

            def ask(proxy: Proxy, _: int, kind: _Kind = kind) -> Timings:
                asked = [next(questions) for _ in range(REQUESTS)]
                layer = "l3" if proxy is ours else ""
                return stage.ask(proxy, kind.size, asked, layer=layer, salted=kind.salted, pause_s=PAUSE_S)

            figures = take_turns((nothing, ours), ask, rounds=args.count(ROUNDS))
            added = added_ms(figures[OURS], figures[NOTHING])
            if kind.label in _JUDGED:
                worst = max(worst, added / LIMIT_MS)
            parts |= {
                f"{kind.label}_added_first_token_ms_p50": added,
                f"{kind.label}_first_token_ms_p50": figures[OURS].first_ms,
                f"{kind.label}_noop_first_token_ms_p50": figures[NOTHING].first_ms,
                f"{kind.label}_miss_cpu_ms": figures[OURS].cpu_ms,
                f"{kind.label}_noop_cpu_ms": figures[NOTHING].cpu_ms,
            }
    return Result(
        name=NAME,
        baseline="the time that a miss may take over a no-op addon until its first token (the worse of 2 and 50 kB)",
        ratio=worst,
        parts=parts,
    )
