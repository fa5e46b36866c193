"""What belongs to a request's key, what does not, and that nothing else does."""

import copy
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.atoms import Rules
from promptweir.layers.canonical import OMITTED, Canonical, Canonicaliser
from promptweir.layers.contract import Dialect

ANTHROPIC, CHAT, RESPONSES, GEMINI = (
    Dialect.ANTHROPIC_MESSAGES,
    Dialect.OPENAI_CHAT,
    Dialect.OPENAI_RESPONSES,
    Dialect.GEMINI_GENERATE,
)


def canonical(doc: object, dialect: Dialect = ANTHROPIC, *, rules: Rules | None = None, **dumps: object) -> Canonical:
    raw = json.dumps(doc, **dumps).encode()  # type: ignore[arg-type]
    return Canonicaliser(rules or Rules()).canonical_of(dialect, msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))


def claude(
    cwd: str = "/srv/app", home: str = "/home/al", tool: str = "toolu_01AAAAAAAAAAAAAAAAAAAAAA"
) -> dict[str, object]:
    mangled = "".join(char if char.isalnum() else "-" for char in cwd)
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "metadata": {"user_id": json.dumps({"session_id": f"{hash((cwd, home, tool))}"})},
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.197.abc; cch={abs(hash(tool)) % 99999};"},
            {"type": "text", "text": f"Memory at `{home}/.claude/projects/{mangled}/memory/`.\n - Primary working directory: {cwd}\n - Platform: linux"},
        ],
        "tools": [{"name": "Bash", "input_schema": {"type": "object", "properties": {"b": {}, "a": {}}}}],
        "messages": [
            {"role": "user", "content": "What is in x.py?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": tool, "name": "Bash", "input": {"command": f"cat {cwd}/x.py"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": tool, "content": f"{cwd}/x.py: 1"}]},
        ],
    }  # fmt: skip


def test_another_checkout_home_session_and_tool_id_ask_the_same_question() -> None:
    first = canonical(claude())
    other = canonical(claude("/tmp/w/other", "/Users/bo", "toolu_01BBBBBBBBBBBBBBBBBBBBBB"))

    assert first.digest == other.digest
    assert [kind for kind, _ in first.atoms] == [kind for kind, _ in other.atoms]
    assert ("cwd", "/tmp/w/other") in other.atoms


def test_a_checkout_inside_the_home_is_not_one_outside() -> None:
    assert canonical(claude("/home/al/app", "/home/al")).digest != canonical(claude("/srv/app", "/home/al")).digest


def test_a_longer_name_is_not_the_working_directory() -> None:
    first, other = claude(), claude()
    first["messages"][0]["content"] = "see /srv/app2/y"  # type: ignore[index]
    other["messages"][0]["content"] = "see /srv/app/y"  # type: ignore[index]

    assert canonical(first).digest != canonical(other).digest


def test_a_tool_result_cannot_declare_a_directory() -> None:
    def asked(folder: str) -> dict[str, object]:
        return {"model": "m", "messages": [{"role": "user", "content": f"Working directory: {folder}\n"}]}

    assert canonical(asked("/data/one"), CHAT).digest != canonical(asked("/data/two"), CHAT).digest


def test_relocation_can_be_turned_off() -> None:
    still = Rules(relocate=False)

    assert canonical(claude(), rules=still).digest != canonical(claude("/tmp/other"), rules=still).digest


def test_the_equalities_of_tool_ids_count() -> None:
    def asked(a: str, b: str) -> dict[str, object]:
        calls = [{"type": "tool_use", "id": name, "name": "t", "input": {}} for name in ("toolu_1", "toolu_2")]
        results = [{"type": "tool_result", "tool_use_id": name, "content": text} for name, text in ((a, "x"), (b, "y"))]
        return {
            "model": "m",
            "messages": [{"role": "assistant", "content": calls}, {"role": "user", "content": results}],
        }

    assert canonical(asked("toolu_1", "toolu_2")).digest != canonical(asked("toolu_2", "toolu_1")).digest


@pytest.mark.parametrize("dialect", list(OMITTED))
def test_omitted_fields_do_not_count_and_every_other_field_does(dialect: Dialect) -> None:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    plain = canonical(base, dialect).digest

    for name in OMITTED[dialect]:
        assert canonical({**base, name: "anything"}, dialect).digest == plain, name
    for name in (
        "temperature",
        "top_p",
        "seed",
        "response_format",
        "max_tokens",
        "stop",
        "unheard_of",
        "thinking",
        "service_tier",
    ):
        assert canonical({**base, name: 1}, dialect).digest != plain, name


def test_cache_hints_are_dropped_from_blocks_but_not_from_tool_arguments() -> None:
    def asked(block: dict[str, object], arguments: dict[str, object]) -> dict[str, object]:
        use = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": arguments}
        return {
            "model": "m",
            "messages": [{"role": "assistant", "content": [{"type": "text", "text": "a", **block}, use]}],
        }

    hint = {"cache_control": {"type": "ephemeral"}}
    plain = canonical(asked({}, {})).digest

    assert canonical(asked(hint, {})).digest == plain
    assert canonical(asked({}, hint)).digest != plain


def test_the_order_of_keys_counts_where_a_model_sees_it() -> None:
    one = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": "t", "input_schema": {"a": 1, "b": 2}}],
    }
    swapped_schema = copy.deepcopy(one)
    swapped_schema["tools"][0]["input_schema"] = {"b": 2, "a": 1}  # type: ignore[index]
    swapped_message = copy.deepcopy(one)
    swapped_message["messages"] = [{"content": "x", "role": "user"}]

    assert canonical(one).digest == canonical(swapped_message).digest
    assert canonical(one).digest != canonical(swapped_schema).digest


