import msgspec
import pytest

from promptweir.layers.contract import Answer, Dialect, Encoding, Ending, Facts, Json
from promptweir.layers.dialects.native_chat import CODEC
from promptweir.layers.dialects.registry import CODECS, codec_of
from promptweir.layers.frames import SlotKind
from promptweir.layers.wire import dumps, frames_of, join

FACTS = Facts(model="", encoding=Encoding.JSON)
DOC: dict[str, Json] = {"layer": "l3", "message": "See /home/alice", "model": "m"}


def facts_of(**body: Json) -> Facts:
    return CODEC.facts_of("/api/chat", "", {name: msgspec.Raw(dumps(value)) for name, value in body.items()})


def understand(body: bytes) -> Answer:
    return CODEC.understand(frames_of(body, Encoding.JSON), Encoding.JSON)


def test_a_native_call_may_leave_the_model_to_us() -> None:
    assert facts_of(prompt="hi") == Facts(model="", encoding=Encoding.JSON)
    assert facts_of(prompt="hi", model="m", stream=False).model == "m"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "messages": []},
        {"prompt": "hi", "messages": []},
        {},
        {"prompt": None},
        {"prompt": ["hi"]},
        {"prompt": "hi", "model": 7},
        {"prompt": "hi", "stream": True},
    ],
    ids=repr,
)
def test_ollamas_calls_and_wrong_types_are_not_native(body: dict[str, Json]) -> None:
    with pytest.raises(ValueError, match=r"."):
        facts_of(**body)


def test_a_native_answer_survives_writing() -> None:
    answer = understand(dumps(DOC))

    assert answer.doc == DOC
    assert answer.ending is Ending.CLEAN
    assert understand(CODEC.render(answer, Encoding.JSON, FACTS)) == answer


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"error":"no"}', dumps({**DOC, "message": None}), dumps({**DOC, "model": 1})]
)
def test_what_is_no_native_answer_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        understand(body)


def test_the_message_can_be_changed_in_place() -> None:
    frames = frames_of(dumps(DOC), Encoding.JSON)
    (slot,) = CODEC.slots(frames, Encoding.JSON)
    assert slot.kind is SlotKind.TEXT

    slot.container[slot.key] = "See /home/bob"  # type: ignore[index]
    frames[slot.frame].dirty = True

    assert join(frames, Encoding.JSON) == dumps({**DOC, "message": "See /home/bob"})


@pytest.mark.parametrize("dialect", Dialect)
def test_every_dialect_has_its_codec(dialect: Dialect) -> None:
    assert codec_of(dialect).dialect is dialect
    assert len(CODECS) == len(Dialect)
