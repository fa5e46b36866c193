"""The native call put to a provider, and the provider's answer put back."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.contract import Dialect
from promptweir.layers.native import MAX_OUTPUT_TOKENS, Question, question_of, relabelled, reply_of
from promptweir.layers.providers import Registry, dialect_of


def question(default: str = "gpt-4o-mini", /, **doc: object) -> Question:
    return question_of(msgspec.json.decode(msgspec.json.encode(doc), type=dict[str, msgspec.Raw]), default)


CASES = [
    ("claude-sonnet-4-5", "anthropic", "/v1/messages", "x-api-key", Dialect.ANTHROPIC_MESSAGES),
    ("gemini-2.5-flash", "gemini", "/v1beta/models/gemini-2.5-flash:generateContent", "x-goog-api-key", Dialect.GEMINI_GENERATE),
    ("gemma-3", "gemini", "/v1beta/models/gemma-3:generateContent", "x-goog-api-key", Dialect.GEMINI_GENERATE),
    ("gpt-4o", "openai", "/v1/chat/completions", "authorization", Dialect.OPENAI_CHAT),
    ("o3", "openai", "/v1/chat/completions", "authorization", Dialect.OPENAI_CHAT),
]  # fmt: skip


@pytest.mark.parametrize(("model", "provider", "path", "header", "dialect"), CASES)
def test_the_models_name_points_to_its_provider(model: str, provider: str, path: str, header: str, dialect: Dialect) -> None:  # fmt: skip
    asked = question(prompt="hi", model=model)

    assert (asked.provider, asked.path, asked.credential_header, asked.model) == (provider, path, header, model)
    assert dialect_of(asked.path) is dialect
    found = Registry().provider_of(asked.host)
    assert found is not None
    assert found.name == provider
    assert asked == question(model, prompt="hi")
    assert asked == question(model, prompt="hi", model="")


def test_the_bodies_are_what_the_providers_read() -> None:
    turn = {"role": "user", "content": "hi"}

    assert json.loads(question(prompt="hi", model="claude-x").body) == {"model": "claude-x", "max_tokens": MAX_OUTPUT_TOKENS, "messages": [turn]}  # fmt: skip
    assert json.loads(question(prompt="hi", model="gpt-x").body) == {"model": "gpt-x", "messages": [turn]}
    assert json.loads(question(prompt="hi", model="gemini-x").body) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}  # fmt: skip


@pytest.mark.parametrize("doc", [{}, {"prompt": 1}, {"prompt": None}, {"prompt": ["a"]}, {"prompt": "a", "model": 1}, {"prompt": "a", "model": None}])  # fmt: skip
def test_what_is_no_native_call_is_refused(doc: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a native call is"):
        question(**doc)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_prompt_arrives_whole_and_no_model_name_leaves_its_path_segment(prompt: str, rest: str) -> None:
    try:
        asked = question(prompt=prompt, model="gemini" + rest)
    except UnicodeEncodeError:
        return

    assert json.loads(asked.body)["contents"][0]["parts"][0]["text"] == prompt
    assert asked.path.count("/") == 3
    assert "?" not in asked.path
    assert "#" not in asked.path


ANSWERS: list[tuple[dict[str, object], str]] = [
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "stop_reason": "end_turn"}, "ab"),
    ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "stop_reason": "end_turn"}, "a"),
    ({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, "a"),
    ({"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {"text": "a"}]}, "finishReason": "STOP"}]}, "a"),
]  # fmt: skip


@pytest.mark.parametrize(("doc", "text"), ANSWERS)
def test_only_the_text_comes_back(doc: dict[str, object], text: str) -> None:
    reply = json.loads(reply_of(json.dumps(doc).encode(), "l3", "m"))

    assert reply == {"layer": "l3", "message": text, "model": "m"}
    assert json.loads(relabelled(json.dumps(reply).encode(), "l1a")) == {**reply, "layer": "l1a"}


@pytest.mark.parametrize(
    "doc",
    [
        {"content": [{"type": "text", "text": "half"}], "stop_reason": "max_tokens"},
        {"content": [{"type": "tool_use", "input": {}}], "stop_reason": "end_turn"},
        {"content": [], "stop_reason": "end_turn"},
        {"choices": [{"message": {"content": "half"}, "finish_reason": "length"}]},
        {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]},
        {"choices": []},
        {"candidates": [{"content": {"parts": [{"text": "half"}]}, "finishReason": "MAX_TOKENS"}]},
        {"candidates": [{"finishReason": "STOP"}]},
        {"error": {"message": "no"}},
        {},
        [],
        "text",
        None,
    ],
)
def test_an_answer_without_a_whole_text_is_refused(doc: object) -> None:
    with pytest.raises(ValueError, match="no text"):
        reply_of(json.dumps(doc).encode(), "l3", "m")


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        reply_of(b"<html>", "l3", "m")
    assert relabelled(b"[1]", "l1a") == b"[1]"
