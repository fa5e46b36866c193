"""The options: one table, read strictly, every complaint one sentence that names the option."""

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.config import BY_NAME, MAX_SECONDS, OPTIONS, PREFIX, Config, Origin, config_of, value_of
from promptweir.layers.contract import Dialect

NUMBERS = [option for option in OPTIONS if isinstance(option.default, int) and not isinstance(option.default, bool)]
FLAGS = [option for option in OPTIONS if isinstance(option.default, bool)]
CHOICES = [option for option in OPTIONS if option.choices]


def test_the_table_and_the_config_have_the_same_names() -> None:
    assert {option.name.removeprefix(PREFIX) for option in OPTIONS} == {field.name for field in fields(Config)}
    assert len(BY_NAME) == len(OPTIONS)


def test_every_option_is_told_in_a_sentence_and_every_number_has_a_unit() -> None:
    for option in OPTIONS:
        assert option.name.startswith(PREFIX)
        assert option.help.endswith("."), option.name
        assert option.default in option.choices or not option.choices, option.name
    for option in NUMBERS:
        assert option.unit, option.name


def test_units_are_in_the_names() -> None:
    for option in NUMBERS:
        suffix = {"seconds": "_s", "bytes": "_bytes"}.get(option.unit)
        assert suffix is None or option.name.endswith(suffix), option.name


def test_without_values_every_option_has_its_default() -> None:
    config = config_of({})

    assert config.l1a_ttl_s == 7 * 86_400
    assert config.l1a_max_temperature is None
    assert (config.hosts, config.upstream, config.paths) == ((), {}, {})
    assert config == config_of({option.name: option.default for option in OPTIONS})


def test_values_arrive_where_they_belong() -> None:
    for option in NUMBERS:
        assert getattr(config_of({option.name: 7}), option.name.removeprefix(PREFIX)) == 7
    for option in FLAGS:
        assert getattr(config_of({option.name: not option.default}), option.name.removeprefix(PREFIX)) is not option.default  # fmt: skip
    for option in CHOICES:
        for choice in option.choices:
            assert getattr(config_of({option.name: choice}), option.name.removeprefix(PREFIX)) == choice


def test_a_value_of_a_wrong_type_is_refused_by_name() -> None:
    for option in OPTIONS:
        wrong = [None, [], 1.5, *(["x"] if not isinstance(option.default, str) else [1])]
        if isinstance(option.default, bool):
            wrong.append(1)
        elif isinstance(option.default, int):
            wrong += [True, "7"]
        for value in wrong:
            with pytest.raises(ValueError, match=option.name):
                config_of({option.name: value})


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_numbers_are_bounded_on_both_sides(option: object) -> None:
    name = option.name  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        config_of({name: -1})
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        config_of({name: 10**20})


def test_the_longest_age_still_fits_the_clock() -> None:
    now_ns = 1_800_000_000 * 10**9

    assert now_ns + config_of({"promptweir_l1a_ttl_s": MAX_SECONDS}).l1a_ttl_s * 10**9 < 2**63


@pytest.mark.parametrize(
    ("text", "limit"), [("", None), ("0", 0.0), ("0.3", 0.3), ("1", 1.0), (" 2 ", 2.0), ("1e-1", 0.1)]
)
def test_a_temperature_is_a_number_or_nothing(text: str, limit: float | None) -> None:
    assert config_of({"promptweir_l1a_max_temperature": text}).l1a_max_temperature == limit


@pytest.mark.parametrize("text", ["warm", "-1", "11", "nan", "inf", "-inf", "1,5", "0x1"])
def test_what_is_no_temperature_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="promptweir_l1a_max_temperature"):
        config_of({"promptweir_l1a_max_temperature": text})


def test_hosts_are_names_in_lower_case_without_a_trailing_dot() -> None:
    assert config_of({"promptweir_hosts": " LLM.Example.com., *.corp.example ,, 127.0.0.1"}).hosts == (
        "llm.example.com",
        "*.corp.example",
        "127.0.0.1",
    )


@pytest.mark.parametrize(
    "text",
    ["*", "*.", "a*.example", "*.*.example", "https://a.example", "a.example/v1", "a.example:443", "a b", "me@a.example", "a?.example", "[ab].example"],
)  # fmt: skip
def test_what_would_decrypt_more_than_a_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="promptweir_hosts"):
        config_of({"promptweir_hosts": text})


def test_origins_are_read_with_their_default_ports() -> None:
    text = "API.anthropic.com=http://127.0.0.1:9100, a.example=https://b.example/ ,c.example = http://[::1]"

    assert config_of({"promptweir_upstream": text}).upstream == {
        "api.anthropic.com": Origin(scheme="http", host="127.0.0.1", port=9100),
        "a.example": Origin(scheme="https", host="b.example", port=443),
        "c.example": Origin(scheme="http", host="::1", port=80),
    }


@pytest.mark.parametrize(
    "text",
    ["a.example", "=http://b", "a.example=", "a.example=b.example", "a.example=ftp://b", "a.example=http://", "a.example=http://b:x", "a.example=http://b:99999", "a.example=http://b/v1", "a.example=http://b?x=1", "a=http://b,,junk"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="promptweir_upstream"):
        config_of({"promptweir_upstream": text})


def test_paths_name_their_dialect() -> None:
    found = config_of({"promptweir_paths": "/llm/chat=openai-chat, /x=anthropic-messages"}).paths

    assert found == {"/llm/chat": Dialect.OPENAI_CHAT, "/x": Dialect.ANTHROPIC_MESSAGES}
    for text in ("llm=openai-chat", "/x", "/x=", "/x=chat", "=openai-chat"):
        with pytest.raises(ValueError, match="promptweir_paths"):
            config_of({"promptweir_paths": text})


def test_a_choice_is_one_of_its_words() -> None:
    for option in CHOICES:
        with pytest.raises(ValueError, match=f"{option.name} must be one of {option.choices[0]}"):
            config_of({option.name: option.choices[0].upper()})


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_text_from_a_command_line_becomes_a_value(option: object) -> None:
    default = option.default  # type: ignore[attr-defined]

    assert value_of(option, str(default)) == default  # type: ignore[arg-type]


def test_words_for_yes_and_no() -> None:
    flag = BY_NAME["promptweir_headers"]

    assert [value_of(flag, text) for text in ("true", "1", "YES", " on ")] == [True] * 4
    assert [value_of(flag, text) for text in ("false", "0", "No", "off")] == [False] * 4
    for text in ("", "maybe", "2"):
        with pytest.raises(ValueError, match="promptweir_headers must be true or false"):
            value_of(flag, text)
    with pytest.raises(ValueError, match="promptweir_trips_max must be a whole number"):
        value_of(BY_NAME["promptweir_trips_max"], "1.5")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([option for option in OPTIONS if isinstance(option.default, str)]), st.text(max_size=30))
def test_any_text_is_taken_or_refused_by_name(option: object, text: str) -> None:
    name = option.name  # type: ignore[attr-defined]
    try:
        config_of({name: text})
    except ValueError as error:
        assert name in str(error)  # noqa: PT017 - it may well be accepted