def test_white_space_and_escapes_do_not_count() -> None:
    doc = {"model": "m", "messages": [{"role": "user", "content": "größe \N{SNOWMAN}"}]}

    assert canonical(doc, indent=2).digest == canonical(doc, ensure_ascii=False, separators=(",", ":")).digest


def test_a_short_duration_is_noise_and_a_long_one_is_content() -> None:
    def asked(seconds: str) -> dict[str, object]:
        text = f'{{"chunk_id":"dd0a89","wall_time_seconds":{seconds},"exit_code":0}}'
        return {"model": "m", "input": [{"type": "function_call_output", "call_id": "call_1", "output": text}]}

    assert canonical(asked("0.0013"), RESPONSES).digest == canonical(asked("2.5e-05"), RESPONSES).digest
    assert canonical(asked("0.0013"), RESPONSES).digest != canonical(asked("120.5"), RESPONSES).digest


def test_a_uuid_counts_unless_it_is_in_a_path() -> None:
    def asked(text: str) -> dict[str, object]:
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    a, b = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"

    assert canonical(asked(f"is {a} valid?")).digest != canonical(asked(f"is {b} valid?")).digest
    assert canonical(asked(f"see /s/{a}/log")).digest == canonical(asked(f"see /s/{b}/log")).digest


def test_the_clock_is_cut_to_the_day() -> None:
    def asked(stamp: str) -> dict[str, object]:
        return {
            "model": "m",
            "messages": [{"role": "user", "content": f"<current_datetime>{stamp}</current_datetime> hi"}],
        }

    morning, noon, tomorrow = (
        "2026-11-22T08:00:00.1+00:00",
        "2026-11-22T12:30:00.999+00:00",
        "2026-11-23T08:00:00.1+00:00",
    )

    assert canonical(asked(morning), CHAT).digest == canonical(asked(noon), CHAT).digest
    assert canonical(asked(morning), CHAT).digest != canonical(asked(tomorrow), CHAT).digest
    assert (
        canonical(asked(morning), CHAT, rules=Rules(clock="exact")).digest
        != canonical(asked(noon), CHAT, rules=Rules(clock="exact")).digest
    )


@pytest.mark.parametrize(
    "message",
    [
        b'{"role":"user","role":"system","content":"x"}',
        b'{"role":"user","content":1e999}',
        b'{"role":"user","content":NaN}',
        b'{"role":"user","content":"\\ud800"}',
        b'{"role":"user","content":"\xff"}',
        b'{"role":"user","content":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_what_readers_could_read_differently_has_no_canonical_form(message: bytes) -> None:
    fields = {"model": msgspec.Raw(b'"m"'), "messages": msgspec.Raw(b"[" + message + b"]")}

    with pytest.raises(ValueError, match=r".*"):
        Canonicaliser(Rules()).canonical_of(CHAT, fields)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(max_size=12)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    _JSON,
    _JSON,
    st.sampled_from(["messages", "tools", "system", "thinking", "input", "contents"]),
    st.sampled_from(list(Dialect)),
)
def test_different_values_have_different_keys(a: object, b: object, field: str, dialect: Dialect) -> None:
    """Injective up to the listed omissions, which free-form values rarely hit; key order of envelopes is one of them."""
    if field in OMITTED[dialect]:
        return
    same = json.dumps(_plain(a), sort_keys=True) == json.dumps(_plain(b), sort_keys=True)
    first, second = (canonical({"model": "m", field: value}, dialect).digest for value in (a, b))

    if first == second:
        assert same
    if a == b and json.dumps(a) == json.dumps(b):
        assert first == second


def _plain(value: object) -> object:
    """Drop what the canonical form drops by rule."""
    match value:
        case dict():
            return {key: _plain(inner) for key, inner in value.items() if key not in {"id", "cache_control"}}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_the_memo_changes_nothing(texts: list[str]) -> None:
    warm = Canonicaliser(Rules())
    for text in [*texts, *texts]:
        raw = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])

        assert warm.canonical_of(CHAT, fields) == Canonicaliser(Rules()).canonical_of(CHAT, fields)


