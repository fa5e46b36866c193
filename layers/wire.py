"""Framing: cut the body of an answer into frames, and put frames together again.

Goals
    Every byte of a body belongs to exactly one frame, whatever the body holds: joining untouched frames gives the body
    back.  A frame that was edited is the only one that is written anew.

Plan
    Server-sent events are cut at blank lines by the rules of WHATWG HTML 9.2.6; AWS event-stream messages at their own
    length fields, with both checksums verified; JSON is one frame.  What does not decode (garbage, a cut-off tail, a bad
    checksum) still becomes a frame, with no document, and it is for the dialects to refuse such an answer: `events`
    does it for them.

What it does not do
    It knows no dialect, and it does not parse as bytes arrive: a body is whole when it comes here.
"""

import base64
import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from promptweir.layers.contract import Encoding, Json
from promptweir.layers.frames import Frame

DONE = b"[DONE]"
"""The one piece of SSE data that is not JSON: the end of an OpenAI stream."""

_DECODER = msgspec.json.Decoder()
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = frozenset((b"\n", b"\r\n", b"\r"))

_FALSE_LINE_ENDS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")
"""What Unicode calls a line end and SSE does not, with its JSON escape; the ones below U+0020 JSON escapes anyway."""

# The prelude of an AWS message: total length, length of the headers, CRC32 of these eight bytes; big-endian.
_AWS_PRELUDE = struct.Struct(">III")
_AWS_LENGTHS = struct.Struct(">II")
_AWS_CRC = struct.Struct(">I")
_AWS_STRING = 7
_AWS_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Header value types with a size of their own: booleans, integers, timestamp, UUID.  6 and 7 carry a length."""
_AWS_SIZED_TYPES = (6, 7)


def loads(raw: bytes | msgspec.Raw) -> Json:
    """Decode JSON; everything that is wrong with it is a ``ValueError``."""
    try:
        doc: Json = _DECODER.decode(raw)
    except _BAD_JSON as error:
        raise ValueError(f"not JSON: {error}") from error
    return doc


def dumps(doc: Json) -> bytes:
    """Encode *doc* as compact JSON; the one place where the core writes JSON."""
    try:
        return msgspec.json.encode(doc)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"not expressible as JSON: {error}") from error


def sse(event: str | None, doc: Json, *, line_end: bytes = b"\n") -> bytes:
    """Return *doc* as one server-sent event."""
    name = b"" if event is None else b"event: " + event.encode() + line_end
    return name + _data_line(doc) + line_end + line_end


def aws_message(doc: Json) -> bytes:
    """Return *doc* as one chunk of Bedrock's invoke-with-response-stream.

    Bedrock adds a padding ``p`` that hides the length of tokens from eavesdroppers; a local answer has none to fear.
    """
    headers = b"".join(
        _aws_string_header(name, value)
        for name, value in (
            (":event-type", "chunk"),
            (":content-type", "application/json"),
            (":message-type", "event"),
        )
    )
    return _aws_frame(headers, dumps({"bytes": base64.b64encode(dumps(doc)).decode()}))


def frames_of(body: bytes, encoding: Encoding) -> list[Frame]:
    """Cut *body* into frames; never raises, and the frames' bytes joined are *body*."""
    match encoding:
        case Encoding.SSE:
            return _sse_frames(body)
        case Encoding.AWS_EVENT_STREAM:
            return _aws_frames(body)
        case Encoding.JSON | Encoding.JSON_ARRAY:
            return [Frame(raw=body, doc=_doc_or_none(body))]


def join(frames: list[Frame], encoding: Encoding) -> bytes:
    """Put *frames* together: clean ones as the bytes they came in, dirty ones written anew from their document."""
    return b"".join(_rewritten(frame, encoding) if frame.dirty else frame.raw for frame in frames)


