"""The demo's judgement: was each answer the right one, and how long did it take.

Goal: a number of wrong answers that means something.  An answer is wrong when it is not what the stand-in says to the
request that went out (computed here anew, not taken from any cache), when a call that only resembles another was
answered from the cache, or when the warm object differs from the cold one in more than its fresh ids and times.

What this module does not do: it makes no call.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from promptweir.cli.demo_calls import Exchange, Trace
from promptweir.cli.standin_answers import Plan, plan_of
from promptweir.cli.standin_asks import Json, as_list, as_map, as_text, read_ask
from promptweir.cli.standin_side import Kind, count, embed, history_of, route_of, with_history
from promptweir.cli.standin_wire import Api

EMBEDDING_TOLERANCE = 1e-6
"""Vectors travel as 32-bit floats."""
_FRESH_IDS = frozenset({"id", "call_id", "item_id", "response_id", "tool_use_id", "tool_call_id"})
_FRESH_TIMES = frozenset({"created", "created_at", "completed_at", "create_time"})


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, whatever its format."""

    text: str = ""
    tool: str = ""
    arguments: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The outcome of a whole demo; latencies are None where there was nothing to measure."""

    calls: int
    deflected: int
    wrong: int
    layers: dict[str, int]
    """Calls by the layer that answered them."""
    hit_ms_p50: float | None
    hit_ms_p99: float | None
    miss_ms_p50: float | None
    miss_ms_p99: float | None


@dataclass(slots=True)
class Judge:
    """Knows what the stand-in answers; remembers the conversations that it keeps for Responses."""

    stored: dict[str, list[Json]] = field(default_factory=dict)

    def complaint(self, exchange: Exchange) -> str:
        """Return what is wrong with an answer of the stand-in, or an empty string."""
        trace = exchange.trace
        route = route_of(trace.path, trace.query)
        doc: Json = json.loads(trace.asked)
        match route.kind:
            case Kind.COUNT:
                wanted = count(doc, route)
                right = wanted.get("input_tokens", wanted.get("totalTokens"))
                answer = as_map(exchange.doc)
                seen = answer.get("input_tokens", answer.get("total_tokens"))
                return "" if seen == right else f"counted {seen} tokens instead of {right}"
            case Kind.EMBED:
                return (
                    ""
                    if _vectors_agree(exchange.doc, embed({**as_map(doc), "encoding_format": "float"}, route))
                    else ("got the vectors of another text")
                )
        if route.api is Api.RESPONSES:
            try:
                doc = with_history(doc, self.stored)
            except KeyError:
                return "goes on from a response that the provider never gave"
            self._remember(doc, trace)
        right_answer = expected(plan_of(read_ask(doc, route.model)), route.api)
        seen_answer = said(exchange.doc, route.api)
        return "" if seen_answer == right_answer else f"said {_short(seen_answer)} instead of {_short(right_answer)}"

    def _remember(self, doc: Json, trace: Trace) -> None:
        if trace.answered and as_map(doc).get("store", True) is True:
            answer: Json = json.loads(trace.answered)
            self.stored[as_text(as_map(answer).get("id"))] = history_of(doc, answer)


def complaint_of(exchange: Exchange, judge: Judge | None) -> str:
    """Return what is wrong with *exchange* by itself, or an empty string; without a judge only failures show."""
    if exchange.failure:
        return f"failed: {exchange.failure}"
    if not exchange.trace.layer:
        return "did not come through the proxy"
    if exchange.probe and exchange.trace.deflected:
        return f"was answered by {exchange.trace.layer}, though nobody had asked it before"
    return judge.complaint(exchange) if judge else ""


def complaints_of(cold: Sequence[Exchange], warm: Sequence[Exchange], judge: Judge | None) -> list[str]:
    """Return one sentence for each wrong answer of the two passes."""
    found = []
    before = {exchange.name: exchange for exchange in cold if not exchange.probe}
    for when, exchanges in (("cold", cold), ("warm", warm)):
        for exchange in exchanges:
            complaint = complaint_of(exchange, judge)
            first = before.get(exchange.name)
            if not complaint and when == "warm" and not exchange.probe:
                if first is None:
                    complaint = "was not asked in the cold pass"
                elif exchange.trace.deflected and not first.failure:
                    # One that went out again is the provider's to answer, under other ids and in other words.
                    complaint = difference(first.doc, exchange.doc)
            if complaint:
                found.append(f"{exchange.name} ({when}) {complaint}")
    missing = before.keys() - {exchange.name for exchange in warm}
    return found + [f"{name} (warm) was not asked: a call before it failed" for name in sorted(missing)]


def score(exchanges: Sequence[Exchange], wrong: int) -> Score:
    """Sum up."""
    layers: dict[str, int] = {}
    for exchange in exchanges:
        layer = exchange.trace.layer or "none"
        layers[layer] = layers.get(layer, 0) + 1
    good = [exchange for exchange in exchanges if not exchange.failure]
    hits = [exchange.elapsed_ms for exchange in good if exchange.trace.deflected]
    misses = [exchange.elapsed_ms for exchange in good if not exchange.trace.deflected]
    return Score(
        calls=len(exchanges),
        deflected=sum(exchange.trace.deflected for exchange in exchanges),
        wrong=wrong,
        layers=dict(sorted(layers.items())),
        hit_ms_p50=percentile(hits, 50),
        hit_ms_p99=percentile(hits, 99),
        miss_ms_p50=percentile(misses, 50),
        miss_ms_p99=percentile(misses, 99),
    )


def percentile(values: Iterable[float], percent: int) -> float | None:
    """Return the nearest-rank percentile, to the microsecond; None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 3)


