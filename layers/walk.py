"""The walk: a prompt goes through the stack until a layer answers.

This is where the program fails open.  Whatever goes wrong inside a layer, and however long it takes, the original
request goes to the provider.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from promptweir.layers.contract import Amend, Completion, Deflect, Layer, Pass, Prompt, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer said."""

    layer: str
    verdict: Verdict
    elapsed_ns: int


@dataclass(frozen=True, slots=True)
class Trip:
    """One prompt's way through the stack."""

    prompt: Prompt
    """As it left the last layer; ``prompt.raw`` is the very object that came in unless a layer amended it."""
    steps: tuple[Step, ...]

    @property
    def deflected(self) -> tuple[str, Deflect] | None:
        """The layer that answered and its answer."""
        if self.steps and isinstance(self.steps[-1].verdict, Deflect):
            return self.steps[-1].layer, self.steps[-1].verdict
        return None

    @property
    def reason(self) -> str:
        """The last layer's word."""
        return self.steps[-1].verdict.reason if self.steps else "no-layers"


async def walk(
    prompt: Prompt, layers: Sequence[Layer], now_ns: Callable[[], int], report: Callable[[str, BaseException], None]
) -> Trip:
    """Ask each layer in turn.  *report* hears of a layer's failure: its name and the error, never shown to a client."""
    steps: list[Step] = []
    for layer in layers:
        start_ns = now_ns()
        verdict: Verdict
        try:
            async with asyncio.timeout(layer.budget_s):
                verdict = await layer.consider(prompt)
        except TimeoutError:
            verdict = Pass(reason="over-budget")
        except Exception as error:  # noqa: BLE001 - the one broad except: a request is worth more than any layer
            report(layer.name, error)
            verdict = Pass(reason=f"error-{type(error).__name__}")
        steps.append(Step(layer.name, verdict, now_ns() - start_ns))
        match verdict:
            case Deflect():
                break
            case Amend(raw=raw):
                prompt = replace(prompt, raw=raw)
            case Pass():
                pass
    return Trip(prompt, tuple(steps))


async def teach(
    prompt: Prompt, completion: Completion, layers: Sequence[Layer], report: Callable[[str, BaseException], None]
) -> None:
    """Let each layer learn; one that fails does not keep the others from it."""
    for layer in layers:
        try:
            await layer.learn(prompt, completion)
        except Exception as error:  # noqa: BLE001 - the walk's other half: learning must never hurt anyone
            report(layer.name, error)
