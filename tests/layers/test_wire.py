import base64
import binascii
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from promptweir.layers.contract import Encoding, Json
from promptweir.layers.frames import Frame
from promptweir.layers.wire import aws_message, dumps, events, frames_of, join, loads, sse

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON: st.SearchStrategy[Json] = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=2)
SSE_PIECES = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"data:", b"data: ", b"data", b"event: x", b":", b" ", b"id: 7"),
        *(b"{}", b'{"a":', b"1}", b"[DONE]", b"\xef\xbb\xbf", b"\xff", b"\x0b", "\u2028".encode()),
    ]
)
SSE_BODIES = st.lists(SSE_PIECES, max_size=40).map(b"".join) | st.binary(max_size=200)


WORDS_WITH_LINE_ENDS = st.text(st.sampled_from("ab\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))


def sse_by_the_standard(body: bytes) -> list[tuple[str, str]]:
    """WHATWG HTML 9.2.6, letter by letter, as an oracle."""
    text = body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    found: list[tuple[str, str]] = []
    event, data = "", ""
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                found.append((event, data[:-1]))
            event, data = "", ""
            continue
        name, colon, value = line.partition(":")
        if colon and not name:
            continue
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data += value + "\n"
    return found


def edited(frame: Frame, doc: Json) -> Frame:
    return Frame(raw=frame.raw, event=frame.event, doc=doc, dirty=True)


@given(SSE_BODIES)
@example(b"\xef\xbb\xbf")
@example(b"\xef\xbb\xbf\n\xef\xbb\xbf\n")
@example(b"data: {}\r\r\ndata: {}\n\r\n")
def test_sse_frames_hold_every_byte_of_the_body(body: bytes) -> None:
    frames = frames_of(body, Encoding.SSE)

    assert b"".join(frame.raw for frame in frames) == body
    assert join(frames, Encoding.SSE) == body


@given(SSE_BODIES)
def test_sse_is_read_as_the_standard_says(body: bytes) -> None:
    seen = [(frame.event or "", frame.doc) for frame in frames_of(body, Encoding.SSE) if frame.doc is not None]

    wanted = []
    for event, data in sse_by_the_standard(body):
        try:
            doc = loads(data.encode())
        except ValueError:
            continue
        if doc is not None and "\ufffd" not in data:
            wanted.append((event, doc))
    assert seen == wanted


@given(st.binary(max_size=300), st.sampled_from(list(Encoding)))
def test_any_body_in_any_encoding_is_held_whole_and_nothing_is_raised(body: bytes, encoding: Encoding) -> None:
    assert join(frames_of(body, encoding), encoding) == body


@given(st.lists(OBJECTS, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_come_back_under_every_line_end(docs: list[Json], end: bytes) -> None:
    body = b"".join(b"event: e" + end + b"data: " + dumps(doc) + end + end for doc in docs)

    frames = frames_of(body, Encoding.SSE)

    assert [frame.doc for frame in frames] == docs
    assert all(frame.event == "e" for frame in frames)


def test_data_over_several_lines_is_one_document() -> None:
    (frame,) = frames_of(b'data: {"a":\ndata:1,\ndata: "b": "c"}\n\n', Encoding.SSE)

    assert frame.doc == {"a": 1, "b": "c"}


def test_a_tail_without_its_blank_line_has_bytes_but_no_document() -> None:
    frames = frames_of(b'data: {"a":1}\n\ndata: {"b":2}\n', Encoding.SSE)

    assert [frame.doc for frame in frames] == [{"a": 1}, None]
    with pytest.raises(ValueError, match="frame 1"):
        list(events(frames, Encoding.SSE))


@pytest.mark.parametrize("idle", [b": keep-alive\n\n", b"\n", b"event: x\n\n", b"data: [DONE]\n\n", b"data: [DONE]\n"])
def test_idle_frames_are_skipped_by_readers(idle: bytes) -> None:
    frames = frames_of(b'data: {"a":1}\n\n' + idle, Encoding.SSE)

    assert list(events(frames, Encoding.SSE)) == [(0, {"a": 1})]


@pytest.mark.parametrize(
    "broken", [b"data: {]\n\n", b"data: 7\n\n", b"data: null\n\n", b'data: "\xff"\n\n', b"data: [1"]
)
def test_data_that_is_no_object_is_refused_by_readers(broken: bytes) -> None:
    with pytest.raises(ValueError, match="no JSON object"):
        list(events(frames_of(broken, Encoding.SSE), Encoding.SSE))


@given(OBJECTS, OBJECTS, st.sampled_from([None, "delta"]))
def test_only_a_changed_event_is_written_anew(before: Json, after: Json, event: str | None) -> None:
    body = b": hi\n\n" + sse(event, before) + b'data:{ "untouched" : 1 }\r\n\r\n'
    frames = frames_of(body, Encoding.SSE)
    frames[1] = edited(frames[1], after)

    written = join(frames, Encoding.SSE)

    assert written == b": hi\n\n" + sse(event, after) + b'data:{ "untouched" : 1 }\r\n\r\n'


def test_a_changed_event_keeps_its_other_lines_and_its_line_ends() -> None:
    body = b'\xef\xbb\xbfevent: a\r\ndata: {"x":\r\nid: 9\r\ndata: 1}\r\n: c\r\n\r\n'
    (frame,) = frames_of(body, Encoding.SSE)

    written = join([edited(frame, {"x": 2})], Encoding.SSE)

    assert written == b'\xef\xbb\xbfevent: a\r\ndata: {"x":2}\r\nid: 9\r\n: c\r\n\r\n'


@given(WORDS_WITH_LINE_ENDS, WORDS_WITH_LINE_ENDS)
def test_data_is_one_line_for_those_who_split_at_every_line_end_of_unicode(before: str, after: str) -> None:
    body = sse("e", {"text": before})
    (frame,) = frames_of(body, Encoding.SSE)

    changed = join([edited(frame, {"text": after})], Encoding.SSE)

    assert frame.doc == {"text": before}
    for written, words in ((body, before), (changed, after)):
        first, second, third = written.decode().splitlines()
        assert (first, loads(second.removeprefix("data: ").encode()), third) == ("event: e", {"text": words}, "")


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.JSON_ARRAY])
def test_a_json_body_is_one_frame(encoding: Encoding) -> None:
    body = b'[ {"a": 1.0},\r\n {"a": 2} ]'
    (frame,) = frames_of(body, encoding)

    assert frame.doc == [{"a": 1.0}, {"a": 2}]
    assert join([edited(frame, [3])], encoding) == b"[3]"


# --- AWS event stream: an encoder of our own as the oracle, written from the format's description


def aws_bytes(headers: bytes, payload: bytes) -> bytes:
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head = lengths + struct.pack(">I", binascii.crc32(lengths)) + headers + payload
    return head + struct.pack(">I", binascii.crc32(head))


def aws_header(name: str, kind: int, value: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + bytes([kind]) + value


def aws_text(name: str, value: str) -> bytes:
    return aws_header(name, 7, struct.pack(">H", len(value)) + value.encode())


ODD_HEADERS = b"".join(
    [
        aws_header("yes", 0, b""),
        aws_header("no", 1, b""),
        aws_header("byte", 2, b"1"),
        aws_header("short", 3, b"12"),
        aws_header("int", 4, b"1234"),
        aws_header("long", 5, b"12345678"),
        aws_header("blob", 6, struct.pack(">H", 3) + b"\xff\x00\n"),
        aws_header("when", 8, b"12345678"),
        aws_header("uuid", 9, b"0123456789abcdef"),
        aws_text(":event-type", "chunk"),
        aws_text(":message-type", "event"),
    ]
)


def bedrock_chunk(doc: Json, padding: str = "abcdef") -> bytes:
    inner = base64.b64encode(dumps(doc)).decode()
    return aws_bytes(ODD_HEADERS, dumps({"bytes": inner, "p": padding}))


@given(st.lists(OBJECTS, max_size=4))
def test_aws_messages_carry_the_inner_events(docs: list[Json]) -> None:
    body = b"".join(bedrock_chunk(doc) for doc in docs)

    frames = frames_of(body, Encoding.AWS_EVENT_STREAM)

    assert [frame.doc for frame in frames] == docs
    assert b"".join(frame.raw for frame in frames) == body


def test_an_aws_message_of_ours_is_read_like_bedrocks() -> None:
    (frame,) = frames_of(aws_message({"type": "ping"}), Encoding.AWS_EVENT_STREAM)

    assert (frame.event, frame.doc) == ("ping", {"type": "ping"})


@given(OBJECTS, OBJECTS)
def test_a_changed_aws_message_keeps_headers_and_padding_and_gets_fresh_checksums(before: Json, after: Json) -> None:
    body = bedrock_chunk({"type": "a"}) + bedrock_chunk(before)
    frames = frames_of(body, Encoding.AWS_EVENT_STREAM)
    frames[1] = edited(frames[1], after)

    written = join(frames, Encoding.AWS_EVENT_STREAM)

    assert written == bedrock_chunk({"type": "a"}) + bedrock_chunk(after)


@given(st.data())
def test_one_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    body = bedrock_chunk({"type": "a"}) + bedrock_chunk({"type": "b"})
    at = data.draw(st.integers(0, len(body) * 8 - 1))
    flipped = bytearray(body)
    flipped[at // 8] ^= 1 << at % 8

    frames = frames_of(bytes(flipped), Encoding.AWS_EVENT_STREAM)

    assert join(frames, Encoding.AWS_EVENT_STREAM) == bytes(flipped)
    with pytest.raises(ValueError, match="no JSON object"):
        list(events(frames, Encoding.AWS_EVENT_STREAM))


@given(st.data())
def test_a_cut_aws_stream_is_noticed(data: st.DataObject) -> None:
    first = bedrock_chunk({"type": "a"})
    body = first + bedrock_chunk({"type": "b"})
    cut = data.draw(st.integers(1, len(body) - 1).filter(lambda size: size != len(first)))

    with pytest.raises(ValueError, match="no JSON object"):
        list(events(frames_of(body[:cut], Encoding.AWS_EVENT_STREAM), Encoding.AWS_EVENT_STREAM))


def test_a_wrong_prelude_checksum_is_noticed_though_that_of_the_message_is_right() -> None:
    body = bytearray(bedrock_chunk({"type": "a"}))
    body[8] ^= 1
    body[-4:] = struct.pack(">I", binascii.crc32(body[:-4]))

    (frame,) = frames_of(bytes(body), Encoding.AWS_EVENT_STREAM)

    assert frame.doc is None


def test_an_aws_exception_is_no_event_of_a_dialect() -> None:
    headers = aws_text(":message-type", "exception") + aws_text(":exception-type", "throttlingException")
    (frame,) = frames_of(aws_bytes(headers, b'{"message":"slow down"}'), Encoding.AWS_EVENT_STREAM)

    assert frame.event == "throttlingException"
    assert frame.doc == {"message": "slow down"}


# --- JSON


@given(JSON)
def test_what_is_written_is_read_back(doc: Json) -> None:
    assert loads(dumps(doc)) == doc


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"NaN", b'"\xff"', b'"\\ud800"', b"[" * 100_000, b'{"a":' * 10_000, b"1 2", b"9" * 5000, b"1e999"],
    ids=lambda raw: raw[:8].decode("latin-1"),
)
def test_bad_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        loads(raw)


def test_what_json_cannot_say_is_a_value_error() -> None:
    endless: list[Json] = []
    endless.append(endless)

    beyond: list[Json] = ["\ud800", endless]
    for doc in beyond:
        with pytest.raises(ValueError, match="not expressible"):
            dumps(doc)
