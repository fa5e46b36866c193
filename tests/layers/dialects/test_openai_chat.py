"""The answer side of Chat Completions: the golden bytes are shaped like those that real backends were seen to send."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from promptweir.layers.contract import Answer, Encoding, Ending, Facts, Fields
from promptweir.layers.dialects.base import Codec
from promptweir.layers.dialects.openai_chat import CODEC, lacks_usage
from promptweir.layers.frames import Slot, SlotKind
from promptweir.layers.wire import dumps, frames_of, loads, sse

type Doc = dict[str, Any]
"""A document whose parts a test reaches into without asking for their types."""

FACTS = Facts(model="gpt-5", encoding=Encoding.SSE)
USAGE: Any = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 3},
}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "/home/al/x"}'}}


def fields_of(request: Doc) -> Fields:
    return msgspec.json.decode(dumps(request), type=dict[str, msgspec.Raw])


def completion(message: Doc, finish: str = "stop", **extra: Any) -> Doc:
    choice: Doc = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    head: Doc = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "gpt-5"}
    return head | {"choices": [choice], "usage": USAGE, "system_fingerprint": "fp_1", "service_tier": "default"} | extra


def text_message(text: str = "Hello") -> Doc:
    return {"role": "assistant", "content": text, "refusal": None, "annotations": []}


def chunks(*deltas: Doc, finish: str | None = "stop", done: bool = True, **top: Any) -> bytes:
    head: Doc = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-5"}
    ends = [finish if position == len(deltas) - 1 else None for position in range(len(deltas))]
    body = b"".join(
        sse(None, head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} | top)
        for delta, end in zip(deltas, ends, strict=True)
    )
    return body + (b"data: [DONE]\n\n" if done else b"")


def understand_sse(body: bytes) -> Answer:
    return CODEC.understand(frames_of(body, Encoding.SSE), Encoding.SSE)


def understand_json(doc: Any) -> Answer:
    return CODEC.understand(frames_of(dumps(doc), Encoding.JSON), Encoding.JSON)


def choice_of(answer: Answer) -> Doc:
    doc: Any = answer.doc
    choice: Doc = doc["choices"][0]
    return choice


def message_of(answer: Answer) -> Doc:
    message: Doc = choice_of(answer)["message"]
    return message


def value_of(slot: Slot) -> Any:
    container: Any = slot.container
    return container[slot.key]


# --- facts


def test_the_codec_keeps_to_the_contract() -> None:
    codec: Codec = CODEC

    assert codec.dialect == "openai-chat"


def test_a_request_is_read_for_model_encoding_usage_and_temperature() -> None:
    facts = CODEC.facts_of(
        "/v1/chat/completions",
        "",
        fields_of({"model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 1}),
    )

    assert facts == Facts(model="m", encoding=Encoding.SSE, include_usage=True, temperature=1.0)


def test_a_stream_has_usage_only_on_demand_and_a_document_always() -> None:
    streamed = CODEC.facts_of("/", "", fields_of({"model": "m", "stream": True, "stream_options": None}))
    plain = CODEC.facts_of("/", "", fields_of({"model": "m", "stream": None}))

    assert not streamed.include_usage
    assert plain.include_usage
    assert plain.encoding is Encoding.JSON


def test_azure_names_the_model_in_the_path_and_the_body_overrules_it() -> None:
    path = "/openai/deployments/my%20gpt/chat/completions"

    assert CODEC.facts_of(path, "api-version=1", fields_of({})).model == "my gpt"
    assert CODEC.facts_of(path, "", fields_of({"model": "gpt-5"})).model == "gpt-5"


def test_an_answer_with_sound_is_refused_and_one_in_text_is_not() -> None:
    spoken = CODEC.facts_of("/", "", fields_of({"modalities": ["text", "audio"]}))
    written = CODEC.facts_of("/", "", fields_of({"modalities": ["text"]}))

    assert (spoken.refuse, written.refuse) == ("audio", None)


def test_a_completion_that_the_provider_stores_keeps_its_id() -> None:
    assert CODEC.facts_of("/", "", fields_of({"store": True})).stored
    assert not CODEC.facts_of("/", "", fields_of({})).stored


@pytest.mark.parametrize(
    "request_fields",
    [
        {"model": 7},
        {"stream": "yes"},
        {"stream": 1},
        {"stream_options": []},
        {"stream_options": {"include_usage": "true"}},
        {"temperature": True},
        {"temperature": "hot"},
        {"modalities": "audio"},
        {"store": "no"},
    ],
)
def test_a_field_of_the_wrong_type_makes_the_call_pass(request_fields: Doc) -> None:
    with pytest.raises(ValueError, match="must be"):
        CODEC.facts_of("/", "", fields_of(request_fields))


# --- understanding


def test_text_in_pieces_becomes_one_message() -> None:
    body = chunks({"role": "assistant", "content": "", "refusal": None}, {"content": "Hel"}, {"content": "lo"}, {})

    answer = understand_sse(body)

    assert message_of(answer) == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (answer.ending, answer.reason) == (Ending.CLEAN, "stop")
    assert (answer.doc["object"], answer.doc["id"], answer.doc["created"]) == ("chat.completion", "c1", 7)


def test_tool_calls_are_joined_by_index_even_when_their_pieces_alternate() -> None:
    body = chunks(
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}, {"index": 1, "custom": {"input": "y"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        finish="tool_calls",
    )

    answer = understand_sse(body)

    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("a", "f", '{"a":1}'),
        ("b", "g", "xy"),
    ]
    assert message_of(answer)["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "xy"}},
    ]


def test_an_id_and_a_name_that_are_sent_with_every_piece_count_once() -> None:
    piece: Any = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}}

    answer = understand_sse(chunks({"tool_calls": [piece]}, {"tool_calls": [piece]}, finish="tool_calls"))

    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("a", "f", "11")]


def test_reasoning_annotations_and_unknown_texts_are_kept() -> None:
    body = chunks(
        {
            "role": "assistant",
            "reasoning_content": "th",
            "reasoning_details": [{"type": "reasoning.text", "text": "a"}],
        },
        {"reasoning_content": "ink", "reasoning_details": [{"type": "reasoning.text", "text": "b"}]},
        {"aside": "1", "mood": {"level": 1}},
        {"aside": "2", "mood": {"level": 2}, "annotations": [{"type": "file", "n": 1}]},
        {"content": "x", "annotations": [{"type": "file", "n": 2}]},
    )

    assert message_of(understand_sse(body)) == {
        "role": "assistant",
        "content": "x",
        "reasoning_content": "think",
        "reasoning_details": [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.text", "text": "b"}],
        "aside": "12",
        "mood": {"level": 2},
        "annotations": [{"type": "file", "n": 1}, {"type": "file", "n": 2}],
    }


def test_the_usage_chunk_is_found_and_log_probabilities_are_joined() -> None:
    head: Doc = {"id": "c", "created": 1, "model": "m"}

    def chunk(choices: Any, usage: Any) -> bytes:
        return sse(None, head | {"choices": choices, "usage": usage})

    body = (
        chunk([{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"t": "a"}], "refusal": None}}], None)
        + chunk([{"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [{"t": "b"}], "refusal": None}}], None)
        + chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}], None)
        + chunk([], USAGE)
        + b"data: [DONE]\n\n"
    )

    answer = understand_sse(body)

    assert choice_of(answer)["logprobs"] == {"content": [{"t": "a"}, {"t": "b"}], "refusal": None}
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (9, 4, 3)
    assert not lacks_usage(answer)


def test_a_stream_recorded_without_usage_lacks_it() -> None:
    answer = understand_sse(chunks({"content": "x"}))

    assert lacks_usage(answer)
    assert "usage" not in answer.doc
    assert answer.usage.input_tokens == 0


def test_groq_puts_the_usage_elsewhere() -> None:
    answer = understand_sse(chunks({"content": "x"}, x_groq={"id": "req_1", "usage": USAGE}))

    assert answer.usage.output_tokens == 4


def test_azures_prelude_and_asynchronous_filter_chunks_are_taken() -> None:
    prelude: Any = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [1]}
    filtered: Any = {
        "id": "",
        "object": "",
        "choices": [{"index": 0, "finish_reason": None, "content_filter_results": {"hate": {"severity": "safe"}}}],
    }
    body = sse(None, prelude) + chunks({"content": "x"}, done=False) + sse(None, filtered) + b"data: [DONE]\n\n"

    answer = understand_sse(body)

    assert (answer.doc["id"], answer.doc["model"], answer.doc["created"]) == ("c1", "gpt-5", 7)
    assert answer.doc["prompt_filter_results"] == [1]
    assert (answer.ending, message_of(answer)["content"]) == (Ending.CLEAN, "x")


def test_comments_and_heartbeats_are_no_part_of_the_answer() -> None:
    body = b": OPENROUTER PROCESSING\n\ndata:\n\n" + chunks({"content": "x"})

    assert message_of(understand_sse(body))["content"] == "x"


@pytest.mark.parametrize(
    ("finish", "ending"),
    [
        ("stop", Ending.CLEAN),
        ("tool_calls", Ending.CLEAN),
        ("function_call", Ending.CLEAN),
        ("length", Ending.TRUNCATED),
        ("content_filter", Ending.REFUSED),
        ("error", Ending.FAILED),
    ],
)
def test_the_finish_reason_is_the_ending_in_both_encodings(finish: str, ending: Ending) -> None:
    doc = completion(text_message(), finish)

    streamed = understand_sse(chunks({"content": "x"}, finish=finish))
    whole = understand_json(doc)

    assert (streamed.ending, whole.ending, whole.reason) == (ending, ending, finish)


def test_a_refusal_is_no_clean_ending() -> None:
    streamed = understand_sse(chunks({"refusal": "I "}, {"refusal": "can't"}))
    whole = understand_json(completion(text_message() | {"content": None, "refusal": "no"}))

    assert (streamed.ending, whole.ending) == (Ending.REFUSED, Ending.REFUSED)
    assert message_of(streamed)["refusal"] == "I can't"


def test_the_worst_of_several_choices_speaks_for_the_answer() -> None:
    doc = completion(text_message())
    doc["choices"] = [
        {"index": index, "message": text_message(), "finish_reason": finish}
        for index, finish in enumerate(["stop", "length", "stop"])
    ]

    assert understand_json(doc).ending is Ending.TRUNCATED


def test_tools_of_the_provider_are_noticed_by_their_traces() -> None:
    cited = text_message() | {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a"}}]}

    assert understand_json(completion(cited)).provider_tools
    assert understand_json(completion(text_message(), model="gpt-4o-search-preview")).provider_tools
    assert understand_json(completion(text_message(), citations=["https://a"])).provider_tools
    assert understand_json(completion(text_message() | {"executed_tools": [{"type": "python"}]})).provider_tools
    assert not understand_json(completion(text_message())).provider_tools


@pytest.mark.parametrize(
    "body",
    [
        chunks({"content": "x"}, done=False),
        chunks({"content": "x"}, finish=None),
        chunks({"content": "x"}, finish=""),
        chunks({"content": "x"}) + chunks({"content": "y"}),
        chunks({"content": "x"}, done=False) + b'data: {"error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n',
        b"event: error\ndata: {}\n\n" + chunks({"content": "x"}),
        chunks({"content": "x"}, done=False) + b'data: {"choi\n\ndata: [DONE]\n\n',
        chunks({"tool_calls": [{"id": "a", "function": {"name": "f"}}]}),
        chunks({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {}}}]}),
        b"data: [DONE]\n\n",
        b"data: [1]\n\ndata: [DONE]\n\n",
        b'data: {"choices": [7]}\n\ndata: [DONE]\n\n',
        b"",
        b"<html>",
    ],
)
def test_a_stream_that_is_not_whole_is_not_understood(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        understand_sse(body)


def test_two_calls_under_one_index_are_not_run_together() -> None:
    first: Doc = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}

    with pytest.raises(ValueError, match="under one index"):
        understand_sse(chunks({"tool_calls": [first]}, {"tool_calls": [first | {"id": "b"}]}))


def test_no_cut_of_a_stream_is_understood() -> None:
    body = chunks({"role": "assistant", "content": ""}, {"content": "x"}, {"tool_calls": [{"index": 0, "id": "a"}]})
    body = body.replace(b'"id":"a"', b'"id":"a","function":{"name":"f","arguments":"{}"}')
    understand_sse(body)

    for size in range(len(body) - len(b"[DONE]\n\n") + len(b"[DONE]")):
        with pytest.raises(ValueError):  # noqa: PT011
            understand_sse(body[:size])


@pytest.mark.parametrize(
    "doc",
    [
        {"error": {"message": "no"}},
        {},
        [],
        None,
        {"choices": []},
        {"choices": {}},
        {"choices": [{"message": {"content": "x"}}]},
        {"choices": [{"message": "x", "finish_reason": "stop"}]},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"message": {"tool_calls": [7]}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"tool_calls": [{"id": "a"}]}, "finish_reason": "stop"}]},
    ],
)
def test_a_document_that_is_not_whole_is_not_understood(doc: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        understand_json(doc)


def test_other_encodings_are_refused() -> None:
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.understand([], Encoding.AWS_EVENT_STREAM)
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.render(understand_json(completion(text_message())), Encoding.JSON_ARRAY, FACTS)


# --- slots


def slots_by_kind(body: bytes, encoding: Encoding) -> dict[SlotKind, list[tuple[str, Any]]]:
    found: dict[SlotKind, list[tuple[str, Any]]] = {}
    for slot in CODEC.slots(frames_of(body, encoding), encoding):
        found.setdefault(slot.kind, []).append((slot.channel or str(slot.key), value_of(slot)))
    return found


def test_the_pieces_of_a_text_share_a_channel_and_every_chunk_has_its_id() -> None:
    found = slots_by_kind(chunks({"content": "/home/al"}, {"content": "ice/app"}), Encoding.SSE)

    assert found[SlotKind.TEXT] == [("0/content", "/home/al"), ("0/content", "ice/app")]
    assert found[SlotKind.RESPONSE_ID] == [("id", "c1"), ("id", "c1")]
    assert found[SlotKind.CREATED] == [("created", 7), ("created", 7)]


def test_each_tool_call_has_a_channel_of_its_own() -> None:
    body = chunks(
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "x"}}]},
        {"tool_calls": [{"index": 1, "id": "b", "custom": {"name": "g", "input": "y"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "z"}}]},
    )

    found = slots_by_kind(body, Encoding.SSE)

    assert found[SlotKind.ARGUMENTS] == [("0/call/0", "x"), ("0/call/1", "y"), ("0/call/0", "z")]
    assert found[SlotKind.TOOL_ID] == [("id", "a"), ("id", "b")]


def test_unknown_texts_log_probabilities_and_signatures_are_opaque() -> None:
    message = text_message() | {
        "aside": "a",
        "reasoning": "r",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAA", "format": "f"}],
        "tool_calls": [dict(CALL) | {"extra_content": {"google": {"thought_signature": "s"}}}],
    }
    doc = completion(message)
    doc["choices"][0]["logprobs"] = {"content": [{"token": "He"}]}

    found = slots_by_kind(dumps(doc), Encoding.JSON)

    assert {key for key, _ in found[SlotKind.OPAQUE]} == {"aside", "data", "extra_content", "logprobs"}
    assert {value for _, value in found[SlotKind.TEXT]} == {"r", "Hello"}
    assert [value for _, value in found[SlotKind.ARGUMENTS]] == ['{"path": "/home/al/x"}']


def test_reasoning_whose_signature_comes_later_is_signed_text() -> None:
    body = chunks(
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "think"}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]},
    )

    found = slots_by_kind(body, Encoding.SSE)

    assert found[SlotKind.SIGNED_TEXT] == [("0/details/0/text", "think")]
    assert found[SlotKind.OPAQUE] == [("signature", "s")]
    assert SlotKind.TEXT not in found


def test_content_in_parts_is_text_too() -> None:
    parts: Any = [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "text", "text": "x"}]

    found = slots_by_kind(dumps(completion(text_message() | {"content": parts})), Encoding.JSON)

    assert [value for _, value in found[SlotKind.TEXT]] == ["t", "x"]


# --- rendering


TEXTS = st.text(max_size=30)
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "reasoning_content": st.one_of(st.none(), TEXTS),
        "reasoning_details": st.lists(st.fixed_dictionaries({"type": st.just("reasoning.text"), "text": TEXTS})),
        "annotations": st.lists(st.fixed_dictionaries({"type": st.just("url_citation")}), max_size=2),
        "function_call": st.one_of(st.none(), st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS})),
        "something_new": st.one_of(TEXTS, st.dictionaries(TEXTS, st.integers(0, 9), max_size=2)),
    },
)
CALLS = st.one_of(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS}),
        },
        optional={"extra_content": st.dictionaries(TEXTS, TEXTS, max_size=1)},
    ),
    st.fixed_dictionaries(
        {"id": TEXTS, "type": st.just("custom"), "custom": st.fixed_dictionaries({"name": TEXTS, "input": TEXTS})}
    ),
)


@st.composite
def messages(draw: st.DrawFn) -> Doc:
    head = {"role": "assistant", "content": draw(st.one_of(st.none(), TEXTS))}
    calls = draw(st.lists(CALLS, max_size=3))
    return (
        head
        | draw(st.fixed_dictionaries({}, optional={"refusal": st.one_of(st.none(), TEXTS)}))
        | draw(EXTRAS)
        | ({"tool_calls": calls} if calls else {})
    )


LOGPROBS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"content": st.one_of(st.none(), st.lists(st.fixed_dictionaries({"token": TEXTS}))), "refusal": st.none()}
    ),
)


@st.composite
def completions(draw: st.DrawFn) -> Doc:
    choices: list[Any] = [
        {"index": index, "message": draw(messages()), "finish_reason": draw(st.sampled_from(["stop", "tool_calls"]))}
        | draw(st.fixed_dictionaries({}, optional={"logprobs": LOGPROBS, "native_finish_reason": TEXTS}))
        for index in range(draw(st.integers(1, 3)))
    ]
    head: Doc = {"id": draw(TEXTS), "object": "chat.completion", "created": draw(st.integers(0, 2**40))}
    extras = draw(
        st.fixed_dictionaries(
            {"model": TEXTS},
            optional={
                "system_fingerprint": st.one_of(st.none(), TEXTS),
                "service_tier": TEXTS,
                "citations": st.lists(TEXTS, max_size=2),
            },
        )
    )
    return head | extras | {"choices": choices, "usage": USAGE}


@given(completions())
def test_an_answer_survives_every_encoding(doc: Doc) -> None:
    answer = understand_json(doc)

    for encoding in (Encoding.JSON, Encoding.SSE):
        body = CODEC.render(answer, encoding, FACTS)
        assert CODEC.understand(frames_of(body, encoding), encoding) == answer


@given(completions())
def test_the_slots_of_a_stream_hold_the_texts_of_the_document(doc: Doc) -> None:
    body = CODEC.render(understand_json(doc), Encoding.SSE, FACTS)
    texts: dict[str, str] = {}
    for slot in CODEC.slots(frames_of(body, Encoding.SSE), Encoding.SSE):
        if slot.kind in (SlotKind.TEXT, SlotKind.ARGUMENTS):
            texts[slot.channel] = texts.get(slot.channel, "") + value_of(slot)

    for choice in json.loads(dumps(doc))["choices"]:
        message, index = choice["message"], choice["index"]
        assert texts.get(f"{index}/content", "") == (message["content"] or "")
        for position, call in enumerate(message.get("tool_calls", [])):
            body_text = call["function"]["arguments"] if "function" in call else call["custom"]["input"]
            assert texts.get(f"{index}/call/{position}", "") == body_text


def test_a_stream_without_usage_wanted_has_no_word_of_it() -> None:
    answer = understand_json(completion(text_message()))
    facts = Facts(model="gpt-5", encoding=Encoding.SSE, include_usage=False)

    body = CODEC.render(answer, Encoding.SSE, facts)

    assert b"usage" not in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"event:" not in body


def test_the_chunks_come_in_the_providers_order() -> None:
    doc = completion({"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}, "tool_calls")

    frames = frames_of(CODEC.render(understand_json(doc), Encoding.SSE, FACTS), Encoding.SSE)

    docs: list[Any] = [frame.doc for frame in frames if isinstance(frame.doc, dict)]
    assert {(each["id"], each["created"], each["model"], each["system_fingerprint"]) for each in docs} == {
        ("chatcmpl-1", 1700000000, "gpt-5", "fp_1")
    }
    assert [each["choices"][0]["delta"] if each["choices"] else each["usage"] for each in docs] == [
        {"role": "assistant", "content": None, "refusal": None},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "read", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"path": "/home/al/x"}'}}]},
        {},
        USAGE,
    ]
    assert docs[3]["choices"][0]["finish_reason"] == "tool_calls"


# --- the real SDK


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[bool, bytes]]

    def do_POST(self) -> None:
        request = loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = isinstance(request, dict) and request.get("stream") is True
        body = self.answers[streamed]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Keep the test's output clean."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Return a function that puts a rendered answer on a loopback port and returns its base URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler: Any = type("Handler", (_Server,), {"answers": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def start(answer: Answer) -> str:
        for streamed, encoding in ((False, Encoding.JSON), (True, Encoding.SSE)):
            handler.answers[streamed] = CODEC.render(answer, encoding, FACTS)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


class Weather(BaseModel):
    city: str
    degrees: int


ASK: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
LOGGED = completion(text_message())
LOGGED["choices"][0]["logprobs"] = {
    "content": [{"token": "Hello", "logprob": -0.1, "bytes": [1], "top_logprobs": []}],
    "refusal": None,
}
TWO = completion(text_message())
TWO["choices"] = [
    {"index": index, "message": text_message(f"n{index}"), "logprobs": None, "finish_reason": "stop"}
    for index in range(2)
]
SDK_DOCS = {
    "text": completion(text_message()),
    "tools": completion(
        {
            "role": "assistant",
            "content": "Let me look.",
            "refusal": None,
            "tool_calls": [CALL, {**CALL, "id": "call_2"}],
        },
        "tool_calls",
    ),
    "refusal": completion({"role": "assistant", "content": None, "refusal": "No."}),
    "logprobs": LOGGED,
    "two choices": TWO,
    "reasoning": completion(text_message() | {"reasoning_content": "Hm."}),
}


def plain(completion: BaseModel) -> Doc:
    """Return what an SDK object says, without the index that its stream helper leaves in tool calls."""
    doc: Doc = completion.model_dump()
    for choice in doc["choices"]:
        for call in choice["message"]["tool_calls"] or []:
            call.pop("index", None)
    return doc


@pytest.mark.parametrize("name", SDK_DOCS)
def test_the_sdk_reads_equal_objects_from_both_encodings(name: str, serve: Callable[[Answer], str]) -> None:
    url = serve(understand_json(SDK_DOCS[name]))

    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        whole = client.chat.completions.parse(model="gpt-5", messages=ASK)
        with client.chat.completions.stream(
            model="gpt-5", messages=ASK, stream_options={"include_usage": True}
        ) as stream:
            streamed = stream.get_final_completion()

    assert plain(streamed) == plain(whole)
    assert streamed.usage is not None
    assert streamed.usage.total_tokens == 13


async def test_the_asynchronous_sdk_parses_structured_output(serve: Callable[[Answer], str]) -> None:
    url = serve(understand_json(completion(text_message('{"city": "Ulm", "degrees": 7}'))))

    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        whole = await client.chat.completions.parse(model="gpt-5", messages=ASK, response_format=Weather)
        async with client.chat.completions.stream(model="gpt-5", messages=ASK, response_format=Weather) as stream:
            streamed = await stream.get_final_completion()

    assert whole.choices[0].message.parsed == Weather(city="Ulm", degrees=7)
    assert streamed.choices[0].message.parsed == Weather(city="Ulm", degrees=7)


def test_the_sdk_gets_custom_tool_calls(serve: Callable[[Answer], str]) -> None:
    call: Any = {"id": "call_1", "type": "custom", "custom": {"name": "exec", "input": "ls -l"}}
    doc = completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")
    url = serve(understand_json(doc))

    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        whole = client.chat.completions.create(model="gpt-5", messages=ASK)
        pieces = [
            json.loads(choice.delta.tool_calls[0].to_json()).get("custom", {}).get("input", "")
            for chunk in client.chat.completions.create(model="gpt-5", messages=ASK, stream=True)
            for choice in chunk.choices
            if choice.delta.tool_calls
        ]

    assert whole.choices[0].message.tool_calls is not None
    assert whole.choices[0].message.tool_calls[0].to_dict() == call
    assert "".join(pieces) == "ls -l"
