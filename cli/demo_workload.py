"""The demo's workload: what programs ask LLMs through the official SDKs, some forty calls to three providers.

Goals: every way in which the SDKs call is there (whole and streamed, tools and their results, structured output,
images, embeddings, token counts, conversations by ``previous_response_id``, async), and next to it the calls that must
*not* be taken for one of these.

Plan: scenarios in turn, then the async calls, then the probes: near-repeats, other ones in
each pass, so that nobody can have an answer to them yet.  A call that is no probe has the same name and the same
request in both passes.  Each pass has clients of its own, as a new run of a program would.

What this module does not do: it judges no answer.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping

from promptweir.cli import demo_anthropic, demo_gemini, demo_openai
from promptweir.cli.demo_calls import CallFailed, Exchange, Recorder

_ENDS = (CallFailed, LookupError, AttributeError)
"""What ends a scenario: a call that failed, or an answer too odd to go on from.  Both are on record."""


def rehearse(key_of: Mapping[str, str]) -> list[Exchange]:
    """Make all the calls past the cache: the SDKs build themselves up on first use, which is nobody's latency."""
    take = Recorder(key_of=key_of, cached=False)
    run_pass(take, 0)
    return take.exchanges


def run_pass(take: Recorder, round_: int) -> None:
    """Make all the calls once; *round_* is 0 for the cold pass and 1 for the warm one."""
    with contextlib.ExitStack() as stack:
        openai = stack.enter_context(take.openai_client())
        anthropic = stack.enter_context(take.anthropic_client())
        stranger = stack.enter_context(take.anthropic_client(f"sk-ant-demo-{secrets.token_hex(12)}"))
        gemini = take.gemini_client()
        _in_turn(demo_openai.scenarios(take, openai))
        _in_turn(demo_anthropic.scenarios(take, anthropic))
        _in_turn(demo_gemini.scenarios(take, gemini))
        asyncio.run(_async(take))
        _in_turn(
            (
                lambda: demo_openai.probes(take, openai, round_),
                lambda: demo_anthropic.probes(take, anthropic, stranger, round_),
                lambda: demo_gemini.probes(take, gemini, round_),
            )
        )


def _in_turn(scenarios: Iterable[Callable[[], None]]) -> None:
    for scenario in scenarios:
        with contextlib.suppress(*_ENDS):
            scenario()


async def _async(take: Recorder) -> None:
    # One after the other: at the same time, each would be measured with the others' work in it.
    async with take.async_openai_client() as openai, take.async_anthropic_client() as anthropic:
        with contextlib.suppress(*_ENDS):
            await demo_openai.calls_async(take, openai)
        with contextlib.suppress(*_ENDS):
            await demo_anthropic.calls_async(take, anthropic)
        with contextlib.suppress(*_ENDS):
            await demo_gemini.calls_async(take, take.gemini_client())
