"""Replays: the right atoms in the right places, fresh ids, everything else as it was; or no replay at all."""

import itertools
import json
import random
import string

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.atoms import CHUNK, CWD, HOME, MANGLED, TOOL_ID, UUID, Atom, Rules
from promptweir.layers.contract import Dialect, Encoding, Facts
from promptweir.layers.dialects.registry import CODECS
from promptweir.layers.replay import Recorded, Replayer, Template, UnfitError, fresh_id, taken_in
from promptweir.layers.wire import aws_message, frames_of, sse

ANTHROPIC, CHAT, RESPONSES, GEMINI = Dialect.ANTHROPIC_MESSAGES, Dialect.OPENAI_CHAT, Dialect.OPENAI_RESPONSES, Dialect.GEMINI_GENERATE  # fmt: skip
TOOL = "toolu_01AAAAAAAAAAAAAAAAAAAAAA"
_DICE = random.Random(7)


def token(chars: int) -> str:
    return "".join(_DICE.choices(string.ascii_letters + string.digits, k=chars))


def facts(encoding: Encoding, *, stored: bool = False) -> Facts:
    return Facts(model="m", encoding=encoding, stored=stored)


def template(
    dialect: Dialect,
    body: bytes,
    encoding: Encoding,
    old: tuple[Atom, ...] = (),
    new: tuple[Atom, ...] = (),
    *,
    into: Encoding | None = None,
    stored: bool = False,
) -> Template:
    recorded = Recorded(body=body, encoding=encoding, atoms=old)
    return Replayer(CODECS[dialect], Rules(), token).template_of(recorded, new, facts(into or encoding, stored=stored))


def free(_: str) -> bool:
    return False


def replayed(*args: object, fields: dict[str, msgspec.Raw] | None = None, **more: object) -> bytes:
    return template(*args, **more).filled(fields or {}, token, free)  # type: ignore[arg-type]


def why_not(*args: object, **more: object) -> str:
    with pytest.raises(UnfitError) as caught:
        template(*args, **more)  # type: ignore[arg-type]
    return str(caught.value)


# --- answers of each dialect


def message(*content: object, stop: str = "end_turn") -> dict[str, object]:
    return {
        "id": "msg_01ABCDEFGHIJKLMNOPQRSTUV", "type": "message", "role": "assistant", "model": "m", "content": list(content),
        "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 7},
    }  # fmt: skip


