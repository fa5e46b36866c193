"""Rounds: the compared proxies take turns, so that whatever else the machine does hurts each of them alike.

A round's CPU time runs from its own start to the start of the same proxy's next one: what a request leaves behind (an
answer to learn, a row to write) is part of its price.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.perf.client import Timings
from tests.perf.processes import Proxy

SETTLE_S = 0.3
"""After the last round, for what is still being written."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one proxy took per request."""

    first_ms: float
    """Median time to the first byte of the body."""
    all_ms: float
    """Median time to its last byte."""
    p90_ms: float
    cpu_ms: float
    """Median over the rounds."""
    cpu_by_round_ms: tuple[float, ...]
    by_round_ms: tuple[float, ...]
    """The median time to the first byte in each round, for differences between proxies that took turns."""


def take_turns(proxies: Sequence[Proxy], ask: Callable[[Proxy, int], Timings], *, rounds: int) -> Mapping[str, Figures]:
    """Let *ask* send one round to each proxy in turn; the first round only warms up."""
    first: dict[str, list[list[float]]] = {proxy.name: [] for proxy in proxies}
    last: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    cpu: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    open_at: dict[str, tuple[int, int]] = {}

    def close(proxy: Proxy) -> None:
        if proxy.name in open_at:
            begun_ns, requests = open_at.pop(proxy.name)
            cpu[proxy.name].append((proxy.cpu_ns() - begun_ns) / 1e6 / requests)

    for number in range(rounds + 1):
        # Forwards and backwards in turn: neither always comes second.
        for proxy in proxies if number % 2 else reversed(proxies):
            close(proxy)
            begun_ns = proxy.cpu_ns()
            timings = ask(proxy, number)
            if number:
                first[proxy.name].append(timings.first_ms)
                last[proxy.name] += timings.all_ms
                open_at[proxy.name] = begun_ns, len(timings.all_ms)
    time.sleep(SETTLE_S)
    for proxy in proxies:
        close(proxy)
    return {
        proxy.name: Figures(
            first_ms=statistics.median([one for many in first[proxy.name] for one in many]),
            all_ms=statistics.median(last[proxy.name]),
            p90_ms=statistics.quantiles(last[proxy.name], n=10)[-1],
            cpu_ms=statistics.median(cpu[proxy.name]),
            cpu_by_round_ms=tuple(cpu[proxy.name]),
            by_round_ms=tuple(statistics.median(many) for many in first[proxy.name]),
        )
        for proxy in proxies
    }


def added_ms(ours: Figures, theirs: Figures) -> float:
    """Return the median, over the rounds, of what ours took more to the first byte than theirs in the same round."""
    return statistics.median(a - b for a, b in zip(ours.by_round_ms, theirs.by_round_ms, strict=True))


def cpu_ratio(ours: Figures, theirs: Figures) -> float:
    """Return the median, over the rounds, of our CPU time over theirs in the same round."""
    return statistics.median(a / b for a, b in zip(ours.cpu_by_round_ms, theirs.cpu_by_round_ms, strict=True))
