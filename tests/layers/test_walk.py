"""The walk fails open: whatever a layer does, the request goes on."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.contract import (
    Amend,
    Completion,
    Deflect,
    Dialect,
    Encoding,
    Facts,
    Layer,
    Pass,
    Prompt,
    Verdict,
)
from promptweir.layers.walk import Trip, teach, walk

PROMPT = Prompt(
    id="p",
    dialect=Dialect.OPENAI_CHAT,
    provider="openai",
    host="h",
    path="/",
    query="",
    tenant=b"t",
    facts=Facts(model="m", encoding=Encoding.JSON),
    raw=b'{"model": "m"}',
    body=b'{"model": "m"}',
    fields={},
)
DONE = Completion(status=200, content_type="application/json", encoding=Encoding.JSON, body=b"{}")


class Saying:
    """A layer that says one thing."""

    def __init__(self, act: Verdict | BaseException | Callable[[], Awaitable[Verdict]], *, name: str = "one", budget_s: float = 5.0) -> None:  # fmt: skip
        self.name, self.budget_s, self._act = name, budget_s, act
        self.seen: list[Prompt] = []
        self.learned: list[Completion] = []

    async def consider(self, prompt: Prompt) -> Verdict:
        self.seen.append(prompt)
        if isinstance(self._act, BaseException):
            raise self._act
        return await self._act() if callable(self._act) else self._act

    async def learn(self, prompt: Prompt, completion: Completion) -> None:
        if isinstance(self._act, BaseException):
            raise self._act
        self.learned.append(completion)


class Ears:
    """Hears the reports."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, BaseException]] = []

    def __call__(self, layer: str, error: BaseException) -> None:
        self.heard.append((layer, error))


async def walked(*layers: Layer, ears: Ears | None = None) -> Trip:
    clock = itertools.count(step=10)
    return await walk(PROMPT, layers, lambda: next(clock), ears or Ears())


async def test_a_layer_that_passes_leaves_the_very_same_request() -> None:
    first, second = Saying(Pass(reason="a")), Saying(Pass(reason="b"), name="two")

    trip = await walked(first, second)

    assert trip.prompt is PROMPT
    assert trip.deflected is None
    assert trip.reason == "b"
    assert [step.layer for step in trip.steps] == ["one", "two"]
    assert [step.elapsed_ns for step in trip.steps] == [10, 10]


async def test_without_layers_the_request_goes_on() -> None:
    trip = await walked()

    assert (trip.prompt, trip.deflected, trip.reason) == (PROMPT, None, "no-layers")


async def test_the_first_answer_ends_the_walk() -> None:
    answer = Deflect(completion=DONE, reason="hit")
    after = Saying(Pass(reason="never"))

    trip = await walked(Saying(Pass(reason="miss")), Saying(answer, name="two"), after)

    assert trip.deflected == ("two", answer)
    assert trip.reason == "hit"
    assert not after.seen


async def test_an_amended_body_goes_on_and_only_the_body_is_amended() -> None:
    amended = b'{"model":"m"}'
    after = Saying(Pass(reason="miss"))

    trip = await walked(Saying(Amend(raw=amended, reason="minified")), after)

    assert trip.prompt.raw is amended
    assert after.seen[0].raw is amended
    assert PROMPT.raw == b'{"model": "m"}'
    assert (trip.prompt.id, trip.prompt.tenant, trip.prompt.body) == (PROMPT.id, PROMPT.tenant, PROMPT.body)
    assert trip.deflected is None


@pytest.mark.parametrize("error", [ValueError("secret text"), KeyError("x"), RecursionError(), MemoryError(), OSError(28, "full"), AssertionError()])  # fmt: skip
async def test_a_layer_that_fails_is_passed_by_and_reported(error: Exception) -> None:
    ears, after = Ears(), Saying(Pass(reason="miss"), name="two")

    trip = await walked(Saying(error), after, ears=ears)

    assert trip.prompt is PROMPT
    assert after.seen == [PROMPT]
    assert ears.heard == [("one", error)]
    first = trip.steps[0].verdict
    assert first == Pass(reason=f"error-{type(error).__name__}")
    assert "secret" not in first.reason


async def test_a_layer_that_takes_too_long_is_passed_by() -> None:
    cancelled = asyncio.Event()

    async def hang() -> Verdict:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Pass(reason="never")

    after = Saying(Pass(reason="miss"), name="two")
    trip = await asyncio.wait_for(walked(Saying(hang, budget_s=0.02), after), 5)

    assert trip.steps[0].verdict == Pass(reason="over-budget")
    assert cancelled.is_set()
    assert after.seen == [PROMPT]


async def test_a_client_that_leaves_cancels_the_walk() -> None:
    async def hang() -> Verdict:
        await asyncio.sleep(60)
        return Pass(reason="never")

    after, ears = Saying(Pass(reason="miss")), Ears()
    task = asyncio.ensure_future(walked(Saying(hang), after, ears=ears))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert not after.seen
    assert not ears.heard


async def test_a_layer_that_cannot_learn_keeps_no_other_from_it() -> None:
    ears, after = Ears(), Saying(Pass(reason="x"), name="two")

    await teach(PROMPT, DONE, [Saying(OSError(28, "full")), after], ears)

    assert after.learned == [DONE]
    assert [layer for layer, _ in ears.heard] == ["one"]


_ACTS = st.sampled_from(["pass", "amend", "fail", "deflect"])


@settings(max_examples=60, deadline=None)
@given(st.lists(_ACTS, max_size=6))
def test_any_stack_ends_in_an_answer_or_in_the_last_amended_request(acts: list[str]) -> None:
    verdicts: dict[str, Callable[[int], Verdict | BaseException]] = {
        "pass": lambda _: Pass(reason="p"),
        "amend": lambda index: Amend(raw=b"%d" % index, reason="a"),
        "fail": lambda _: ValueError("x"),
        "deflect": lambda _: Deflect(completion=DONE, reason="d"),
    }
    layers = [Saying(verdicts[act](index), name=str(index)) for index, act in enumerate(acts)]

    trip = asyncio.run(walked(*layers))

    asked = acts[: acts.index("deflect") + 1] if "deflect" in acts else acts
    amended = [index for index, act in enumerate(asked) if act == "amend"]
    assert len(trip.steps) == len(asked)
    assert (trip.deflected is not None) is ("deflect" in acts)
    assert trip.prompt.raw == (b"%d" % amended[-1] if amended else PROMPT.raw)
