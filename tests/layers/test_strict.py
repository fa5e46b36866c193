"""Strict JSON: one value for all readers, or none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.strict import decoded, encoded, items_of

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=16,
)
_LAYOUTS = st.sampled_from(
    [
        {"separators": (",", ":"), "ensure_ascii": False},
        {"separators": (",", ":")},
        {"ensure_ascii": False},
        {"indent": 2},
        {"indent": "\t", "ensure_ascii": False},
    ]
)


@settings(max_examples=300, deadline=None)
@given(_VALUES, _LAYOUTS)
def test_every_layout_of_a_value_has_that_value(value: object, layout: dict[str, object]) -> None:
    raw = json.dumps(value, **layout).encode()  # type: ignore[arg-type]

    assert decoded(raw) == json.loads(raw)
    assert encoded(decoded(raw)) == encoded(decoded(json.dumps(value).encode()))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a": 1, "a": 2}',
        b'{"a":1,"\\u0061":2}',
        b'{"\\u0061":1,"a":2}',
        b'[{"x":[{"b":1,\n"b":2}]}]',
        b'{"a":1e5,"aaaaa":1,"aaaaa":1}',
        b'{"a":"\\/","bb":0,"bb":0}',
    ],
)
def test_a_key_that_occurs_twice_is_found_however_it_is_spelled(raw: bytes) -> None:
    with pytest.raises(ValueError, match="duplicate"):
        decoded(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b'"\\ud800"',
        b'{"\xff":1}',
        b'"\xc3"',
        b"[1,]",
        b"{} {}",
        b"",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
)
def test_what_is_not_json_has_no_value(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decoded(raw)


def test_elements_of_a_list_are_the_bytes_that_were_sent() -> None:
    assert items_of(b'[ {"a" : 1}, "x" ,[ ] ]') == [b'{"a" : 1}', b'"x"', b"[ ]"]
    with pytest.raises(ValueError, match=r".*"):
        items_of(b'{"a":1}')
