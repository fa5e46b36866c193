"""Keys: the tenant first, and nothing that can change an answer forgotten."""

import re
from dataclasses import fields as fields_of
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.canonical import Canonical
from promptweir.layers.contract import CacheControl, Dialect, Encoding, Facts, Prompt
from promptweir.layers.keys import digest_of, endpoint_of, key_of, wants_usage

PROMPT = Prompt(
    id="p",
    dialect=Dialect.OPENAI_CHAT,
    provider="openai",
    host="api.openai.com",
    path="/v1/chat/completions",
    query="",
    tenant=b"t" * 32,
    facts=Facts(model="gpt-x", encoding=Encoding.JSON),
    raw=b"{}",
    body=b"{}",
    fields={"model": msgspec.Raw(b'"gpt-x"')},
)
CANONICAL = Canonical(b"c" * 32, ())


def key(prompt: Prompt = PROMPT, *, origin: str = "", parent: bytes = b"", usage: bool = True, digest: bytes = b"c" * 32) -> bytes:  # fmt: skip
    return key_of(prompt, Canonical(digest, ()), origin=origin, parent=parent, usage=usage)


COUNTS: dict[str, object] = {
    "dialect": Dialect.OPENAI_RESPONSES,
    "provider": "custom",
    "host": "eu.api.openai.com",
    "path": "/openai/v1/chat/completions",
    "query": "api-version=1",
    "tenant": b"u" * 32,
    "headers": (("openai-beta", "x"),),
    "facts": replace(PROMPT.facts, stored=True),
}
DOES_NOT: dict[str, object] = {
    "id": "q",
    "raw": b"other",
    "body": b"other",
    "fields": {},
    "client": "curl/8",
    "session": "s",
    "retry": True,
    "control": CacheControl.REFRESH,
    "fingerprint": b"x",
}
"""The body counts by its canonical form; the rest says who asks and how, not what."""
HANDED_OVER = {"origin"}
"""Counts, by way of the argument of that name (see ``ExactCache.call_of``)."""


def test_every_field_of_a_prompt_was_thought_of() -> None:
    assert {field.name for field in fields_of(Prompt)} == COUNTS.keys() | DOES_NOT.keys() | HANDED_OVER


@pytest.mark.parametrize("name", list(COUNTS))
def test_what_can_change_an_answer_counts(name: str) -> None:
    assert key(replace(PROMPT, **{name: COUNTS[name]})) != key()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(DOES_NOT))
def test_what_cannot_does_not(name: str) -> None:
    assert key(replace(PROMPT, **{name: DOES_NOT[name]})) == key()  # type: ignore[arg-type]


def test_origin_parent_usage_and_the_canonical_form_count() -> None:
    keys = [key(), key(origin="o"), key(parent=b"o"), key(usage=False), key(digest=b"d" * 32)]

    assert len(set(keys)) == len(keys)


def test_the_layout_of_the_answer_does_not_count() -> None:
    for encoding in Encoding:
        assert key(replace(PROMPT, facts=replace(PROMPT.facts, encoding=encoding))) == key()


@pytest.mark.parametrize(
    ("streamed", "plain"),
    [
        ("/v1beta/models/gemini-x:streamGenerateContent", "/v1beta/models/gemini-x:generateContent"),
        (
            "/v1/projects/p/locations/l/publishers/anthropic/models/c:streamRawPredict",
            "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict",
        ),
        ("/model/anthropic.c/invoke-with-response-stream", "/model/anthropic.c/invoke"),
    ],
)
def test_a_streaming_endpoint_and_its_twin_ask_the_same(streamed: str, plain: str) -> None:
    assert endpoint_of(streamed) == endpoint_of(plain) == plain
    assert key(replace(PROMPT, path=streamed)) == key(replace(PROMPT, path=plain))