def text_block(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def tool_block(**arguments: object) -> dict[str, object]:
    return {"type": "tool_use", "id": TOOL, "name": "Bash", "input": arguments}


def whole(*content: object, stop: str = "end_turn") -> bytes:
    return json.dumps(message(*content, stop=stop)).encode()


def events(pieces: list[str], arguments: list[str]) -> list[dict[str, object]]:
    """A streamed message: text in *pieces*, then a tool call whose JSON comes in *arguments*."""
    found: list[dict[str, object]] = [
        {"type": "message_start", "message": {**message(), "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": text_block("")},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": tool_block()},
        *({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}} for piece in arguments),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return found


def streamed(pieces: list[str], arguments: list[str]) -> bytes:
    return b"".join(sse(str(event["type"]), event) for event in events(pieces, arguments))  # type: ignore[arg-type]


def understood(body: bytes, encoding: Encoding, dialect: Dialect = ANTHROPIC) -> dict[str, object]:
    return dict(CODECS[dialect].understand(frames_of(body, encoding), encoding).doc)


def said(body: bytes, encoding: Encoding = Encoding.JSON) -> tuple[str, dict[str, object]]:
    """Return text and tool arguments of a message with one block of each."""
    text, tool = understood(body, encoding)["content"]  # type: ignore[misc]
    return text["text"], tool["input"]


def cwd(path: str) -> tuple[Atom, ...]:
    return ((CWD, path),)


# --- the round trip

PAIRS: dict[str, tuple[tuple[Atom, ...], tuple[Atom, ...]]] = {
    "another folder": (cwd("/srv/alpha"), cwd("/mnt/beta/gamma")),
    "the new inside the old": (cwd("/srv/alpha"), cwd("/srv/alpha/beta")),
    "the old inside the new": (cwd("/srv/alpha/beta"), cwd("/srv/alpha")),
    "a longer name": (cwd("/srv/alpha"), cwd("/srv/alpha2")),
    "swapped": (((CWD, "/srv/alpha"), (HOME, "/srv/beta")), ((CWD, "/srv/beta"), (HOME, "/srv/alpha"))),
    "rotated": (
        ((CWD, "/a1/b1"), (HOME, "/a2/b2"), (CWD, "/a3/b3")),
        ((CWD, "/a2/b2"), (HOME, "/a3/b3"), (CWD, "/a1/b1")),
    ),
    "a checkout inside the home": (
        ((CWD, "/home/al/alpha"), (HOME, "/home/al")), ((CWD, "/home/bo/beta"), (HOME, "/home/bo")),
    ),
    "a checkout that moved out of nothing but its home": (
        ((CWD, "/home/al/alpha"), (HOME, "/home/al")), ((CWD, "/home/al/beta"), (HOME, "/home/al")),
    ),
    "tool ids, swapped": (
        ((TOOL_ID, TOOL), (TOOL_ID, TOOL.replace("A", "B"))), ((TOOL_ID, TOOL.replace("A", "B")), (TOOL_ID, TOOL)),
    ),
    "Windows": (cwd("C:\\work\\alpha"), cwd("D:\\xeno\\beta\\gamma")),
    "of several kinds": (
        ((CWD, "/srv/alpha"), (HOME, "/home/al"), (TOOL_ID, TOOL)),
        ((CWD, "/opt/beta"), (HOME, "/home/bo"), (TOOL_ID, TOOL.replace("A", "C"))),
    ),
}  # fmt: skip

_PLAIN = st.sampled_from(["x", "the file", "2 + 2", "é", "\n", "\\n", "{}", "zeta/eta", "...", "😀", '"quoted"'])
_TAILS = {CWD: ["", "/x.py", ".", ":12", ",", "/", "/é/y"], HOME: ["", "/z"], TOOL_ID: ["", "."]}


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, list[str | tuple[int, str]]]:
    name = draw(st.sampled_from(list(PAIRS)))
    old = PAIRS[name][0]
    atoms = st.integers(0, len(old) - 1).flatmap(
        lambda index: st.tuples(st.just(index), st.sampled_from(_TAILS[old[index][0]]))
    )
    return name, draw(st.lists(_PLAIN | atoms, min_size=1, max_size=8))


def spelled(script: list[str | tuple[int, str]], atoms: tuple[Atom, ...]) -> str:
    """Write a script with these atoms: the oracle."""
    return " ".join(scrap if isinstance(scrap, str) else atoms[scrap[0]][1] + scrap[1] for scrap in script)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)] or [""]


_CUTS = st.lists(st.integers(0, 999), max_size=6)


@settings(max_examples=120, deadline=None)
@given(scripts(), _CUTS, _CUTS)
def test_there_and_back_again_gives_the_original_however_it_was_cut(
    named: tuple[str, list[str | tuple[int, str]]], text_cuts: list[int], argument_cuts: list[int]
) -> None:
    name, script = named
    old, new = PAIRS[name]
    here, there = spelled(script, old), spelled(script, new)
    body = streamed(cut(here, text_cuts), cut(json.dumps({"p": here}, ensure_ascii=False), argument_cuts))

    moved = replayed(ANTHROPIC, body, Encoding.SSE, old, new)
    back = replayed(ANTHROPIC, moved, Encoding.SSE, new, old)

    assert said(moved, Encoding.SSE) == (there, {"p": there})
    assert said(back, Encoding.SSE) == (here, {"p": here})
    assert moved.count(b"event:") == back.count(b"event:") == body.count(b"event:")


