"""The answer side of Anthropic Messages and count_tokens, with the official SDK as the judge of what we write."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import anthropic
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptweir.layers.contract import Answer, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
from promptweir.layers.dialects import anthropic_count_tokens
from promptweir.layers.dialects.anthropic_messages import CODEC
from promptweir.layers.frames import SlotKind
from promptweir.layers.wire import aws_message, dumps, frames_of, loads, sse

FACTS = Facts(model="claude-x", encoding=Encoding.JSON)
ENCODINGS = [Encoding.JSON, Encoding.SSE, Encoding.AWS_EVENT_STREAM]
CONTENT_TYPES = {Encoding.JSON: "application/json", Encoding.SSE: "text/event-stream; charset=utf-8"}

type Doc = dict[str, Json]


def fields_of(**body: Json) -> Fields:
    return {name: msgspec.Raw(dumps(value)) for name, value in body.items()}


def message(*content: Json, **more: Json) -> Doc:
    usage: Doc = {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 3}
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
        **more,
    }


def understand(body: bytes, encoding: Encoding) -> Answer:
    return CODEC.understand(frames_of(body, encoding), encoding)


def text(words: str) -> Doc:
    return {"type": "text", "text": words}


def call(**given_input: Json) -> Doc:
    return {"type": "tool_use", "id": "toolu_01", "name": "read", "input": given_input}


SEARCH: list[Json] = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "/home/alice"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "https://x.test", "encrypted_content": "E==", "title": "T"}],
    },
]
CITED: Doc = {
    "type": "text",
    "text": "as said",
    "citations": [{"type": "char_location", "cited_text": "said", "document_index": 0, "document_title": "t"}],
}

# --- whatever a message may hold, as hypothesis sees it

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(WORDS, VALUES, max_size=3)
BLOCKS = st.one_of(
    st.builds(text, WORDS),
    st.builds(lambda words, more: {**text(words), "citations": more}, WORDS, st.none() | st.just([])),
    st.just(CITED),
    st.builds(lambda words, sig: {"type": "thinking", "thinking": words, "signature": sig}, WORDS, WORDS),
    st.builds(lambda words: {"type": "thinking", "thinking": words}, WORDS),
    st.builds(lambda words: {"type": "redacted_thinking", "data": words}, WORDS),
    st.builds(lambda name, given: {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}, WORDS, INPUTS),
    st.sampled_from(SEARCH),
    st.builds(lambda value: {"type": "yet_to_come", "value": value}, VALUES),
)
COUNTS = st.integers(0, 10**6)
USAGES = st.fixed_dictionaries(
    {"input_tokens": COUNTS, "output_tokens": COUNTS},
    optional={
        "cache_creation_input_tokens": COUNTS,
        "cache_read_input_tokens": COUNTS | st.none(),
        "service_tier": st.just("standard"),
        "server_tool_use": st.none() | st.just({"web_search_requests": 1}),
    },
)
MESSAGES = st.builds(
    lambda content, reason, sequence, usage, more: message(
        *content, stop_reason=reason, stop_sequence=sequence, usage=usage, **more
    ),
    st.lists(BLOCKS, max_size=5),
    st.sampled_from(["end_turn", "tool_use", "max_tokens", "pause_turn", "refusal", "yet_to_come"]),
    st.none() | WORDS,
    USAGES,
    st.fixed_dictionaries(
        {},
        optional={
            "container": st.none() | st.just({"id": "container_1", "expires_at": "x"}),
            "context_management": st.none() | st.just({"applied_edits": []}),
            "stop_details": st.none() | st.just({"type": "refusal", "category": "cyber", "explanation": None}),
            "diagnostics": st.none(),
        },
    ),
)


@given(MESSAGES, st.sampled_from(ENCODINGS))
def test_an_answer_survives_every_encoding(doc: Doc, encoding: Encoding) -> None:
    answer = understand(dumps(doc), Encoding.JSON)

    again = understand(CODEC.render(answer, encoding, FACTS), encoding)

    assert again == answer
    assert again.doc == doc


@given(MESSAGES, st.data())
def test_a_stream_cut_anywhere_is_not_an_answer(doc: Doc, data: st.DataObject) -> None:
    body = CODEC.render(understand(dumps(doc), Encoding.JSON), Encoding.SSE, FACTS)
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(ValueError, match="stream"):
        understand(body[:cut], Encoding.SSE)


@given(MESSAGES, st.data())
def test_a_stream_that_lost_an_event_other_than_a_delta_is_not_an_answer(doc: Doc, data: st.DataObject) -> None:
    frames = frames_of(CODEC.render(understand(dumps(doc), Encoding.JSON), Encoding.SSE, FACTS), Encoding.SSE)
    milestones = [index for index, frame in enumerate(frames) if frame.event != "content_block_delta"]
    del frames[data.draw(st.sampled_from(milestones))]

    with pytest.raises(ValueError, match=r"."):
        CODEC.understand(frames, Encoding.SSE)


# --- a stream as the provider sends it

STREAM = b"".join(
    [
        sse(
            "message_start", {"type": "message_start", "message": message(stop_reason=None, usage={"input_tokens": 9})}
        ),
        sse("ping", {"type": "ping"}),
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"thinking","thinking":"","signature":""}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"thinking_delta","thinking":"in /home/al"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"thinking_delta","thinking":"ice"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"signature_delta","signature":"SIG=="}}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
        b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
        b'"content_block":{"type":"text","text":""}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,'
        b'"delta":{"type":"text_delta","text":"Look at /home/al"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,'
        b'"delta":{"type":"text_delta","text":"ice/app"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,'
        b'"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"c"}}}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n',
        b'event: content_block_start\ndata: {"type":"content_block_start","index":2,'
        b'"content_block":{"type":"tool_use","id":"toolu_9","name":"read","input":{}}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":2,'
        b'"delta":{"type":"input_json_delta","partial_json":""}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":2,'
        b'"delta":{"type":"input_json_delta","partial_json":"{\\"path\\": \\"/ho"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":2,'
        b'"delta":{"type":"input_json_delta","partial_json":"me\\"}"}}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":2}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},'
        b'"usage":{"input_tokens":10,"cache_read_input_tokens":3,"cache_creation_input_tokens":2,"output_tokens":7}}\n\n',
        b'event: yet_to_come\ndata: {"type":"yet_to_come"}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]
)


def test_a_provider_stream_is_understood_as_the_message_it_tells() -> None:
    answer = understand(STREAM, Encoding.SSE)

    assert answer.doc["content"] == [
        {"type": "thinking", "thinking": "in /home/alice", "signature": "SIG=="},
        {
            "type": "text",
            "text": "Look at /home/alice/app",
            "citations": [{"type": "char_location", "cited_text": "c"}],
        },
        {"type": "tool_use", "id": "toolu_9", "name": "read", "input": {"path": "/home"}},
    ]
    assert (answer.ending, answer.reason) == (Ending.CLEAN, "tool_use")
    assert answer.tool_calls == (ToolCall(id="toolu_9", name="read", arguments='{"path":"/home"}'),)
    assert answer.usage == Usage(input_tokens=15, output_tokens=7, cached_tokens=3)
    assert not answer.provider_tools


def test_bedrock_messages_tell_the_same() -> None:
    inner = [frame.doc for frame in frames_of(STREAM, Encoding.SSE)]
    body = b"".join(aws_message(doc) for doc in inner)

    assert understand(body, Encoding.AWS_EVENT_STREAM) == understand(STREAM, Encoding.SSE)


def test_reading_and_writing_leave_the_frames_alone() -> None:
    frames = frames_of(STREAM, Encoding.SSE)
    before = dumps([frame.doc for frame in frames])

    answer = CODEC.understand(frames, Encoding.SSE)
    told = dumps(answer.doc)
    CODEC.render(answer, Encoding.SSE, FACTS)
    CODEC.slots(frames, Encoding.SSE)

    assert dumps([frame.doc for frame in frames]) == before
    assert dumps(answer.doc) == told


def test_a_fallback_block_names_the_model_that_answered() -> None:
    doc = message({"type": "fallback", "from": {"model": "claude-x"}, "to": {"model": "claude-y"}}, text("hi"))
    events = b"".join(
        [
            sse("message_start", {"type": "message_start", "message": message(stop_reason=None)}),
            sse(None, {"type": "content_block_start", "index": 0, "content_block": doc["content"][0]}),  # type: ignore[index]
            sse(None, {"type": "content_block_stop", "index": 0}),
            sse(None, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
            sse(None, {"type": "message_stop"}),
        ]
    )

    assert understand(events, Encoding.SSE).doc["model"] == "claude-y"


def without(fragment: bytes) -> bytes:
    frames = [frame.raw for frame in frames_of(STREAM, Encoding.SSE) if fragment not in frame.raw]
    assert b"".join(frames) != STREAM
    return b"".join(frames)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(without(b"message_start"), id="no start"),
        pytest.param(without(b"message_stop"), id="no stop"),
        pytest.param(without(b"message_delta"), id="no stop reason"),
        pytest.param(without(b'"content_block_stop","index":1'), id="block left open"),
        pytest.param(without(b'"content_block_start"'), id="blocks never opened"),
        pytest.param(without(b'me\\"}'), id="tool input cut"),
        pytest.param(STREAM + STREAM, id="twice"),
        pytest.param(STREAM.replace(b"text_delta", b"odd_delta"), id="unknown delta"),
        pytest.param(STREAM.replace(b'"index":1', b'"index":7'), id="wrong index"),
        pytest.param(STREAM.replace(b'"index":1', b'"index":"1"'), id="index of a wrong type"),
        pytest.param(STREAM.replace(b'{"type":"ping"}', b"{garbage"), id="garbage"),
        pytest.param(STREAM.replace(b'{"type":"ping"}', b'{"type":"error","error":{"type":"o"}}'), id="error"),
        pytest.param(STREAM + sse("error", {"type": "error"}), id="error at the end"),
        pytest.param(STREAM.replace(b'"type":"message"', b'"type":"memo"'), id="not a message"),
    ],
)
def test_a_stream_that_is_not_whole_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        understand(body, Encoding.SSE)


@pytest.mark.parametrize(
    "doc",
    [
        {"type": "error", "error": {"type": "overloaded_error"}},
        message(stop_reason=None),
        message(7),
        message(content="x"),
        message(usage={"output_tokens": "many"}),
        message({"type": "tool_use", "input": {}}),
        [],
        None,
        "x",
    ],
    ids=repr,
)
def test_a_json_body_that_is_no_whole_message_is_refused(doc: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        understand(dumps(doc), Encoding.JSON)


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("end_turn", Ending.CLEAN),
        ("tool_use", Ending.CLEAN),
        ("stop_sequence", Ending.CLEAN),
        ("max_tokens", Ending.TRUNCATED),
        ("model_context_window_exceeded", Ending.TRUNCATED),
        ("refusal", Ending.REFUSED),
        ("pause_turn", Ending.PAUSED),
        ("yet_to_come", Ending.FAILED),
    ],
)
def test_stop_reasons_are_told_apart(reason: str, ending: Ending) -> None:
    assert understand(dumps(message(text("x"), stop_reason=reason)), Encoding.JSON).ending is ending


@pytest.mark.parametrize(
    "block",
    [
        *SEARCH,
        {"type": "mcp_tool_use", "id": "m", "name": "n", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
        {**call(), "caller": {"type": "code_execution_20250825", "tool_id": "srvtoolu_1"}},
    ],
    ids=lambda block: block["type"],
)
def test_the_providers_own_tools_are_seen(block: Json) -> None:
    assert understand(dumps(message(block)), Encoding.JSON).provider_tools


def test_a_tool_called_by_the_model_is_not_the_providers() -> None:
    assert not understand(dumps(message({**call(), "caller": {"type": "direct"}})), Encoding.JSON).provider_tools


# --- slots


def marked(body: bytes, encoding: Encoding) -> list[tuple[SlotKind, str, Json]]:
    found = CODEC.slots(frames_of(body, encoding), encoding)
    return [(slot.kind, slot.channel, slot.container[slot.key]) for slot in found]  # type: ignore[index]


def test_slots_of_a_stream_string_the_pieces_together() -> None:
    assert marked(STREAM, Encoding.SSE) == [
        (SlotKind.RESPONSE_ID, "", "msg_01"),
        (SlotKind.SIGNED_TEXT, "thinking:0", ""),
        (SlotKind.SIGNED_TEXT, "thinking:0", "in /home/al"),
        (SlotKind.SIGNED_TEXT, "thinking:0", "ice"),
        (SlotKind.OPAQUE, "", "SIG=="),
        (SlotKind.TEXT, "text:1", ""),
        (SlotKind.TEXT, "text:1", "Look at /home/al"),
        (SlotKind.TEXT, "text:1", "ice/app"),
        (SlotKind.SIGNED_TEXT, "", "c"),
        (SlotKind.TOOL_ID, "", "toolu_9"),
        (SlotKind.SIGNED_TEXT, "", "read"),
        (SlotKind.ARGUMENTS, "input:2", ""),
        (SlotKind.ARGUMENTS, "input:2", '{"path": "/ho'),
        (SlotKind.ARGUMENTS, "input:2", 'me"}'),
    ]


def test_slots_of_a_json_answer() -> None:
    blocks: list[Json] = [
        {"type": "thinking", "thinking": "signed", "signature": "S=="},
        {"type": "thinking", "thinking": "free"},
        {"type": "redacted_thinking", "data": "D=="},
        CITED,
        call(path="/home"),
        *SEARCH,
        {"type": "yet_to_come", "deep": [{"path": "/p"}]},
    ]

    assert marked(dumps(message(*blocks, stop_sequence="END")), Encoding.JSON) == [
        (SlotKind.RESPONSE_ID, "", "msg_01"),
        (SlotKind.SIGNED_TEXT, "thinking:0", "signed"),
        (SlotKind.OPAQUE, "", "S=="),
        (SlotKind.TEXT, "thinking:1", "free"),
        (SlotKind.OPAQUE, "", "D=="),
        (SlotKind.TEXT, "text:3", "as said"),
        (SlotKind.SIGNED_TEXT, "", "said"),
        (SlotKind.SIGNED_TEXT, "", "t"),
        (SlotKind.TOOL_ID, "", "toolu_01"),
        (SlotKind.SIGNED_TEXT, "", "read"),
        (SlotKind.VALUE, "", {"path": "/home"}),
        (SlotKind.SIGNED_TEXT, "", "srvtoolu_1"),
        (SlotKind.SIGNED_TEXT, "", "web_search"),
        (SlotKind.SIGNED_TEXT, "", "/home/alice"),
        (SlotKind.SIGNED_TEXT, "", "srvtoolu_1"),
        (SlotKind.SIGNED_TEXT, "", "https://x.test"),
        (SlotKind.OPAQUE, "", "E=="),
        (SlotKind.SIGNED_TEXT, "", "T"),
        (SlotKind.SIGNED_TEXT, "", "/p"),
        (SlotKind.SIGNED_TEXT, "", "END"),
    ]


PROTOCOL_WORDS = frozenset(("type", "role", "model", "stop_reason", "usage"))


@given(MESSAGES, st.sampled_from(ENCODINGS))
def test_no_string_of_an_answer_is_left_unmarked(doc: Doc, encoding: Encoding) -> None:
    body = CODEC.render(understand(dumps(doc), Encoding.JSON), encoding, FACTS)
    frames = frames_of(body, encoding)
    for slot in CODEC.slots(frames, encoding):
        slot.container[slot.key] = None  # type: ignore[index]

    left = [frame.doc for frame in frames]
    while left:
        match left.pop():
            case dict() as members:
                left.extend(value for name, value in members.items() if name not in PROTOCOL_WORDS)
            case list() as items:
                left.extend(items)
            case str() as words:
                assert words in ("", "msg_01", "{}")


# --- requests


@pytest.mark.parametrize(("stream", "encoding"), [(True, Encoding.SSE), (False, Encoding.JSON), (None, Encoding.JSON)])
def test_stream_decides_the_encoding(stream: bool | None, encoding: Encoding) -> None:
    facts = CODEC.facts_of("/v1/messages", "beta=true", fields_of(model="claude-x", stream=stream, temperature=1))

    assert facts == Facts(model="claude-x", encoding=encoding, temperature=1.0)


@pytest.mark.parametrize(
    ("path", "model", "encoding"),
    [
        ("/model/anthropic.claude-v2%3A1/invoke", "anthropic.claude-v2:1", Encoding.JSON),
        (
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/invoke-with-response-stream",
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.x",
            Encoding.AWS_EVENT_STREAM,
        ),
        ("/v1/projects/p/locations/l/publishers/anthropic/models/c@1:rawPredict", "c@1", Encoding.JSON),
        ("/v1/projects/p/locations/l/publishers/anthropic/models/c%401:streamRawPredict", "c@1", Encoding.SSE),
    ],
)
def test_on_bedrock_and_vertex_the_path_decides(path: str, model: str, encoding: Encoding) -> None:
    facts = CODEC.facts_of(path, "", fields_of(anthropic_version="v", max_tokens=5))

    assert (facts.model, facts.encoding) == (model, encoding)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {}),
        ("/v1/messages", {"model": None}),
        ("/v1/messages", {"model": 7}),
        ("/v1/messages", {"model": "c", "stream": "yes"}),
        ("/v1/messages", {"model": "c", "stream": 1}),
        ("/v1/messages", {"model": "c", "temperature": "hot"}),
        ("/v1/messages", {"model": "c", "temperature": True}),
        ("/model/amazon.titan/invoke", {"inputText": "hi"}),
        ("/v1/projects/p/publishers/anthropic/models/c:rawPredict", {"anthropic_version": "v", "stream": True}),
    ],
    ids=repr,
)
def test_a_request_of_a_wrong_shape_is_refused(path: str, body: Doc) -> None:
    with pytest.raises(ValueError, match=r"."):
        CODEC.facts_of(path, "", fields_of(**body))


# --- the SDK


@contextmanager
def provider(bodies: dict[bool, tuple[str, bytes]]) -> Iterator[anthropic.Anthropic]:
    """Serve one body to streaming calls and another to plain ones, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            content_type, body = bodies[asked.get("stream", False)]
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's own name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    base_url = f"http://127.0.0.1:{server.server_port}"
    try:
        with anthropic.Anthropic(api_key="sk-ant-fake", base_url=base_url, max_retries=0) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