def expected(plan: Plan, api: Api) -> Said:
    """Return what the answer to *plan* says in the format of *api*."""
    if plan.tool is None:
        return Said(plan.text)
    # OpenAI's formats carry a call without the words before it.
    text = plan.text if api in (Api.MESSAGES, Api.GEMINI) else ""
    return Said(text, plan.tool.name, plan.tool.arguments)


def said(doc: Json, api: Api) -> Said:
    """Read an SDK's object, or the objects of a stream."""
    match api:
        case Api.CHAT:
            return _said_by_chat(doc)
        case Api.MESSAGES:
            blocks = [as_map(block) for block in as_list(as_map(doc).get("content"))]
            use = next((block for block in blocks if block.get("type") == "tool_use"), {})
            return Said(_joined(blocks), as_text(use.get("name")), use.get("input"))
        case Api.RESPONSES:
            items = [as_map(item) for item in as_list(as_map(doc).get("output"))]
            call = next((item for item in items if item.get("type") == "function_call"), {})
            parts = [as_map(part) for item in items for part in as_list(item.get("content"))]
            return Said(_joined(parts), as_text(call.get("name")), _decoded(as_text(call.get("arguments"))))
        case Api.GEMINI:
            chunks = [as_map(chunk) for chunk in (doc if isinstance(doc, list) else [doc])]
            firsts = [as_map(next(iter(as_list(chunk.get("candidates"))), None)) for chunk in chunks]
            parts = [as_map(part) for first in firsts for part in as_list(as_map(first.get("content")).get("parts"))]
            calls = [as_map(part.get("function_call")) for part in parts if part.get("function_call")]
            call = calls[0] if calls else {}
            return Said(_joined(parts), as_text(call.get("name")), call.get("args"))


def _said_by_chat(doc: Json) -> Said:
    text = name = arguments = ""
    for chunk in doc if isinstance(doc, list) else [doc]:
        for choice in as_list(as_map(chunk).get("choices")):
            message = as_map(as_map(choice).get("delta") or as_map(choice).get("message"))
            text += as_text(message.get("content"))
            for call in as_list(message.get("tool_calls")):
                function = as_map(as_map(call).get("function"))
                name += as_text(function.get("name"))
                arguments += as_text(function.get("arguments"))
    return Said(text, name, _decoded(arguments))


def _joined(parts: Iterable[Mapping[str, Json]]) -> str:
    return "".join(as_text(part.get("text")) for part in parts)


def _decoded(arguments: str) -> Json:
    try:
        found: Json = json.loads(arguments) if arguments else None
    except ValueError:
        return arguments
    return found


def _vectors_agree(answer: Json, wanted: Json) -> bool:
    ours, theirs = (
        [as_list(as_map(row).get("embedding")) for row in as_list(as_map(doc).get("data"))] for doc in (answer, wanted)
    )
    return len(ours) == len(theirs) and all(
        len(one) == len(other)
        and all(
            isinstance(a, float) and isinstance(b, float) and abs(a - b) <= EMBEDDING_TOLERANCE
            for a, b in zip(one, other, strict=True)
        )
        for one, other in zip(ours, theirs, strict=True)
    )


def _short(what: Said) -> str:
    call = f" {what.tool}({json.dumps(what.arguments)})" if what.tool else ""
    return repr(what.text[:80]) + call[:80]


def difference(cold: Json, warm: Json) -> str:
    """Return where two answers differ apart from fresh ids and times, or an empty string."""
    where = _first_difference(_normal(cold, {}), _normal(warm, {}), "$")
    return f"differs from the cold answer at {where}" if where else ""


def _normal(value: Json, names: dict[str, str], key: str = "") -> Json:
    """Number the ids in order of appearance: one that stands for another must do so everywhere."""
    if isinstance(value, dict):
        return {inner: _normal(item, names, inner) for inner, item in value.items()}
    if isinstance(value, list):
        return [_normal(item, names) for item in value]
    if key in _FRESH_IDS and isinstance(value, str):
        return names.setdefault(value, f"id {len(names)}")
    return 0 if key in _FRESH_TIMES and value is not None else value


def _first_difference(cold: Json, warm: Json, path: str) -> str:
    if isinstance(cold, dict) and isinstance(warm, dict):
        for key in (*cold, *warm):
            if key not in cold or key not in warm:
                return f"{path}.{key}"
            if found := _first_difference(cold[key], warm[key], f"{path}.{key}"):
                return found
        return ""
    if isinstance(cold, list) and isinstance(warm, list):
        if len(cold) != len(warm):
            return path
        pairs = enumerate(zip(cold, warm, strict=True))
        return next((found for at, (a, b) in pairs if (found := _first_difference(a, b, f"{path}[{at}]"))), "")
    return "" if cold == warm and isinstance(cold, type(warm)) else path