@settings(max_examples=60, deadline=None)
@given(scripts(), st.sampled_from([Encoding.JSON, Encoding.SSE, Encoding.AWS_EVENT_STREAM]))
def test_the_layout_of_the_replay_does_not_matter(
    named: tuple[str, list[str | tuple[int, str]]], into: Encoding
) -> None:
    name, script = named
    old, new = PAIRS[name]
    here, there = spelled(script, old), spelled(script, new)

    moved = replayed(ANTHROPIC, whole(text_block(here), tool_block(p=here, q=[{here: 1}]), stop="tool_use"), Encoding.JSON, old, new, into=into)  # fmt: skip

    assert said(moved, into) == (there, {"p": there, "q": [{there: 1}]})


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60), _CUTS, st.sampled_from(list(PAIRS)))
def test_a_text_without_atoms_passes_unchanged_or_not_at_all(text: str, cuts: list[int], name: str) -> None:
    old, new = PAIRS[name]
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    body = streamed(cut(text, cuts), ["{}"])
    try:
        moved = replayed(ANTHROPIC, body, Encoding.SSE, old, new)
    except UnfitError:
        return

    assert said(moved, Encoding.SSE)[0] == text


def test_frames_that_hold_no_atom_are_the_recorded_bytes() -> None:
    body = streamed(["before ", "/srv/al", "pha/x", " after"], ["{}"]).replace(b'{"type"', b'{  "type"')

    moved = replayed(ANTHROPIC, body, Encoding.SSE, cwd("/srv/alpha"), cwd("/opt/beta"))

    before, after = body.split(b"\n\n"), moved.split(b"\n\n")
    changed = [index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == [0, 3, 4, 7]  # the ids and the two pieces of the path; of the first and last not even the spacing
    assert b'{  "type"' in after[0]
    assert b'{  "type"' in after[7]


# --- what does not serve

ALPHA, BETA = cwd("/srv/alpha"), cwd("/opt/beta")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the alpha project", "fragment"),
        ("~/alpha", "fragment"),
        ("/mnt/srv/x", "fragment"),
        ("see /srv/alpha and /opt/beta", "ambiguous"),
        ("see /opt/beta/x", "ambiguous"),
        ("/s/11111111-2222-4333-8444-555555555555", "unbound-atom"),
        (TOOL, "unbound-atom"),
    ],
)
def test_an_answer_that_would_be_wrong_elsewhere_does_not_serve_elsewhere(text: str, reason: str) -> None:
    body = whole(text_block(text))

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == reason
    assert replayed(ANTHROPIC, body, Encoding.JSON, ALPHA, ALPHA)
    for into in (Encoding.SSE, Encoding.AWS_EVENT_STREAM):
        assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA, into=into) == reason


def test_a_parents_file_does_not_become_the_new_folders_own() -> None:
    body = whole(text_block("see /srv/alpha/README"))

    assert why_not(ANTHROPIC, body, Encoding.JSON, cwd("/srv/alpha/sub"), cwd("/srv/alpha")) == "ambiguous"


def test_short_new_atoms_hide_no_fragment() -> None:
    old = ((CWD, "/srv/proj1"), (TOOL_ID, "0"))
    new = ((CWD, "/srv/proj2"), (TOOL_ID, "1"))

    assert why_not(ANTHROPIC, whole(text_block("the folder proj1")), Encoding.JSON, old, new) == "fragment"


def test_two_keys_that_would_become_one_do_not_serve() -> None:
    body = whole(text_block("ok"), tool_block(**{"/srv/alpha": 1, "/opt/beta": 2}), stop="tool_use")

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == "ambiguous"


@pytest.mark.parametrize(
    "new", [(), ((HOME, "/opt/beta"),), ((CWD, "/opt/beta"), (HOME, "/root")), ((CHUNK, "abcdef"),)]
)
def test_atoms_of_another_number_or_kind_do_not_fit(new: tuple[Atom, ...]) -> None:
    assert why_not(ANTHROPIC, whole(text_block("x")), Encoding.JSON, ALPHA, new) == "atoms-differ"


def test_an_option_is_not_taken_for_a_mangled_folder() -> None:
    old, new = ((CWD, "/w/x"), (MANGLED, "-w-x")), ((CWD, "/v/y"), (MANGLED, "-v-y"))
    body = whole(text_block("/w/x"), tool_block(p="/h/.claude/projects/-w-x/memory"), stop="tool_use")

    assert said(replayed(ANTHROPIC, body, Encoding.JSON, old, new)) == (
        "/v/y",
        {"p": "/h/.claude/projects/-v-y/memory"},
    )
    assert why_not(ANTHROPIC, whole(text_block("cmd -w-x")), Encoding.JSON, old, new) == "fragment"