def test_other_models_in_the_path_are_other_questions() -> None:
    paths = [
        "/v1beta/models/a:generateContent",
        "/v1beta/models/b:generateContent",
        "/v1/models/a:generateContent",
        "/v1beta/models/a:countTokens",
        "/model/a/invoke",
        "/model/a/invoke/invoke",
        "/model/a%2Finvoke",
    ]

    assert len({key(replace(PROMPT, path=path)) for path in paths}) == len(paths)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a=1&b=2", "b=2&a=1"),
        ("a=1&key=secret", "a=1"),
        ("alt=sse", ""),
        ("$alt=json", ""),
        ("access_token=x&a=1", "a=1"),
        ("a=%41", "a=A"),
        ("a=x+y", "a=x%20y"),
    ],
)
def test_queries_that_ask_the_same(a: str, b: str) -> None:
    assert key(replace(PROMPT, query=a)) == key(replace(PROMPT, query=b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a=1", ""),
        ("a=1", "a=2"),
        ("a=1&a=2", "a=2&a=1"),
        ("a=1&a=1", "a=1"),
        ("a=", ""),
        ("a=b", "ab="),
        ("a=1&b=2", "a=1%26b%3D2"),
        ("a=%ff", "a=%fe"),
        ("keys=1", ""),
        ("KEY=1", ""),
    ],
)
def test_queries_that_do_not(a: str, b: str) -> None:
    assert key(replace(PROMPT, query=a)) != key(replace(PROMPT, query=b))


_HEADERS = st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3).map(tuple)
_QUERY = st.lists(st.tuples(st.sampled_from("abc"), st.text("ab&=%", max_size=3)), max_size=3)


@st.composite
def questions(draw: st.DrawFn) -> tuple[object, ...]:
    return (
        draw(st.binary(min_size=32, max_size=32) | st.just(b"t" * 32)),
        draw(st.sampled_from(list(Dialect))),
        draw(st.text(max_size=5)),
        draw(st.text(max_size=5)),
        draw(st.text("/ab", max_size=6)),
        draw(_HEADERS),
        draw(st.booleans()),
        draw(st.text(max_size=5)),
        draw(st.binary(max_size=5)),
        draw(st.booleans()),
        draw(st.sampled_from([b"c" * 32, b"d" * 32])),
    )


def key_for(question: tuple[object, ...]) -> bytes:
    tenant, dialect, provider, host, path, headers, stored, origin, parent, usage, digest = question
    prompt = replace(
        PROMPT, tenant=tenant, dialect=dialect, provider=provider, host=host, path=path, headers=headers,
        facts=replace(PROMPT.facts, stored=stored),
    )  # type: ignore[arg-type] # fmt: skip
    return key(prompt, origin=origin, parent=parent, usage=usage, digest=digest)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(questions(), questions())
def test_keys_are_injective_over_all_their_fields(a: tuple[object, ...], b: tuple[object, ...]) -> None:
    assert (key_for(a) == key_for(b)) is (a == b)


@settings(max_examples=80, deadline=None)
@given(questions(), st.integers(0, 10), questions())
def test_one_field_that_differs_is_enough(a: tuple[object, ...], place: int, b: tuple[object, ...]) -> None:
    other = (*a[:place], b[place], *a[place + 1 :])

    assert (key_for(a) == key_for(other)) is (a[place] == b[place])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_the_digest_of_parts_is_injective(a: list[bytes], b: list[bytes]) -> None:
    assert (digest_of(a) == digest_of(b)) is (a == b)


def test_parts_cannot_be_shifted_into_their_neighbours() -> None:
    assert len({digest_of(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"", b"abc"])}) == 5  # fmt: skip
    assert key(replace(PROMPT, provider="a", host="b")) != key(replace(PROMPT, provider="ab", host=""))
    assert key(replace(PROMPT, headers=(("a", "b"),))) != key(replace(PROMPT, headers=(), query="a=b"))


def test_only_a_streamed_chat_can_go_without_usage() -> None:
    quiet = replace(PROMPT.facts, include_usage=False)

    assert wants_usage(replace(PROMPT, facts=quiet))
    assert not wants_usage(replace(PROMPT, facts=replace(quiet, encoding=Encoding.SSE)))
    assert wants_usage(replace(PROMPT, facts=replace(quiet, encoding=Encoding.SSE), dialect=Dialect.ANTHROPIC_MESSAGES))
    assert wants_usage(replace(PROMPT, facts=replace(PROMPT.facts, encoding=Encoding.SSE)))


def test_a_key_shows_nothing_of_what_it_is_made_of() -> None:
    assert len(key()) == 32
    assert not re.search(rb"openai|tttt", key())
