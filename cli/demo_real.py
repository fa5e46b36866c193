"""The demo against real providers: a handful of cheap calls with the user's own key, cold and then warm.

Goals: the user knows before it starts whom it asks and what that costs, and pays for every call once.

Plan: the cheapest models, short answers, one probe per provider and pass.  What the right answer is nobody knows here;
a warm answer has to equal the cold one.

What this module does not do: it runs no scenario of the stand-in's workload.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from promptweir.cli.demo_calls import ANTHROPIC, OPENAI, CallFailed, Recorder
from promptweir.cli.state import UserError

KEYS = {OPENAI: "OPENAI_API_KEY", ANTHROPIC: "ANTHROPIC_API_KEY"}
BASE_URLS = {OPENAI: ("OPENAI_BASE_URL", "api.openai.com"), ANTHROPIC: ("ANTHROPIC_BASE_URL", "api.anthropic.com")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What the calls to one provider come to, in US dollars, at list prices."""

    model: str
    calls: int
    """Those that reach the provider: the cold ones, and two probes."""
    input_tokens: int
    """Of all calls together, as an upper estimate; a tool alone takes some hundred."""
    output_tokens: int
    input_usd_per_million: float
    output_usd_per_million: float

    @property
    def usd(self) -> float:
        """Return the estimate."""
        return (self.input_tokens * self.input_usd_per_million + self.output_tokens * self.output_usd_per_million) / 1e6


PRICES = {
    OPENAI: Price(
        model="gpt-4o-mini",
        calls=7,
        input_tokens=500,
        output_tokens=150,
        input_usd_per_million=0.15,
        output_usd_per_million=0.60,
    ),
    ANTHROPIC: Price(
        model="claude-haiku-4-5",
        calls=7,
        input_tokens=1500,
        output_tokens=250,
        input_usd_per_million=1.00,
        output_usd_per_million=5.00,
    ),
}


def keys_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the user's keys by SDK; ``UserError`` if one is meant for a service that is not the provider's own."""
    found = {sdk: environ[name] for sdk, name in KEYS.items() if environ.get(name)}
    for sdk in found:
        variable, host = BASE_URLS[sdk]
        if environ.get(variable) and urlsplit(environ[variable]).hostname != host:
            raise UserError(
                f"{variable} does not point to {host}; unset it, or unset {KEYS[sdk]} to see the demo without a key"
            )
    return found


def announcement(sdks: Mapping[str, str]) -> str:
    """Return what the user should know before the first call."""
    parts = [f"{PRICES[sdk].calls} calls to {BASE_URLS[sdk][1]} ({PRICES[sdk].model})" for sdk in sdks]
    cost = sum(PRICES[sdk].usd for sdk in sdks)
    return f"real provider: {' and '.join(parts)}, about ${cost:.4f} in all"


def run_pass(take: Recorder, sdks: Mapping[str, str], round_: int) -> None:
    """Make all the calls once; *round_* is 0 for the cold pass and 1 for the warm one."""
    if OPENAI in sdks:
        from promptweir.cli import demo_openai

        with take.openai_client() as client, contextlib.suppress(CallFailed):
            demo_openai.cheap(take, client, round_)
    if ANTHROPIC in sdks:
        from promptweir.cli import demo_anthropic

        with take.anthropic_client() as other, contextlib.suppress(CallFailed):
            demo_anthropic.cheap(take, other, round_)