def test_a_path_of_other_separators_does_not_go_into_a_command() -> None:
    body = whole(text_block("ok"), tool_block(command="ls /srv/alpha/x"), stop="tool_use")

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, cwd("C:\\w\\beta")) == "quoting"


# --- signed and sealed


def signed(thinking: str) -> bytes:
    start = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    }
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in (thinking[:7], thinking[7:])]
    parts = [
        start,
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in [*deltas, {"type": "signature_delta", "signature": "c2ln/srv/alpha"}]),
        {"type": "content_block_stop", "index": 0},
    ]  # fmt: skip
    stream = events(["ok"], ["{}"])
    shifted = [{**event, "index": event["index"] + 1} if "index" in event else event for event in stream]  # type: ignore[operator]
    return b"".join(sse(str(event["type"]), event) for event in [shifted[0], *parts, *shifted[1:]])  # type: ignore[arg-type]


def gemini(*parts: dict[str, object]) -> dict[str, object]:
    content = {"role": "model", "parts": list(parts)}
    return {"responseId": "resp-0123456789abcdef", "modelVersion": "m", "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}]}  # fmt: skip


def responses(*items: dict[str, object]) -> dict[str, object]:
    return {
        "id": "resp_0123456789abcdef0123456789abcdef", "object": "response", "created_at": 1, "status": "completed",
        "model": "m", "output": list(items), "usage": None, "metadata": {"a": "1"},
    }  # fmt: skip


def output_text(text: str) -> dict[str, object]:
    part = {"type": "output_text", "annotations": [], "text": text}
    return {"id": "msg_0123456789abcdef0123456789abcdef", "type": "message", "status": "completed", "role": "assistant", "content": [part]}  # fmt: skip


SEALED: dict[str, tuple[Dialect, bytes, Encoding, bytes]] = {
    "streamed thinking": (ANTHROPIC, signed("nothing of note"), Encoding.SSE, b"c2ln/srv/alpha"),
    "thinking": (
        ANTHROPIC, whole({"type": "thinking", "thinking": "hm", "signature": "c2ln"}, text_block("ok")), Encoding.JSON, b"c2ln",
    ),
    "redacted thinking": (
        ANTHROPIC, whole({"type": "redacted_thinking", "data": "b3BhcXVl"}, text_block("ok")), Encoding.JSON, b"b3BhcXVl",
    ),
    "OpenAI reasoning": (
        RESPONSES,
        json.dumps(responses({"id": "rs_0123456789abcdef", "type": "reasoning", "summary": [], "encrypted_content": "Z0FBQUFB"}, output_text("ok"))).encode(),
        Encoding.JSON, b"Z0FBQUFB",
    ),
    "Gemini": (GEMINI, json.dumps(gemini({"text": "ok", "thoughtSignature": "c2lnbmF0dXJl"})).encode(), Encoding.JSON, b"c2lnbmF0dXJl"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SEALED if name != "streamed thinking"])
def test_a_signed_block_that_names_nothing_is_replayed_as_it_was(name: str) -> None:
    dialect, body, encoding, cipher = SEALED[name]

    assert cipher in replayed(dialect, body, encoding, ALPHA, BETA)


def test_thinking_that_renaming_would_alter_does_not_serve() -> None:
    assert why_not(ANTHROPIC, signed("cwd: /srv/alpha"), Encoding.SSE, ALPHA, BETA) in {"signed", "opaque"}
    body = whole({"type": "thinking", "thinking": "in /srv/alpha", "signature": "c2ln"}, text_block("ok"))
    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == "signed"


def test_thinking_that_speaks_of_the_old_folder_does_not_serve() -> None:
    body = whole({"type": "thinking", "thinking": "the alpha folder", "signature": "c2ln"}, text_block("ok"))

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == "fragment"


@pytest.mark.parametrize("where", ["signature", "data"])
def test_a_cipher_that_spells_the_old_folder_does_not_serve_and_is_never_altered(where: str) -> None:
    blocks = {
        "signature": {"type": "thinking", "thinking": "hm", "signature": "/srv/alpha/AAAA"},
        "data": {"type": "redacted_thinking", "data": "/srv/alpha/AAAA"},
    }
    body = whole(blocks[where], text_block("ok"))

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == "opaque"
    assert b"/srv/alpha/AAAA" in replayed(ANTHROPIC, body, Encoding.JSON, ALPHA, ALPHA)


def test_an_unknown_block_is_sealed_as_well() -> None:
    body = whole({"type": "something_new", "deep": [{"path": "/srv/alpha/x"}]}, text_block("ok"))

    assert why_not(ANTHROPIC, body, Encoding.JSON, ALPHA, BETA) == "signed"


# --- ids


@pytest.mark.parametrize(
    "old",
    [
        "msg_01ABCDEFGHIJKLMNOPQRSTUV", "toolu_01AbCdEfGhIjKlMnOpQrStUv", "msg_bdrk_01ABCDEFGHIJKLMNOPQRSTUV",
        "chatcmpl-0123456789abcdefghijkl", "call_AbCdEfGhIjKlMnOpQrStUvWx", "call_1", "D681PevKs",
        "resp_0123456789abcdef0123456789abcdef0123456789abcdef", "rs_0123456789abcdef", "gen-1763812345-AbCdEfGhIjKlMnOpQrSt",
        "chatcmpl-11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-555555555555",
        "msg_11111111-2222-4333-8444-555555555555", "call_00_AbCdEfGhIjKlMnOpQrSt", "x", "a_", "-", "0", "abcdefgh",
    ],
)  # fmt: skip
def test_a_fresh_id_has_the_shape_of_the_old_one(old: str) -> None:
    many = {fresh_id(old, token) for _ in range(50)}

    assert len(many) == 50
    assert old not in many
    cut = max(old.rfind("_"), old.rfind("-")) + 1
    for new in many:
        assert new.isascii()
        if old.count("-") != 4:
            assert new.startswith(old[:cut])
        if len(old) - cut >= 8:
            assert len(new) == len(old)
            assert old[cut:] != old[cut:].lower() or new[cut:] == new[cut:].lower()
            assert new[cut:].isalnum()


def test_mistrals_nine_characters_stay_nine() -> None:
    new = fresh_id("D681PevKs", token)

    assert len(new) == 9
    assert new.isalnum()


@settings(max_examples=80, deadline=None)
@given(st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=50))
def test_a_fresh_id_is_another_one_of_the_same_alphabet(old: str) -> None:
    new = fresh_id(old, token)

    assert new != old
    assert set(new) <= set(string.ascii_letters + string.digits + "_-")


