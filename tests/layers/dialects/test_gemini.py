"""The answer side of Gemini, with the official SDK as the judge of what we write."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import msgspec
import pytest
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from promptweir.layers.contract import Answer, Encoding, Ending, Facts, Fields, Json, ToolCall, Usage
from promptweir.layers.dialects.gemini import COUNT, GENERATE
from promptweir.layers.frames import SlotKind
from promptweir.layers.wire import dumps, frames_of

FACTS = Facts(model="gemini-x", encoding=Encoding.JSON)
ENCODINGS = [Encoding.JSON, Encoding.SSE, Encoding.JSON_ARRAY]
PATH = "/v1beta/models/gemini-x"

type Doc = dict[str, Json]


def fields_of(**body: Json) -> Fields:
    return {name: msgspec.Raw(dumps(value)) for name, value in body.items()}


def chunk(*parts: Json, reason: str | None = None, index: int = 0, **more: Json) -> Doc:
    candidate: Doc = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if reason is not None:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "resp-1", **more}


def in_sse(*chunks: Json) -> bytes:
    return b"".join(b"data: " + dumps(one) + b"\r\n\r\n" for one in chunks)


def in_array(*chunks: Json) -> bytes:
    """Lay chunks out as Google does: an array whose elements arrive one by one."""
    return b"[" + b"\n,\r\n".join(dumps(one) for one in chunks) + b"\n]\n"


def understand(body: bytes, encoding: Encoding) -> Answer:
    return GENERATE.understand(frames_of(body, encoding), encoding)


def marked(body: bytes, encoding: Encoding) -> list[tuple[SlotKind, str, Json]]:
    found = GENERATE.slots(frames_of(body, encoding), encoding)
    return [(slot.kind, slot.channel, slot.container[slot.key]) for slot in found]  # type: ignore[index]


# --- whatever an answer may hold, as hypothesis sees it

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ARGS: st.SearchStrategy[Json] = st.dictionaries(
    WORDS, st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS, st.lists, max_leaves=5)
)
PARTS = st.one_of(
    st.builds(lambda words: {"text": words}, WORDS),
    st.builds(lambda words: {"text": words, "thought": True}, WORDS),
    st.builds(lambda words: {"text": words, "thoughtSignature": "U0lH"}, WORDS),
    st.builds(lambda args: {"functionCall": {"name": "read", "args": args}}, ARGS),
    st.builds(lambda args: {"functionCall": {"id": "c1", "name": "r", "args": args}, "thoughtSignature": "U0lH"}, ARGS),
    st.just({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
    st.just({"executableCode": {"language": "PYTHON", "code": "print(1)"}}),
    st.just({"yetToCome": {"path": "/p"}}),
)
CANDIDATES = st.builds(
    lambda parts, reason, more: {"content": {"parts": parts, "role": "model"}, "finishReason": reason, **more},
    st.lists(PARTS, max_size=5),
    st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL"]),
    st.fixed_dictionaries(
        {}, optional={"avgLogprobs": st.floats(-9, 0), "citationMetadata": st.just({"citations": []})}
    ),
)
DOCS = st.builds(
    lambda candidates, more: {
        "candidates": [{**candidate, "index": index} for index, candidate in enumerate(candidates)],
        **more,
    },
    st.lists(CANDIDATES, min_size=1, max_size=3),
    st.fixed_dictionaries(
        {"modelVersion": st.just("gemini-x")},
        optional={
            "responseId": st.just("resp-1"),
            "usageMetadata": st.just({"promptTokenCount": 3, "candidatesTokenCount": 4}),
            "promptFeedback": st.just({}),
        },
    ),
)


@given(DOCS, st.sampled_from(ENCODINGS))
def test_an_answer_survives_every_encoding(doc: Doc, encoding: Encoding) -> None:
    answer = understand(dumps(doc), Encoding.JSON)

    again = understand(GENERATE.render(answer, encoding, FACTS), encoding)

    assert again == answer
    assert again.doc == doc


@given(DOCS, st.sampled_from(ENCODINGS), st.data())
def test_an_answer_cut_anywhere_is_not_an_answer(doc: Doc, encoding: Encoding, data: st.DataObject) -> None:
    body = GENERATE.render(understand(dumps(doc), Encoding.JSON), encoding, FACTS)
    cut = data.draw(st.integers(0, len(body) - 1))

    # All but the last line end of an SSE event make it complete already: CR LF CR is a blank line as well.
    if encoding is Encoding.SSE and cut == len(body) - 1:
        return
    with pytest.raises(ValueError, match=r"."):
        understand(body[:cut], encoding)


@given(st.lists(WORDS, min_size=1, max_size=6), st.sampled_from([Encoding.SSE, Encoding.JSON_ARRAY]))
def test_text_is_the_same_however_it_was_streamed(words: list[str], encoding: Encoding) -> None:
    chunks: list[Json] = [chunk({"text": word}) for word in words]
    chunks.append(chunk({"text": "!"}, reason="STOP"))
    body = in_sse(*chunks) if encoding is Encoding.SSE else in_array(*chunks)

    assert understand(body, encoding).doc == chunk({"text": "".join(words) + "!"}, reason="STOP")


CHUNKS: list[Json] = [
    chunk({"text": "I think", "thought": True}, usageMetadata={"promptTokenCount": 9}),
    chunk({"text": " so", "thought": True}),
    chunk({"text": "In /home/al"}),
    chunk({"text": "ice/app"}),
    chunk({"functionCall": {"id": "c1", "name": "read", "args": {"path": "/p"}}, "thoughtSignature": "U0lH"}),
    chunk({"functionCall": {"name": "list", "args": {"dir": "/d", "n": [1, "/e"]}}}),
    chunk({"text": "done"}),
    chunk(
        {"text": "", "thoughtSignature": "VElH"},
        reason="STOP",
        usageMetadata={
            "promptTokenCount": 10,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 2,
            "cachedContentTokenCount": 4,
            "totalTokenCount": 17,
        },
    ),
]


@pytest.mark.parametrize("encoding", [Encoding.SSE, Encoding.JSON_ARRAY])
def test_a_provider_stream_is_understood_as_the_answer_it_tells(encoding: Encoding) -> None:
    answer = understand(in_sse(*CHUNKS) if encoding is Encoding.SSE else in_array(*CHUNKS), encoding)

    assert answer.doc["candidates"] == [
        {
            "content": {
                "parts": [
                    {"text": "I think so", "thought": True},
                    {"text": "In /home/alice/app"},
                    {"functionCall": {"id": "c1", "name": "read", "args": {"path": "/p"}}, "thoughtSignature": "U0lH"},
                    {"functionCall": {"name": "list", "args": {"dir": "/d", "n": [1, "/e"]}}},
                    {"text": "done"},
                    {"text": "", "thoughtSignature": "VElH"},
                ],
                "role": "model",
            },
            "index": 0,
            "finishReason": "STOP",
        }
    ]
    assert (answer.ending, answer.reason, answer.provider_tools) == (Ending.CLEAN, "STOP", False)
    assert answer.tool_calls == (
        ToolCall(id="c1", name="read", arguments='{"path":"/p"}'),
        ToolCall(id="", name="list", arguments='{"dir":"/d","n":[1,"/e"]}'),
    )
    assert answer.usage == Usage(input_tokens=10, output_tokens=7, cached_tokens=4)


def test_candidates_are_told_apart_in_a_stream() -> None:
    body = in_sse(
        chunk({"text": "a"}),
        chunk({"text": "x"}, index=1),
        chunk({"text": "b"}, reason="STOP"),
        chunk({"text": "y"}, reason="MAX_TOKENS", index=1),
    )

    answer = understand(body, Encoding.SSE)

    both = [chunk({"text": "ab"}, reason="STOP"), chunk({"text": "xy"}, reason="MAX_TOKENS", index=1)]
    assert answer.doc["candidates"] == [candidate_of(one) for one in both]
    assert (answer.ending, answer.reason) == (Ending.TRUNCATED, "MAX_TOKENS")


def candidate_of(doc: Json) -> Doc:
    match doc:
        case {"candidates": [dict(candidate)]}:
            return candidate
        case _:
            raise AssertionError("there is not exactly one candidate")


def test_log_probabilities_of_a_stream_are_strung_together() -> None:
    chunks = [chunk({"text": token}, reason="STOP") for token in "ab"]
    for one, token in zip(chunks, "ab", strict=True):
        candidate_of(one)["logprobsResult"] = {"chosenCandidates": [{"token": token}]}

    candidate = candidate_of(understand(in_sse(*chunks), Encoding.SSE).doc)

    assert candidate["logprobsResult"] == {"chosenCandidates": [{"token": "a"}, {"token": "b"}]}


def test_reading_and_writing_leave_the_frames_alone() -> None:
    frames = frames_of(in_sse(*CHUNKS), Encoding.SSE)

    answer = GENERATE.understand(frames, Encoding.SSE)
    told = dumps(answer.doc)
    GENERATE.render(answer, Encoding.SSE, FACTS)
    GENERATE.slots(frames, Encoding.SSE)

    assert [frame.doc for frame in frames] == CHUNKS
    assert dumps(answer.doc) == told


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"", Encoding.SSE),
        (in_sse(*CHUNKS[:-1]), Encoding.SSE),
        (in_array(*CHUNKS[:-1]), Encoding.JSON_ARRAY),
        (in_array(*CHUNKS)[:-2], Encoding.JSON_ARRAY),
        (b"[]", Encoding.JSON_ARRAY),
        (b"{}", Encoding.JSON),
        (b"[7]", Encoding.JSON_ARRAY),
        (dumps(chunk({"text": "a"}, reason="STOP")), Encoding.JSON_ARRAY),
        (in_array(*CHUNKS), Encoding.JSON),
        (dumps({"error": {"code": 503}}), Encoding.JSON),
        (dumps(chunk({"text": "a"})), Encoding.JSON),
        (dumps(chunk({"text": "a"}, reason="FINISH_REASON_UNSPECIFIED")), Encoding.JSON),
        (dumps(chunk("a", reason="STOP")), Encoding.JSON),
        (dumps({"candidates": {}, "modelVersion": "x"}), Encoding.JSON),
        (dumps(chunk({"functionCall": {"id": "c"}}, reason="STOP")), Encoding.JSON),
        (dumps(chunk({"functionCall": {"name": "f", "willContinue": True}}, reason="STOP")), Encoding.JSON),
        (in_sse(*CHUNKS, {"error": {"code": 503}}), Encoding.SSE),
        (in_sse(*CHUNKS) + b"data: garbage\r\n\r\n", Encoding.SSE),
        (in_sse(*CHUNKS, chunk({"text": "a"}, index=1)), Encoding.SSE),
    ],
)
def test_what_is_not_whole_is_refused(body: bytes, encoding: Encoding) -> None:
    with pytest.raises(ValueError, match=r"."):
        understand(body, encoding)


@pytest.mark.parametrize(
    ("doc", "ending"),
    [
        (chunk({"text": "a"}, reason="STOP"), Ending.CLEAN),
        (chunk({"text": "a"}, reason="MAX_TOKENS"), Ending.TRUNCATED),
        (chunk({"text": "a"}, reason="SAFETY"), Ending.REFUSED),
        (chunk({"text": "a"}, reason="RECITATION"), Ending.REFUSED),
        (chunk({"text": "a"}, reason="PROHIBITED_CONTENT"), Ending.REFUSED),
        (chunk({"text": "a"}, reason="BLOCKLIST"), Ending.REFUSED),
        (chunk({"text": "a"}, reason="SPII"), Ending.REFUSED),
        (chunk({"text": "a"}, reason="MALFORMED_FUNCTION_CALL"), Ending.FAILED),
        (chunk({"text": "a"}, reason="YET_TO_COME"), Ending.FAILED),
        (chunk(reason="STOP"), Ending.FAILED),
        (chunk({"text": "hm", "thought": True}, {"text": ""}, reason="STOP"), Ending.FAILED),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, Ending.REFUSED),
        ({"candidates": [{"finishReason": "SAFETY", "index": 0}]}, Ending.REFUSED),
    ],
    ids=repr,
)
def test_finish_reasons_are_told_apart(doc: Doc, ending: Ending) -> None:
    assert understand(dumps(doc), Encoding.JSON).ending is ending


@pytest.mark.parametrize(
    ("doc", "seen"),
    [
        (chunk({"executableCode": {"code": "1"}}, reason="STOP"), True),
        (chunk({"codeExecutionResult": {"output": "1"}}, reason="STOP"), True),
        (
            {
                "candidates": [
                    {"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP", "groundingMetadata": {"q": [1]}}
                ]
            },
            True,
        ),
        (
            {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP", "groundingMetadata": {}}]},
            False,
        ),
        (chunk({"functionCall": {"name": "f"}}, reason="STOP"), False),
    ],
    ids=repr,
)
def test_the_providers_own_tools_are_seen(doc: Doc, seen: bool) -> None:
    assert understand(dumps(doc), Encoding.JSON).provider_tools is seen


# --- slots


@pytest.mark.parametrize("encoding", [Encoding.SSE, Encoding.JSON_ARRAY])
def test_slots_of_a_stream_string_runs_of_text_together(encoding: Encoding) -> None:
    body = in_sse(*CHUNKS) if encoding is Encoding.SSE else in_array(*CHUNKS)

    found = [one for one in marked(body, encoding) if one[0] is not SlotKind.RESPONSE_ID]

    assert found == [
        (SlotKind.TOOL_ID, "", "c1"),
        (SlotKind.SIGNED_TEXT, "", "read"),
        (SlotKind.SIGNED_TEXT, "", "/p"),
        (SlotKind.OPAQUE, "", "U0lH"),
        (SlotKind.SIGNED_TEXT, "", "list"),
        (SlotKind.VALUE, "", {"dir": "/d", "n": [1, "/e"]}),
        (SlotKind.OPAQUE, "", "VElH"),
        (SlotKind.TEXT, "text:0:0", "I think"),
        (SlotKind.TEXT, "text:0:0", " so"),
        (SlotKind.TEXT, "text:0:1", "In /home/al"),
        (SlotKind.TEXT, "text:0:1", "ice/app"),
        (SlotKind.TEXT, "text:0:2", "done"),
        (SlotKind.TEXT, "text:0:2", ""),
    ]
    assert sum(kind is SlotKind.RESPONSE_ID for kind, _, _ in marked(body, encoding)) == len(CHUNKS)


def test_a_run_of_text_with_a_signed_word_is_signed_as_a_whole() -> None:
    body = in_sse(chunk({"text": "/home/al"}), chunk({"text": "ice", "thoughtSignature": "U0lH"}, reason="STOP"))

    assert [one for one in marked(body, Encoding.SSE) if one[1]] == [
        (SlotKind.SIGNED_TEXT, "text:0:0", "/home/al"),
        (SlotKind.SIGNED_TEXT, "text:0:0", "ice"),
    ]


PROTOCOL_WORDS = frozenset(("modelVersion", "role", "finishReason"))


@given(DOCS, st.sampled_from(ENCODINGS))
def test_no_string_of_an_answer_is_left_unmarked(doc: Doc, encoding: Encoding) -> None:
    frames = frames_of(GENERATE.render(understand(dumps(doc), Encoding.JSON), encoding, FACTS), encoding)
    for slot in GENERATE.slots(frames, encoding):
        slot.container[slot.key] = None  # type: ignore[index]

    left = [frame.doc for frame in frames]
    while left:
        match left.pop():
            case dict() as members:
                left.extend(value for name, value in members.items() if name not in PROTOCOL_WORDS)
            case list() as items:
                left.extend(items)
            case str() as words:
                assert words == ""


# --- requests


@pytest.mark.parametrize(
    ("path", "query", "model", "encoding"),
    [
        (f"{PATH}:generateContent", "", "gemini-x", Encoding.JSON),
        (f"{PATH}:generateContent", "key=AIza&alt=json", "gemini-x", Encoding.JSON),
        (f"{PATH}:streamGenerateContent", "alt=sse", "gemini-x", Encoding.SSE),
        (f"{PATH}:streamGenerateContent", "key=k&%24alt=sse", "gemini-x", Encoding.SSE),
        (f"{PATH}%3AstreamGenerateContent", "", "gemini-x", Encoding.JSON_ARRAY),
        ("/v1/projects/p/locations/l/publishers/google/models/g@1:generateContent", "", "g@1", Encoding.JSON),
        ("/v1beta/tunedModels/mine:generateContent", "", "mine", Encoding.JSON),
    ],
)
def test_path_and_query_decide(path: str, query: str, model: str, encoding: Encoding) -> None:
    facts = GENERATE.facts_of(path, query, fields_of(contents=[], generationConfig={"temperature": 0.5}))

    assert facts == Facts(model=model, encoding=encoding, temperature=0.5)


@pytest.mark.parametrize(
    ("path", "query", "config", "reason"),
    [
        ("/v1internal:streamGenerateContent", "alt=sse", {}, "wrapped"),
        (f"{PATH}:generateContent", "alt=sse", {}, "alt"),
        (f"{PATH}:streamGenerateContent", "alt=proto", {}, "alt"),
        (f"{PATH}:generateContent", "fields=candidates", {}, "alt"),
        (f"{PATH}:generateContent", "callback=f", {}, "alt"),
        (f"{PATH}:generateContent", "", {"responseModalities": ["TEXT", "IMAGE"]}, "media-output"),
        (f"{PATH}:generateContent", "", {"responseModalities": ["TEXT"]}, None),
    ],
)
def test_calls_that_we_cannot_answer_rightly_say_why(path: str, query: str, config: Doc, reason: str | None) -> None:
    assert GENERATE.facts_of(path, query, fields_of(model="m", generationConfig=config)).refuse == reason


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/models/gemini-x", {}),
        (f"{PATH}:embedContent", {}),
        (f"{PATH}:countTokens", {}),
        (f"{PATH}:generateContent", {"generationConfig": []}),
        (f"{PATH}:generateContent", {"generationConfig": {"temperature": "hot"}}),
        (f"{PATH}:generateContent", {"generation_config": {"temperature": [1]}}),
        (f"{PATH}:generateContent", {"generationConfig": {"responseModalities": "TEXT"}}),
    ],
    ids=repr,
)
def test_a_request_of_a_wrong_shape_is_refused(path: str, body: Doc) -> None:
    with pytest.raises(ValueError, match=r"."):
        GENERATE.facts_of(path, "", fields_of(**body))


# --- the SDK


@contextmanager
def provider(bodies: dict[str, tuple[str, bytes]]) -> Iterator[genai.Client]:
    """Serve a body for each method, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            content_type, body = bodies[self.path.rpartition(":")[2]]
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
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{server.server_port}")
    try:
        yield genai.Client(api_key="fake", vertexai=False, http_options=options)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "doc",
    [
        understand(in_sse(*CHUNKS), Encoding.SSE).doc,
        chunk({"text": "ünïcode \u2028 and\nlines"}, reason="STOP"),
        chunk({"text": "cut"}, reason="MAX_TOKENS"),
        {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "gemini-x"},
    ],
    ids=["rich", "text", "truncated", "blocked"],
)
def test_the_sdk_sees_the_same_answer_streamed_and_whole(doc: Doc) -> None:
    answer = understand(dumps(doc), Encoding.JSON)
    bodies = {
        "generateContent": ("application/json", GENERATE.render(answer, Encoding.JSON, FACTS)),
        "streamGenerateContent?alt=sse": ("text/event-stream", GENERATE.render(answer, Encoding.SSE, FACTS)),
    }

    with provider(bodies) as client:
        whole = client.models.generate_content(model="gemini-x", contents="hi")
        (streamed,) = client.models.generate_content_stream(model="gemini-x", contents="hi")

    # What the SDK notes about its own call: the HTTP headers, and a list that it sets on plain calls only.
    notes = {"sdk_http_response", "automatic_function_calling_history"}
    assert streamed.model_dump(exclude=notes) == whole.model_dump(exclude=notes)
    assert len(whole.candidates or []) == len(answer.doc.get("candidates") or [])  # type: ignore[arg-type]
    assert (whole.text or "") == ("In /home/alice/appdone" if answer.tool_calls else text_of(doc))