def test_the_billing_line_does_not_count_and_a_sentence_in_its_place_does() -> None:
    def asked(line: str, **more: object) -> dict[str, object]:
        first = {"type": "text", "text": f"x-anthropic-billing-header:{line}", **more}
        return {"model": "m", "system": [first, {"type": "text", "text": "Be brief."}], "messages": []}

    plain = canonical(asked(" cc_version=2.1.197.abc; cc_entrypoint=cli; cch=00000;")).digest

    for line in (
        " cc_version=2.1.198.def; cc_entrypoint=sdk-py; cch=fffff;",
        " cc_version=2.1.197.abc; cc_entrypoint=cli;",
        "",
        " a=b",
    ):
        assert canonical(asked(line)).digest == plain, line
        assert canonical(asked(line), separators=(",", ":")).digest == plain, line
        assert canonical(asked(line, cache_control={"type": "ephemeral"})).digest == plain, line
    for line in (
        " cc_version=1; Answer in French.",
        " Answer in French.",
        " a=b; c",
        " a=b\nAnswer in French.",
        " a=b; c=d e=f",
    ):
        assert canonical(asked(line)).digest != plain, line
        assert canonical(asked(line), separators=(",", ":")).digest != plain, line


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"role": "user", "content": "x"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "x"},
        {"type": "reasoning", "summary": [], "encrypted_content": "Z0FB"},
        {"type": "additional_tools", "tools": []},
    ],
)  # fmt: skip
def test_the_id_of_an_item_that_is_whole_without_it_does_not_count(item: dict[str, object]) -> None:
    one, other, bare = (
        {"model": "m", "input": [entry]} for entry in ({**item, "id": "x_1"}, {**item, "id": "x_2"}, item)
    )

    assert canonical(one, RESPONSES).digest == canonical(other, RESPONSES).digest == canonical(bare, RESPONSES).digest


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference"},
        {"type": "reasoning", "summary": []},
        {"type": "image_generation_call"},
        {"type": "web_search_call", "status": "completed"},
        {"type": "file_search_call", "queries": ["x"]},
        {"type": "something_new"},
        {"type": ["odd"]},
    ],
)  # fmt: skip
def test_an_id_that_stands_for_what_the_provider_keeps_counts(item: dict[str, object]) -> None:
    one, other = ({"model": "m", "input": [{**item, "id": name}]} for name in ("x_1", "x_2"))

    assert canonical(one, RESPONSES).digest != canonical(other, RESPONSES).digest


def test_a_directory_of_other_separators_is_another_question() -> None:
    def asked(cwd: str) -> dict[str, object]:
        return {"model": "m", "system": f"Working directory: {cwd}\n", "messages": []}

    assert canonical(asked("C:\\w\\app")).digest == canonical(asked("D:\\x\\other")).digest
    assert canonical(asked("C:\\w\\app")).digest != canonical(asked("/w/app")).digest


def test_the_name_of_a_function_is_no_tool_id() -> None:
    def asked(name: str) -> dict[str, object]:
        return {"model": "m", "messages": [{"role": "user", "content": f"explain {name}()"}]}

    one, other = "call_initializeTheApplicationState", "call_terminateTheApplicationState"

    assert canonical(asked(one), CHAT).digest != canonical(asked(other), CHAT).digest


def test_a_remark_beside_the_directory_counts() -> None:
    def asked(remark: str) -> dict[str, object]:
        return {"model": "m", "system": f"Working directory: /srv/app {remark}\n", "messages": []}

    assert canonical(asked("on branch main")).digest != canonical(asked("on branch dev")).digest
    assert canonical(asked("(main)")).digest != canonical(asked("(dev)")).digest


def test_words_around_a_home_count() -> None:
    def asked(feature: str) -> dict[str, object]:
        return {"model": "m", "system": f"Use x/{feature} and /home/al/.codex/config.toml", "messages": []}

    assert canonical(asked("on")).digest != canonical(asked("off")).digest


def test_a_duration_in_a_question_is_content() -> None:
    def asked(a: str, b: str) -> dict[str, object]:
        text = f"Run A: Wall time: {a} seconds. Run B: Wall time: {b} seconds. Which is faster?"
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    assert canonical(asked("3.2", "7.9"), CHAT).digest != canonical(asked("7.9", "3.2"), CHAT).digest


def test_which_of_two_waits_was_longer_counts_even_where_both_are_noise() -> None:
    def asked(*seconds: str) -> dict[str, object]:
        outputs = [
            {"type": "function_call_output", "call_id": f"call_{index}", "output": f"Wall time: {each} seconds"}
            for index, each in enumerate(seconds)
        ]
        return {"model": "m", "input": outputs}

    assert canonical(asked("0.2", "0.9"), RESPONSES).digest == canonical(asked("0.1", "1.4"), RESPONSES).digest
    assert canonical(asked("0.2", "0.9"), RESPONSES).digest != canonical(asked("1.4", "0.1"), RESPONSES).digest


def test_a_clock_in_the_middle_of_a_text_is_somebodys_words() -> None:
    def asked(stamp: str) -> dict[str, object]:
        text = f"What hour is <current_datetime>{stamp}</current_datetime>?"
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    morning, noon = "2026-11-22T08:00:00.1+00:00", "2026-11-22T12:30:00.9+00:00"

    assert canonical(asked(morning), CHAT).digest != canonical(asked(noon), CHAT).digest
