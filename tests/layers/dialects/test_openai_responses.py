"""The answer side of Responses: the golden bytes are shaped like those that real backends were seen to send."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from promptweir.layers.contract import Answer, Encoding, Ending, Facts, Fields
from promptweir.layers.dialects.base import Codec
from promptweir.layers.dialects.openai_responses import CODEC
from promptweir.layers.frames import Slot, SlotKind
from promptweir.layers.wire import dumps, frames_of, loads, sse

type Doc = dict[str, Any]
"""A document whose parts a test reaches into without asking for their types."""

FACTS = Facts(model="gpt-5", encoding=Encoding.SSE)
USAGE: Doc = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 13,
}
CALL: Doc = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "read",
    "arguments": '{"path": "/home/al/x"}',
}
REASONING: Doc = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "I look at /home/al."}],
    "encrypted_content": "gAAAAB",
}


def fields_of(request: Doc) -> Fields:
    return msgspec.json.decode(dumps(request), type=dict[str, msgspec.Raw])


def text_part(text: str = "Hello") -> Doc:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message(*parts: Doc, item_id: str = "msg_1") -> Doc:
    head: Doc = {"id": item_id, "type": "message", "status": "completed", "role": "assistant"}
    return head | {"content": list(parts) or [text_part()]}


def response(*items: Doc, **extra: Any) -> Doc:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": "Be kind to /home/al.",
        "metadata": {},
        "model": "gpt-5",
        "output": list(items),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
        "usage": USAGE,
    } | extra


def understand_sse(body: bytes) -> Answer:
    return CODEC.understand(frames_of(body, Encoding.SSE), Encoding.SSE)


def understand_json(doc: Any) -> Answer:
    return CODEC.understand(frames_of(dumps(doc), Encoding.JSON), Encoding.JSON)


def stream_of(doc: Doc) -> bytes:
    return CODEC.render(understand_json(doc), Encoding.SSE, FACTS)


def events_of(body: bytes) -> list[Doc]:
    docs: list[Any] = [frame.doc for frame in frames_of(body, Encoding.SSE)]
    return docs


def value_of(slot: Slot) -> Any:
    container: Any = slot.container
    return container[slot.key]


def slots_of(body: bytes, encoding: Encoding) -> list[Slot]:
    return CODEC.slots(frames_of(body, encoding), encoding)


# --- facts


def test_the_codec_keeps_to_the_contract() -> None:
    codec: Codec = CODEC

    assert codec.dialect == "openai-responses"


def test_a_response_is_stored_unless_the_request_says_otherwise() -> None:
    assert CODEC.facts_of("/v1/responses", "", fields_of({"model": "m"})).stored
    assert CODEC.facts_of("/v1/responses", "", fields_of({"model": "m", "store": None})).stored
    assert not CODEC.facts_of("/v1/responses", "", fields_of({"model": "m", "store": False})).stored


def test_a_request_is_read_for_its_steering_fields() -> None:
    request = {"model": "m", "stream": True, "store": False, "temperature": 0.5, "previous_response_id": "resp_0"}

    facts = CODEC.facts_of("/v1/responses", "", fields_of(request))

    assert facts == Facts(model="m", encoding=Encoding.SSE, temperature=0.5, parent_id="resp_0")


@pytest.mark.parametrize(
    ("request_fields", "refuse"),
    [
        ({"background": True}, "background"),
        ({"background": False}, None),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"conversation": None}, None),
        ({"prompt": {"id": "pmpt_1"}}, "prompt-template"),
        ({"prompt": {"id": "pmpt_1", "version": None}}, "prompt-template"),
        ({"prompt": {"id": "pmpt_1", "version": "2"}}, None),
    ],
)
def test_state_that_the_request_does_not_show_is_refused(request_fields: Doc, refuse: str | None) -> None:
    assert CODEC.facts_of("/v1/responses", "", fields_of(request_fields)).refuse == refuse


@pytest.mark.parametrize(
    "request_fields",
    [
        {"model": []},
        {"stream": "true"},
        {"store": 0},
        {"temperature": [1]},
        {"previous_response_id": 7},
        {"background": "no"},
        {"prompt": "pmpt_1"},
    ],
)
def test_a_field_of_the_wrong_type_makes_the_call_pass(request_fields: Doc) -> None:
    with pytest.raises(ValueError, match="must be"):
        CODEC.facts_of("/", "", fields_of(request_fields))


# --- understanding


def test_the_terminal_event_holds_the_answer() -> None:
    doc = response(message())

    answer = understand_sse(stream_of(doc))

    assert answer.doc == doc
    assert (answer.ending, answer.reason) == (Ending.CLEAN, "completed")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (9, 4, 3)


def test_an_empty_output_is_filled_from_the_items_that_were_done() -> None:
    body = (
        sse(None, {"type": "response.output_item.done", "output_index": 1, "item": CALL})
        + sse(None, {"type": "response.output_item.done", "output_index": 0, "item": REASONING})
        + sse(None, {"type": "response.completed", "response": {"id": "resp_1", "output": [], "usage": USAGE}})
    )

    answer = understand_sse(body)

    assert answer.doc == {
        "object": "response",
        "status": "completed",
        "id": "resp_1",
        "output": [REASONING, CALL],
        "usage": USAGE,
    }
    assert [call.id for call in answer.tool_calls] == ["call_1"]


def test_an_id_that_changes_from_event_to_event_does_not_confuse_items() -> None:
    body = (
        sse(None, {"type": "response.output_item.added", "output_index": 0, "item": message(item_id="a")})
        + sse(None, {"type": "response.output_item.done", "output_index": 0, "item": message(item_id="b")})
        + sse(None, {"type": "response.completed", "response": response()})
        + b"data: [DONE]\n\n"
    )

    assert understand_sse(body).doc["output"] == [message(item_id="b")]


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("max_output_tokens", Ending.TRUNCATED),
        ("content_filter", Ending.REFUSED),
        ("steered", Ending.FAILED),
        (None, Ending.FAILED),
    ],
)
def test_an_incomplete_response_ends_as_its_details_say(reason: str | None, ending: Ending) -> None:
    doc = response(message(), status="incomplete", incomplete_details={"reason": reason})

    whole, streamed = understand_json(doc), understand_sse(stream_of(doc))

    assert (whole.ending, streamed.ending) == (ending, ending)
    assert b"event: response.incomplete\n" in stream_of(doc)
    assert b"response.completed" not in stream_of(doc)


def test_a_refusal_is_no_clean_ending() -> None:
    answer = understand_json(response(message({"type": "refusal", "refusal": "No."})))

    assert (answer.ending, answer.reason) == (Ending.REFUSED, "refusal")


def test_calls_for_the_client_are_told_with_their_arguments() -> None:
    answer = understand_json(
        response(
            CALL,
            {"type": "custom_tool_call", "id": "c", "call_id": "call_2", "name": "exec", "input": "ls"},
            {"type": "local_shell_call", "id": "l", "call_id": "call_3", "action": {"command": ["ls"]}},
            {"type": "shell_call", "id": "s", "call_id": "call_4", "action": {"commands": ["ls"]}},
            {"type": "apply_patch_call", "id": "p", "call_id": "call_5", "operation": {"type": "delete_file"}},
            {"type": "computer_call", "id": "o", "call_id": "call_6", "actions": [{"type": "screenshot"}]},
            {"type": "tool_search_call", "id": "t", "call_id": "call_7", "execution": "client", "arguments": {"q": 1}},
        )
    )

    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("call_1", "read", '{"path": "/home/al/x"}'),
        ("call_2", "exec", "ls"),
        ("call_3", "local_shell", '{"command":["ls"]}'),
        ("call_4", "shell", '{"commands":["ls"]}'),
        ("call_5", "apply_patch", '{"type":"delete_file"}'),
        ("call_6", "computer", '[{"type":"screenshot"}]'),
        ("call_7", "tool_search", '{"q":1}'),
    ]
    assert not answer.provider_tools


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "file_search_call", "id": "fs_1"},
        {"type": "code_interpreter_call", "id": "ci_1"},
        {"type": "image_generation_call", "id": "ig_1"},
        {"type": "mcp_call", "id": "mcp_1"},
        {"type": "mcp_list_tools", "id": "mcpl_1"},
        {"type": "tool_search_call", "id": "ts_1", "execution": "server", "arguments": {}},
        {"type": "shell_call", "id": "sh_1", "call_id": "c", "environment": {"type": "container_reference"}},
        {"type": "something_new", "id": "x"},
    ],
)
def test_tools_of_the_provider_are_noticed_in_either_encoding(item: Doc) -> None:
    doc = response(item, message())

    assert understand_json(doc).provider_tools
    assert understand_sse(stream_of(doc)).provider_tools
    assert not understand_json(response(REASONING, message())).provider_tools


@pytest.mark.parametrize(
    "doc",
    [
        response(message(), status="failed"),
        response(status="queued"),
        response(status="in_progress"),
        response(status="cancelled"),
        response(status=None),
        response(message(), error={"code": "server_error", "message": "no"}),
        {"error": {"message": "no"}},
        {"status": "completed"},
        {"status": "completed", "output": {}},
        {"status": "completed", "output": [7]},
        {"status": "completed", "output": [{"type": "function_call", "call_id": 7}]},
        [],
        None,
    ],
)
def test_a_document_that_is_not_whole_is_not_understood(doc: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        understand_json(doc)


@pytest.mark.parametrize(
    "last",
    [
        b"",
        sse("response.failed", {"type": "response.failed", "response": response(status="failed")}),
        sse("error", {"type": "error", "message": "overloaded"}),
        sse("response.completed", {"type": "response.completed"}),
        sse(None, {"type": "response.completed", "response": response(status="in_progress")}),
        b"event: response.completed\ndata: {\n\n",
    ],
)
def test_a_stream_without_a_good_end_is_not_understood(last: bytes) -> None:
    start = stream_of(response(message())).split(b"event: response.completed\n")[0]

    with pytest.raises(ValueError):  # noqa: PT011
        understand_sse(start + last)


def test_an_item_left_open_or_an_event_after_the_end_is_not_understood() -> None:
    added = sse(None, {"type": "response.output_item.added", "output_index": 0, "item": message()})
    completed = sse(None, {"type": "response.completed", "response": response(message())})
    understand_sse(completed)

    with pytest.raises(ValueError, match="left open"):
        understand_sse(added + completed)
    with pytest.raises(ValueError, match="after the terminal"):
        understand_sse(completed + added)


def test_no_cut_of_a_stream_is_understood() -> None:
    body = stream_of(response(CALL))

    for size in range(len(body) - 1):
        with pytest.raises(ValueError):  # noqa: PT011
            understand_sse(body[:size])


def test_other_encodings_are_refused() -> None:
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.understand([], Encoding.JSON_ARRAY)
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.render(understand_json(response()), Encoding.AWS_EVENT_STREAM, FACTS)


# --- slots


def test_the_deltas_of_a_text_share_a_channel_and_whole_tellings_have_their_own() -> None:
    place: Doc = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    body = (
        sse(None, {"type": "response.output_text.delta", "delta": "/home/al", **place})
        + sse(None, {"type": "response.output_text.delta", "delta": "ice", **place, "item_id": "msg_x"})
        + sse(None, {"type": "response.output_text.delta", "delta": "other", **place, "content_index": 1})
        + sse(None, {"type": "response.output_text.done", "text": "/home/alice", **place})
        + sse(None, {"type": "response.content_part.done", "part": text_part("/home/alice"), **place})
        + sse(None, {"type": "response.output_item.done", "output_index": 0, "item": message(text_part("/home/alice"))})
    )

    texts = [slot for slot in slots_of(body, Encoding.SSE) if slot.kind is SlotKind.TEXT]

    first, second, other, *whole = (slot.channel for slot in texts)
    assert first == second
    assert len({first, other, *whole}) == 5
    assert [value_of(slot) for slot in texts] == ["/home/al", "ice", "other", *["/home/alice"] * 3]


def test_arguments_in_every_shape_are_found() -> None:
    shell: Doc = {"type": "shell_call", "id": "s", "call_id": "call_4", "action": {"commands": ["ls /home/al"]}}
    custom: Doc = {"type": "custom_tool_call", "id": "c", "call_id": "call_2", "name": "exec", "input": "ls"}
    place: Doc = {"output_index": 0, "command_index": 0}
    body = stream_of(response(CALL, custom, shell)) + sse(
        None, {"type": "response.shell_call_command.delta", "delta": "ls -l", **place}
    )

    slots = slots_of(body, Encoding.SSE)

    arguments = [value_of(slot) for slot in slots if slot.kind is SlotKind.ARGUMENTS]
    assert arguments == [CALL["arguments"]] * 3 + ["ls"] * 3 + [CALL["arguments"], "ls", "ls -l"]
    # Announced, done, and in the terminal event.
    assert [value_of(slot) for slot in slots if slot.kind is SlotKind.VALUE] == [shell["action"]] * 3
    assert {value_of(slot) for slot in slots if slot.kind is SlotKind.TOOL_ID} == {"call_1", "call_2", "call_4"}


def test_an_item_bound_to_its_encrypted_content_keeps_its_id_and_the_others_do_not() -> None:
    body = stream_of(response(REASONING, message()))

    slots = slots_of(body, Encoding.SSE)

    assert {value_of(slot) for slot in slots if slot.kind is SlotKind.RESPONSE_ID} == {"resp_1", "msg_1"}
    assert {value_of(slot) for slot in slots if slot.kind is SlotKind.OPAQUE} == {"rs_1", "gAAAAB"}
    # The announcement, which holds no encrypted content yet, is bound as well.
    announced = next(at for at, event in enumerate(events_of(body)) if event["type"] == "response.output_item.added")
    assert [slot.kind for slot in slots if slot.frame == announced] == [SlotKind.OPAQUE]
    assert "I look at /home/al." in [value_of(slot) for slot in slots if slot.kind is SlotKind.TEXT]


def test_an_item_without_encrypted_content_has_a_fresh_id_in_a_document_too() -> None:
    slots = slots_of(dumps(response(REASONING | {"encrypted_content": None}, message())), Encoding.JSON)

    ids = [value_of(slot) for slot in slots if slot.kind is SlotKind.RESPONSE_ID]
    assert ids == ["resp_1", "rs_1", "msg_1"]


def test_echoes_are_marked_where_the_response_repeats_the_request() -> None:
    doc = response(message(), prompt_cache_key="k", previous_response_id="resp_0", user=None, metadata=None)

    slots = slots_of(dumps(doc), Encoding.JSON)

    echoes = {slot.echo_of: value_of(slot) for slot in slots if slot.kind is SlotKind.ECHO}
    assert echoes == {
        "instructions": "Be kind to /home/al.",
        "metadata": None,
        "prompt_cache_key": "k",
        "previous_response_id": "resp_0",
    }


def test_times_are_found_and_unknown_texts_annotations_and_log_probabilities_are_opaque() -> None:
    part = text_part() | {"annotations": [{"type": "file_path"}], "logprobs": [{"token": "He"}]}
    doc = response(message(part) | {"aside": "a"}, completed_at=1700000005, news={"x": "y"})

    slots = slots_of(dumps(doc), Encoding.JSON)

    assert [slot.key for slot in slots if slot.kind is SlotKind.CREATED] == ["created_at", "completed_at"]
    assert {slot.key for slot in slots if slot.kind is SlotKind.OPAQUE} == {"annotations", "logprobs", "aside", "news"}


# --- rendering

TEXTS = st.text(max_size=20)
PARTS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("output_text"), "text": TEXTS},
        optional={
            "annotations": st.lists(st.fixed_dictionaries({"type": st.just("url_citation"), "url": TEXTS}), max_size=2),
            "logprobs": st.lists(st.fixed_dictionaries({"token": TEXTS}), max_size=2),
        },
    ),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": TEXTS}),
    st.fixed_dictionaries({"type": st.just("hologram"), "light": TEXTS}),
)
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("message"), "id": TEXTS, "role": st.just("assistant"), "content": st.lists(PARTS, max_size=3)}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("reasoning"),
            "summary": st.lists(st.fixed_dictionaries({"type": st.just("summary_text"), "text": TEXTS}), max_size=2),
        },
        optional={
            "id": TEXTS,
            "content": st.lists(st.fixed_dictionaries({"type": st.just("reasoning_text"), "text": TEXTS}), max_size=2),
            "encrypted_content": st.one_of(st.none(), TEXTS),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": TEXTS, "name": TEXTS, "arguments": TEXTS},
        optional={"id": TEXTS, "status": st.just("completed")},
    ),
    st.fixed_dictionaries({"type": st.just("custom_tool_call"), "call_id": TEXTS, "name": TEXTS, "input": TEXTS}),
    st.fixed_dictionaries({"type": st.just("web_search_call"), "id": TEXTS, "action": st.dictionaries(TEXTS, TEXTS)}),
)
RESPONSES = st.builds(
    lambda items, ending: response(*items, **ending),
    st.lists(ITEMS, max_size=4),
    st.sampled_from([{}, {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}]),
)


@given(RESPONSES)
def test_an_answer_survives_every_encoding(doc: Doc) -> None:
    answer = understand_json(doc)

    for encoding in (Encoding.JSON, Encoding.SSE):
        body = CODEC.render(answer, encoding, FACTS)
        assert CODEC.understand(frames_of(body, encoding), encoding) == answer


@given(RESPONSES)
def test_the_pieces_of_a_stream_add_up_to_what_it_says_whole(doc: Doc) -> None:
    pieces: dict[tuple[Any, ...], str] = {}
    whole: dict[tuple[Any, ...], str] = {}
    for event in events_of(stream_of(doc)):
        kind, _, last = event["type"].rpartition(".")
        where = (kind, event.get("output_index"), event.get("content_index"), event.get("summary_index"))
        if last == "delta":
            pieces[where] = pieces.get(where, "") + event["delta"]
        elif last == "done" and kind.endswith(("text", "refusal", "arguments", "input")):
            whole[where] = next(event[key] for key in ("text", "refusal", "arguments", "input") if key in event)

    assert pieces == {where: text for where, text in whole.items() if text}


def test_the_events_come_in_the_providers_order_and_are_numbered() -> None:
    body = stream_of(response(REASONING, message(text_part() | {"annotations": [{"type": "file_path"}]}), CALL))

    events = events_of(body)

    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [frame.event for frame in frames_of(body, Encoding.SSE)] == [event["type"] for event in events]


def test_what_is_not_known_at_the_start_is_not_told_at_the_start() -> None:
    doc = response(REASONING, message(), CALL, completed_at=1700000005)

    created, _, *rest = events_of(stream_of(doc))

    assert created["response"] == response(completed_at=None, status="in_progress", usage=None)
    reasoning, said, call = (event["item"] for event in rest if event["type"] == "response.output_item.added")
    assert reasoning == {"id": "rs_1", "type": "reasoning", "summary": []}
    assert said == message() | {"content": [], "status": "in_progress"}
    assert call == CALL | {"arguments": "", "status": "in_progress"}


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


READ: FunctionToolParam = {
    "type": "function",
    "name": "read",
    "strict": True,
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
SDK_DOCS = {
    "text": response(message()),
    "two parts": response(message(text_part("a"), text_part("b"))),
    "tools": response(REASONING, message(), CALL, CALL | {"id": "fc_2", "call_id": "call_2"}),
    "custom tool": response(
        {
            "type": "custom_tool_call",
            "id": "c",
            "call_id": "call_2",
            "name": "exec",
            "input": "ls",
            "status": "completed",
        }
    ),
    "refusal": response(message({"type": "refusal", "refusal": "No."})),
    "shell": response(
        {"type": "shell_call", "id": "s", "call_id": "c", "status": "completed", "action": {"commands": ["ls"]}}
    ),
    "empty": response(),
}


@pytest.mark.parametrize("name", SDK_DOCS)
def test_the_sdk_reads_equal_objects_from_both_encodings(name: str, serve: Callable[[Answer], str]) -> None:
    url = serve(understand_json(SDK_DOCS[name]))

    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        whole = client.responses.parse(model="gpt-5", input="hi", tools=[READ])
        with client.responses.stream(model="gpt-5", input="hi", tools=[READ]) as stream:
            streamed = stream.get_final_response()

    assert streamed.to_dict() == whole.to_dict()
    assert streamed.usage is not None
    assert (streamed.id, streamed.status, streamed.usage.total_tokens) == ("resp_1", "completed", 13)
    assert [item.type for item in streamed.output] == [item["type"] for item in SDK_DOCS[name]["output"]]


async def test_the_asynchronous_sdk_parses_structured_output(serve: Callable[[Answer], str]) -> None:
    url = serve(understand_json(response(message(text_part('{"city": "Ulm", "degrees": 7}')))))

    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
        whole = await client.responses.parse(model="gpt-5", input="hi", text_format=Weather)
        async with client.responses.stream(model="gpt-5", input="hi", text_format=Weather) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()

    assert whole.output_parsed == Weather(city="Ulm", degrees=7)
    assert streamed.output_parsed == Weather(city="Ulm", degrees=7)
    assert "response.output_text.delta" in kinds