def events(frames: list[Frame], encoding: Encoding) -> Iterator[tuple[int, dict[str, Json]]]:
    """Return index and document of each frame of a stream that carries one.

    Comments, blank lines and ``[DONE]`` are skipped; any other frame without a JSON object, a cut-off tail included,
    raises ``ValueError``.
    """
    for index, frame in enumerate(frames):
        if isinstance(frame.doc, dict):
            yield index, frame.doc
        elif encoding is not Encoding.SSE or frame.doc is not None or not _is_idle(frame):
            raise ValueError(f"frame {index} of the stream holds no JSON object")


def _doc_or_none(data: bytes) -> Json:
    try:
        doc: Json = _DECODER.decode(data)
    except _BAD_JSON:
        return None
    return doc


# --- server-sent events


def _sse_frames(body: bytes) -> list[Frame]:
    frames: list[Frame] = []
    start = 0
    end = len(_BOM) if body.startswith(_BOM) else 0
    event, data = b"", b""
    # bytes.splitlines knows exactly the three line ends of the standard: \n, \r\n and \r.
    for line in body[end:].splitlines(keepends=True):
        end += len(line)
        if line in _LINE_ENDS:
            frames.append(Frame(raw=body[start:end], event=_name(event), doc=_doc_or_none(data) if data else None))
            start = end
            event, data = b"", b""
        elif line.startswith(b"data:"):
            # The line end stays: JSON takes it for white space, as it does the one space after the colon.
            data += line[5:]
        elif line.startswith(b"event:"):
            event = line
    if start < len(body):
        # Without its blank line an event is incomplete, and clients drop it: bytes, but no document.
        frames.append(Frame(raw=body[start:]))
    return frames


def _name(line: bytes) -> str | None:
    return line[6:].rstrip(b"\r\n").removeprefix(b" ").decode("utf-8", "replace") or None


def _is_idle(frame: Frame) -> bool:
    """Tell whether a frame without a document may be skipped: it has no data, or says ``[DONE]``."""
    lines = frame.raw.removeprefix(_BOM).splitlines()
    data = [line for line in lines if line.partition(b":")[0] == b"data"]
    if data:
        return len(data) == 1 and data[0][5:].removeprefix(b" ") == DONE
    return frame.raw.endswith((b"\n", b"\r"))


def _data_line(doc: Json) -> bytes:
    """Return the line ``data: …``, without its end.

    google-genai and others that read lines with httpx split at every line end of Unicode, inside of JSON strings too.
    """
    data = dumps(doc)
    for char, escape in _FALSE_LINE_ENDS:
        data = data.replace(char, escape)
    return b"data: " + data


def _rewritten(frame: Frame, encoding: Encoding) -> bytes:
    match encoding:
        case Encoding.SSE:
            return _sse_rewritten(frame)
        case Encoding.AWS_EVENT_STREAM:
            return _aws_rewritten(frame)
        case Encoding.JSON | Encoding.JSON_ARRAY:
            return dumps(frame.doc)


def _sse_rewritten(frame: Frame) -> bytes:
    """Replace the data of an event by one line; ``event:``, ``id:`` and comments stay as they were."""
    written: list[bytes] = []
    fresh: bytes | None = _data_line(frame.doc)
    for line in frame.raw.splitlines(keepends=True):
        bare = line.rstrip(b"\r\n")
        if bare.removeprefix(_BOM).partition(b":")[0] != b"data":
            written.append(line)
        elif fresh is not None:
            written.append(fresh + line[len(bare) :])
            fresh = None
    if fresh is not None:
        raise ValueError("an event without data cannot have been changed")
    return b"".join(written)


# --- AWS event stream: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html


@dataclass(frozen=True, slots=True)
class _AwsMessage:
    size: int
    headers: bytes
    payload: bytes