def text_of(doc: Doc) -> Json:
    match doc:
        case {"candidates": [{"content": {"parts": [{"text": words}]}}]}:
            return words
        case _:
            return ""


# --- countTokens


def test_a_token_count_is_understood_written_and_served_to_the_sdk() -> None:
    frames = frames_of(b'{"totalTokens": 31, "promptTokensDetails": []}', Encoding.JSON)
    answer = COUNT.understand(frames, Encoding.JSON)

    with provider({"countTokens": ("application/json", COUNT.render(answer, Encoding.JSON, FACTS))}) as client:
        counted = client.models.count_tokens(model="gemini-x", contents="hi")

    assert counted.total_tokens == 31
    assert (answer.ending, answer.usage) == (Ending.CLEAN, Usage())
    assert COUNT.slots(frames, Encoding.JSON) == []


def test_a_call_to_count_names_its_model_in_the_path() -> None:
    assert COUNT.facts_of(f"{PATH}:countTokens", "", {}) == Facts(model="gemini-x", encoding=Encoding.JSON)
    assert COUNT.facts_of("/v1internal:countTokens", "", {}).refuse == "wrapped"
    assert COUNT.facts_of(f"{PATH}:countTokens", "alt=proto", {}).refuse == "alt"
    with pytest.raises(ValueError, match="countTokens"):
        COUNT.facts_of(f"{PATH}:generateContent", "", {})


@pytest.mark.parametrize(
    "body", [b"{}", b'{"totalTokens": "7"}', b'{"totalTokens": true}', b"[]", b"", b'{"error":{}}']
)
def test_what_is_no_token_count_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        COUNT.understand(frames_of(body, Encoding.JSON), Encoding.JSON)
