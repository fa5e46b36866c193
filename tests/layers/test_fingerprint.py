"""Fingerprints tell where two requests differ, and nothing of what they say."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.canonical import OMITTED
from promptweir.layers.contract import Dialect
from promptweir.layers.fingerprint import MAX_PATHS, fingerprint_of, first_difference, nearest

CHAT = Dialect.OPENAI_CHAT
PEPPER = b"p" * 32


def mark(doc: object, *heading: tuple[str, str], pepper: bytes = PEPPER, dialect: Dialect = CHAT) -> bytes:
    fields = msgspec.json.decode(json.dumps(doc).encode(), type=dict[str, msgspec.Raw])
    return fingerprint_of(dialect, fields, heading, pepper)


def asked(text: str = "hi", **more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def test_equal_requests_do_not_differ() -> None:
    assert first_difference(mark(asked()), mark(asked())) is None


@pytest.mark.parametrize(
    ("other", "path"),
    [
        (asked("other"), "$.messages[0].content"),
        (asked(model="x"), "$.model"),
        (asked(temperature=1), "$.temperature"),
        ({"model": "m"}, "$.messages[0].role"),
        (asked(messages=[]), "$.messages[0].role"),
        (asked(messages=[*asked()["messages"], {"role": "user"}]), "$.messages[1].role"),  # type: ignore[misc]
        (asked(messages=[{"role": "user", "content": None}]), "$.messages[0].content"),
    ],
)
def test_the_first_path_that_differs_is_named(other: dict[str, object], path: str) -> None:
    assert first_difference(mark(asked()), mark(other)) == path


def test_values_outside_the_body_are_named_by_their_heading() -> None:
    assert first_difference(mark(asked(), ("endpoint", "/a")), mark(asked(), ("endpoint", "/b"))) == "endpoint"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_what_is_not_in_the_key_is_never_named_as_the_difference(dialect: Dialect) -> None:
    for name in OMITTED[dialect]:
        assert first_difference(mark(asked(), dialect=dialect), mark({**asked(), name: "x"}, dialect=dialect)) is None
    hint = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    moved = {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}
    assert first_difference(mark(asked(messages=[hint])), mark(asked(messages=[moved]))) is None


def test_nothing_of_the_text_is_in_it_and_none_can_compare_without_the_pepper() -> None:
    secret = "correct horse battery staple"

    assert secret.encode() not in mark(asked(secret))
    assert mark(asked(secret)) != mark(asked(secret), pepper=b"q" * 32)


def test_the_nearest_candidate_shares_most() -> None:
    target = mark(asked("a", temperature=1, top_p=1))
    far, near, longer = mark({"model": "z"}), mark(asked("a", temperature=1)), mark(asked("a", **{f"f{i}": i for i in range(20)}))  # fmt: skip

    assert nearest(target, [far, near, longer]) == 1
    assert nearest(target, [far, target, near]) == 1
    assert nearest(target, []) is None


def test_a_huge_request_has_a_bounded_fingerprint() -> None:
    huge = mark(asked(**{f"field{i}": list(range(100)) for i in range(1000)}))

    assert len(msgspec.msgpack.decode(huge)) == MAX_PATHS


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 20_000 + b"]" * 20_000,
        b'"\xff"',
        b"1e999",
        b"NaN",
        b"123456789012345678901234567890",
        b'"\\ud800"',
        b'{"a":1,"a":2}',
    ],
)
def test_odd_values_are_no_error(raw: bytes) -> None:
    assert isinstance(fingerprint_of(CHAT, {"messages": msgspec.Raw(raw)}, (), PEPPER), bytes)


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xc1", msgspec.msgpack.encode({"a": 1})])
def test_a_damaged_fingerprint_is_an_empty_one(garbage: bytes) -> None:
    good = mark(asked())

    assert first_difference(garbage, good) == "$.model"
    assert first_difference(good, garbage) == "$.model"
    assert nearest(good, [garbage, good]) == 1


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), _VALUES), st.dictionaries(st.sampled_from(["a", "b", "c"]), _VALUES))  # fmt: skip
def test_a_difference_is_named_if_and_only_if_there_is_one(a: dict[str, object], b: dict[str, object]) -> None:
    found = first_difference(mark(a), mark(b))

    assert (found is None) is (_types(a) == _types(b))
    if found is not None:
        assert found.startswith("$.")


def _types(value: object) -> object:
    """Tell 1 from true and 0 from false, which Python does not."""
    match value:
        case dict():
            return {key: _types(inner) for key, inner in value.items()}
        case list():
            return [_types(inner) for inner in value]
        case _:
            return type(value), value