def test_each_filling_has_fresh_ids_and_equal_ids_stay_equal() -> None:
    body = b"".join(
        sse(None, {"id": "chatcmpl-0123456789abcdefghijkl", "object": "chat.completion.chunk", "created": 1, "model": "m",
                   "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})
        for text, finish in (("a", None), ("b", None), ("", "stop"))
    ) + b"data: [DONE]\n\n"  # fmt: skip
    made = template(CHAT, body, Encoding.SSE)

    ids = [{frame.doc["id"] for frame in frames_of(made.filled({}, token, free), Encoding.SSE) if isinstance(frame.doc, dict)} for _ in range(2)]  # fmt: skip

    assert [len(found) for found in ids] == [1, 1]
    assert ids[0] != ids[1]
    assert "chatcmpl-0123456789abcdefghijkl" not in ids[0] | ids[1]
    assert not made.once


def test_an_id_of_the_conversation_is_not_given_twice() -> None:
    made = template(ANTHROPIC, whole(text_block("ok"), tool_block(p=1), stop="tool_use"), Encoding.JSON)
    letters = iter("AAABBBCCC")

    def scripted(chars: int) -> str:
        return next(letters) * chars

    taken = taken_in([(TOOL_ID, "toolu_01" + letter * 22) for letter in "AB"] + [(UUID, "toolu_01" + "C" * 22)])
    body = json.loads(made.filled({}, scripted, taken))

    assert body["content"][1]["id"] == "toolu_01" + "B" * 22 or body["content"][1]["id"] == "toolu_01" + "C" * 22
    assert not taken(body["content"][1]["id"])


def test_an_id_quoted_in_the_text_is_not_mistaken_for_one() -> None:
    quoted = 'I am "msg_01ABCDEFGHIJKLMNOPQRSTUV".'

    for body in (whole(text_block(quoted)), json.dumps(message(text_block("msg_01ABCDEFGHIJKLMNOPQRSTUV"))).encode()):
        made = json.loads(replayed(ANTHROPIC, body, Encoding.JSON))
        assert made["id"] != "msg_01ABCDEFGHIJKLMNOPQRSTUV"
        assert made["content"] == json.loads(body)["content"]


def test_a_stored_answer_keeps_the_providers_ids() -> None:
    body = json.dumps(responses(output_text("ok"))).encode()

    kept, fresh = (json.loads(replayed(RESPONSES, body, Encoding.JSON, stored=stored)) for stored in (True, False))

    assert (kept["id"], kept["output"][0]["id"]) == ("resp_0123456789abcdef0123456789abcdef", "msg_0123456789abcdef0123456789abcdef")  # fmt: skip
    assert fresh["id"] != kept["id"]
    assert fresh["output"][0]["id"] != kept["output"][0]["id"]


@pytest.mark.parametrize("metadata", [b'{\n  "b": "2"\n}', b'{\r\n"b":\r\n"2"}', b"null", b'{"b": "line\\nbreak \\u2028"}'])  # fmt: skip
@pytest.mark.parametrize("into", [Encoding.JSON, Encoding.SSE])
def test_an_echoed_field_is_the_requests_own_however_it_was_written(metadata: bytes, into: Encoding) -> None:
    body = json.dumps(responses(output_text("ok"))).encode()

    made = replayed(RESPONSES, body, Encoding.JSON, into=into, fields={"metadata": msgspec.Raw(metadata)})

    assert understood(made, into, RESPONSES)["metadata"] == json.loads(metadata)


def test_every_replay_of_an_aws_event_stream_is_made_anew_with_fresh_ids() -> None:
    body = b"".join(aws_message(event) for event in events(["in /srv/", "alpha"], ['{"p":"/srv/al', 'pha/x"}']))  # type: ignore[arg-type]

    made = [template(ANTHROPIC, body, Encoding.AWS_EVENT_STREAM, ALPHA, BETA) for _ in range(2)]
    docs = [understood(each.filled({}, token, free), Encoding.AWS_EVENT_STREAM) for each in made]

    assert all(each.once for each in made)
    assert all(frame.doc is not None for frame in frames_of(made[0].literals[0], Encoding.AWS_EVENT_STREAM))
    assert said(made[0].literals[0], Encoding.AWS_EVENT_STREAM) == ("in /opt/beta", {"p": "/opt/beta/x"})
    ids = {doc["id"] for doc in docs} | {doc["content"][1]["id"] for doc in docs}  # type: ignore[index]
    assert len(ids) == 4
    assert not ids & {"msg_01ABCDEFGHIJKLMNOPQRSTUV", TOOL}
    assert all(str(name).startswith(("msg_01", "toolu_01")) for name in ids)


def test_a_recording_is_never_altered_by_its_replays() -> None:
    body = whole(text_block("in /srv/alpha"), tool_block(p="/srv/alpha"), stop="tool_use")
    recorded = Recorded(body=body, encoding=Encoding.JSON, atoms=ALPHA)
    replayer = Replayer(CODECS[ANTHROPIC], Rules(), token)

    first = [said(replayer.template_of(recorded, new, facts(Encoding.JSON)).filled({}, token, free)) for new in (BETA, ALPHA, cwd("/mnt/gamma"))]  # fmt: skip

    assert [text for text, _ in first] == ["in /opt/beta", "in /srv/alpha", "in /mnt/gamma"]
    assert recorded.body is body