def _aws_frames(body: bytes) -> list[Frame]:
    frames: list[Frame] = []
    start = 0
    while start < len(body):
        try:
            message = _aws_parse(body, start)
            frame = _aws_read(body[start : start + message.size], message)
        except ValueError:
            # Nothing after a broken message can be trusted to begin where it seems to.
            frames.append(Frame(raw=body[start:]))
            break
        frames.append(frame)
        start += message.size
    return frames


def _aws_parse(body: bytes, start: int) -> _AwsMessage:
    """Return the message at *start*, both checksums verified."""
    if len(body) - start < _AWS_PRELUDE.size + _AWS_CRC.size:
        raise ValueError("an event-stream message is cut off")
    size, headers_size, prelude_crc = _AWS_PRELUDE.unpack_from(body, start)
    if binascii.crc32(body[start : start + _AWS_LENGTHS.size]) != prelude_crc:
        raise ValueError("the prelude of an event-stream message has a wrong checksum")
    headers_end = start + _AWS_PRELUDE.size + headers_size
    payload_end = start + size - _AWS_CRC.size
    if payload_end < headers_end or start + size > len(body):
        raise ValueError("an event-stream message has impossible lengths")
    if binascii.crc32(body[start:payload_end]) != _AWS_CRC.unpack_from(body, payload_end)[0]:
        raise ValueError("an event-stream message has a wrong checksum")
    return _AwsMessage(size, body[start + _AWS_PRELUDE.size : headers_end], body[headers_end:payload_end])


def _aws_read(raw: bytes, message: _AwsMessage) -> Frame:
    headers = _aws_headers(message.headers)
    payload = _doc_or_none(message.payload)
    if headers.get(":message-type") != "event":
        # An exception ends the stream; its payload is the provider's error, under no event type that a dialect knows.
        return Frame(raw=raw, event=headers.get(":exception-type"), doc=payload)
    inner = _aws_inner(payload)
    kind = inner.get("type") if isinstance(inner, dict) else None
    return Frame(raw=raw, event=kind if isinstance(kind, str) else None, doc=inner)


def _aws_inner(payload: Json) -> Json:
    encoded = payload.get("bytes") if isinstance(payload, dict) else None
    if not isinstance(encoded, str):
        return None
    try:
        return _doc_or_none(base64.b64decode(encoded, validate=True))
    except ValueError:  # binascii.Error is one
        return None


def _aws_headers(block: bytes) -> dict[str, str]:
    """Return the string headers of a message; those of other types are walked over."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name = block[at + 1 : name_end].decode()
            kind = block[name_end]
            at = name_end + 1
            if kind in _AWS_SIZED_TYPES:
                size = int.from_bytes(block[at : at + 2], "big")
                at += 2
            else:
                size = _AWS_FIXED_SIZES[kind]
            if at + size > len(block):
                raise ValueError("a header of an event-stream message is cut off")
            if kind == _AWS_STRING:
                found[name] = block[at : at + size].decode()
            at += size
    except (IndexError, KeyError) as error:
        raise ValueError("the headers of an event-stream message are malformed") from error
    return found


def _aws_rewritten(frame: Frame) -> bytes:
    message = _aws_parse(frame.raw, 0)
    payload = loads(message.payload)
    if not isinstance(payload, dict):
        raise ValueError("an event-stream message without a JSON payload cannot have been changed")
    return _aws_frame(message.headers, dumps({**payload, "bytes": base64.b64encode(dumps(frame.doc)).decode()}))


def _aws_frame(headers: bytes, payload: bytes) -> bytes:
    size = _AWS_PRELUDE.size + len(headers) + len(payload) + _AWS_CRC.size
    lengths = _AWS_LENGTHS.pack(size, len(headers))
    message = lengths + _AWS_CRC.pack(binascii.crc32(lengths)) + headers + payload
    return message + _AWS_CRC.pack(binascii.crc32(message))


def _aws_string_header(name: str, value: str) -> bytes:
    return bytes((len(name),)) + name.encode() + bytes((_AWS_STRING,)) + len(value).to_bytes(2, "big") + value.encode()
