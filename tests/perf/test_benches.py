"""The benches themselves: they measure what they say, and refuse to report what they did not measure."""

import json

import pytest

from tests.perf import bench_handshake, bench_hit, bench_miss, bodies
from tests.perf.harness import Args, benches
from tests.perf.processes import BenchError, Stage


@pytest.mark.parametrize("size", bodies.SIZES)
def test_two_requests_are_the_same_question_in_two_sessions(size: int) -> None:
    first, second = bodies.request(size, 1), bodies.request(size, 2)
    one, other = json.loads(first.body), json.loads(second.body)

    assert abs(len(first.body) - size) < size * 0.05
    assert one.pop("metadata") != other.pop("metadata")
    assert one["system"][0] != other["system"][0]
    assert one["system"][1:] == other["system"][1:]
    assert one["messages"] == other["messages"] != json.loads(bodies.request(size, 1, 1).body)["messages"]


def test_every_bench_has_a_name_and_says_what_it_does() -> None:
    found = benches()

    assert {"hit", "miss", "master", "entries", "handshake"} <= found.keys()
    assert all(name == bench.NAME and bench.DESCRIPTION for name, bench in found.items())


@pytest.mark.slow
def test_an_answer_from_elsewhere_than_the_cache_is_no_hit() -> None:
    with Stage() as stage:
        ours = stage.promptweir("ours", stage.origin())

        with pytest.raises(BenchError, match="layer l3 answered, not l1a"):
            stage.ask(ours, 2_000, [0])


@pytest.mark.slow
def test_a_hit_costs_more_than_a_constant_and_a_miss_more_than_nothing() -> None:
    hit = bench_hit.run(Args("hit", ("2",)))
    miss = bench_miss.run(Args("miss", ("2",)))

    for size in ("2kB", "50kB", "500kB"):
        assert hit.parts[f"{size}_hit_cpu_ms"] > hit.parts[f"{size}_constant_cpu_ms"] > 0  # type: ignore[operator]
    assert miss.parts["50kB_miss_cpu_ms"] > miss.parts["50kB_noop_cpu_ms"] > 0  # type: ignore[operator]


@pytest.mark.slow
def test_a_connection_costs_less_on_our_own_master() -> None:
    assert bench_handshake.run(Args("handshake", ("2",))).ratio < 1
