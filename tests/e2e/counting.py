"""Who answered: the provider's own count, taken around a block."""

from dataclasses import dataclass, field

from promptweir.cli.standin import Call, StandIn
from tests.e2e.harness import Proxy


@dataclass(slots=True)
class Block:
    """Makes sure, at its end, that so many of the calls in it reached the provider, and that all have been dealt with."""

    proxy: Proxy
    provider: StandIn
    calls: int
    reaching: int
    seen: list[Call] = field(default_factory=list)
    """What reached the provider; filled in at the end."""
    _before: int = 0
    _rows: int = 0

    def __enter__(self) -> "Block":
        self._before = len(self.provider.llm_calls)
        self._rows = self.proxy.rows()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.proxy.settle(self._rows + self.calls)
            self.seen += self.provider.llm_calls[self._before :]
            told = [f"{trip.layer} {trip.reason} {trip.status}" for trip in self.proxy.recent(self.calls)]
            assert len(self.seen) == self.reaching, told


@dataclass(frozen=True, slots=True)
class Calls:
    """Counts calls through one proxy."""

    proxy: Proxy
    provider: StandIn

    def cold(self, calls: int = 1) -> Block:
        """Expect every call to reach the provider."""
        return Block(self.proxy, self.provider, calls, calls)

    def warm(self, calls: int = 1) -> Block:
        """Expect none to."""
        return Block(self.proxy, self.provider, calls, 0)

    def some(self, calls: int, *, reaching: int) -> Block:
        return Block(self.proxy, self.provider, calls, reaching)