RICH = message(
    {"type": "thinking", "thinking": "Hm, ünïcode \u2028 and \n lines", "signature": "SIG=="},
    {"type": "redacted_thinking", "data": "DATA=="},
    {**text("Let me look."), "citations": None},
    CITED,
    call(path="/tmp/a b", deep={"n": [1, 2.5, None, True]}),
    {**call(), "id": "toolu_02"},
    stop_reason="tool_use",
    usage={
        "input_tokens": 10,
        "cache_creation_input_tokens": 4,
        "cache_read_input_tokens": 5,
        "output_tokens": 7,
        "service_tier": "standard",
    },
)


@pytest.mark.parametrize(
    "doc",
    [
        RICH,
        message(text("hi")),
        message(),
        message(text("a"), *SEARCH, text("b"), container={"id": "c", "expires_at": "2026-01-01T00:00:00Z"}),
        message(text("a"), stop_reason="stop_sequence", stop_sequence="END"),
        message(text("no"), stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"}),
    ],
    ids=["rich", "text", "empty", "search", "stop-sequence", "refusal"],
)
def test_the_sdk_sees_the_same_message_streamed_and_whole(doc: Doc) -> None:
    answer = understand(dumps(doc), Encoding.JSON)
    bodies = {
        streaming: (CONTENT_TYPES[encoding], CODEC.render(answer, encoding, FACTS))
        for streaming, encoding in ((True, Encoding.SSE), (False, Encoding.JSON))
    }
    prompt: anthropic.types.MessageParam = {"role": "user", "content": "hi"}

    with provider(bodies) as client:
        whole = client.messages.create(model="claude-x", max_tokens=9, messages=[prompt])
        with client.messages.stream(model="claude-x", max_tokens=9, messages=[prompt]) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()
        beta = client.beta.messages.create(model="claude-x", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        with client.beta.messages.stream(
            model="claude-x", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as beta_stream:
            beta_streamed = beta_stream.get_final_message()

    # Compared as data: the SDK has a parsed variant of each type for its stream helper, with one more, empty field.
    assert plain(streamed) == plain(whole)
    assert plain(beta_streamed) == plain(beta)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert whole.to_dict(mode="json") == doc


def plain(found: anthropic.BaseModel) -> Json:
    return loads(found.to_json(exclude_none=True, exclude_unset=False).encode())


# --- count_tokens


def test_a_token_count_is_understood_written_and_served_to_the_sdk() -> None:
    codec = anthropic_count_tokens.CODEC
    frames = frames_of(b'{"input_tokens": 2095}', Encoding.JSON)
    answer = codec.understand(frames, Encoding.JSON)
    written = codec.render(answer, Encoding.JSON, FACTS)

    with provider({False: ("application/json", written)}) as client:
        counted = client.messages.count_tokens(model="claude-x", messages=[{"role": "user", "content": "hi"}])

    assert counted.input_tokens == 2095
    assert (answer.ending, answer.usage) == (Ending.CLEAN, Usage())
    assert codec.slots(frames, Encoding.JSON) == []
    assert codec.facts_of("/v1/messages/count_tokens", "", fields_of(model="c")).encoding is Encoding.JSON


@pytest.mark.parametrize(
    "body", [b"{}", b'{"input_tokens": "7"}', b'{"input_tokens": true}', b"[]", b"", b'{"type":"error"}']
)
def test_what_is_no_token_count_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        anthropic_count_tokens.CODEC.understand(frames_of(body, Encoding.JSON), Encoding.JSON)
