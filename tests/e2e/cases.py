"""Calls of every dialect, spelled as no serialiser would spell them, and whole answers to them."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import brotli
import zstandard

from promptweir.cli.standin_answers import plan_of
from promptweir.cli.standin_asks import read_ask
from promptweir.cli.standin_side import count, embed, route_of
from promptweir.cli.standin_wire import Api, Layout, write

_ODD = (
    rb'"x_unknown" : {"b":[1e3,-0,1.50,1.0,0.10e+1,12345678901234567890],"a":null,"":"\u00e9\/\ud83d\ude00"},'
    b"\r\n\t "
)
_TEXT = rb"caf\u00e9 " + "é 😀".encode() + rb" \/ \"q\" MARK"


@dataclass(frozen=True, slots=True)
class Case:
    """A call and its answer."""

    name: str
    path: str
    body: bytes
    content_type: str
    chunks: tuple[bytes, ...]

    def marked(self, mark: str) -> bytes:
        """Return the call with *mark* in its text, which makes it another call."""
        return self.body.replace(b"MARK", mark.encode())


def _messages(more: bytes = b"") -> bytes:
    return (
        b'{ "model" : "claude-sonnet-4-5",' + _ODD + b'"max_tokens":1024, "temperature": 1.0 ,' + more
        + b'"messages":[ {"content":"' + _TEXT + b'","role":"user"} ]\n}'
    )  # fmt: skip


def _chat(more: bytes = b"") -> bytes:
    return (
        b'{"messages":[{"role":"user","content":"' + _TEXT + b'"}],' + _ODD + more + b'"top_p":1.0 ,"model":"gpt-5" } '
    )


def _responses(more: bytes = b"") -> bytes:
    return b' {"input": "' + _TEXT + b'",' + _ODD + more + b'"store": false,"model":"gpt-5"}\n'


def _gemini() -> bytes:
    return (
        b'{"contents":[{"role":"user","parts":[{ "text":"'
        + _TEXT
        + b'" }]}],'
        + _ODD
        + b'"generationConfig":{"temperature":1.0}}'
    )


def _embeddings() -> bytes:
    return b'{"input" :["' + _TEXT + b'"],' + _ODD + b'"model":"text-embedding-3-small","dimensions": 8}'


_STREAM = b'"stream" : true ,'
_SONNET = "claude-sonnet-4-5"
_GEMINI_PATH = "/v1beta/models/gemini-2.5-flash:"


def _generated(name: str, path: str, body: bytes, api: Api, layout: Layout) -> Case:
    ask = read_ask(json.loads(body), _SONNET if api is Api.MESSAGES else "gemini-2.5-flash")
    reply = write(plan_of(ask), ask, api, layout, len(body))
    chunks = reply.chunks
    if layout is Layout.JSON:
        chunks = _oddly(reply.doc)
    return Case(name, path, body, reply.content_type, chunks)


def _oddly(doc: object) -> tuple[bytes, ...]:
    """Return *doc* with white space that nobody would write, in two pieces."""
    text = json.dumps(doc, indent=3, separators=(" ,", " :\t"), ensure_ascii=True).encode() + b"\r\n "
    return text[: len(text) // 2], text[len(text) // 2 :]


def _side(name: str, path: str, body: bytes) -> Case:
    make = embed if path.endswith("/embeddings") else count
    return Case(name, path, body, "application/json", _oddly(make(json.loads(body), route_of(path, ""))))


CASES: tuple[Case, ...] = (
    _generated("messages", "/v1/messages?beta=true", _messages(), Api.MESSAGES, Layout.JSON),
    _generated("messages-stream", "/v1/messages", _messages(_STREAM), Api.MESSAGES, Layout.SSE),
    _side("messages-count", "/v1/messages/count_tokens", _messages()),
    _generated("bedrock", f"/model/anthropic.{_SONNET}/invoke", _messages(), Api.MESSAGES, Layout.JSON),
    _generated(
        "bedrock-stream",
        f"/model/anthropic.{_SONNET}/invoke-with-response-stream",
        _messages(),
        Api.MESSAGES,
        Layout.AWS,
    ),
    _generated("chat", "/openai/v1/chat/completions", _chat(), Api.CHAT, Layout.JSON),
    _generated("chat-stream", "/openai/v1/chat/completions", _chat(_STREAM), Api.CHAT, Layout.SSE),
    _generated("responses", "/v1/responses", _responses(), Api.RESPONSES, Layout.JSON),
    _generated("responses-stream", "/v1/responses", _responses(_STREAM), Api.RESPONSES, Layout.SSE),
    _side("embeddings", "/v1/embeddings", _embeddings()),
    _generated("gemini", f"{_GEMINI_PATH}generateContent", _gemini(), Api.GEMINI, Layout.JSON),
    _generated("gemini-stream", f"{_GEMINI_PATH}streamGenerateContent?alt=sse", _gemini(), Api.GEMINI, Layout.SSE),
    _generated("gemini-array", f"{_GEMINI_PATH}streamGenerateContent", _gemini(), Api.GEMINI, Layout.ARRAY),
    _side("gemini-count", f"{_GEMINI_PATH}countTokens", _gemini()),
)
BY_NAME = {case.name: case for case in CASES}


def _gzip(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    packer = zlib.compressobj(wbits=31)
    return (*(packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks), packer.flush())


def _br(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    packer = brotli.Compressor()
    return (*(packer.process(chunk) + packer.flush() for chunk in chunks), packer.finish())


def _zstd(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    packer = zstandard.ZstdCompressor().compressobj()
    block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return (*(packer.compress(chunk) + packer.flush(block) for chunk in chunks), packer.flush())


CODINGS: dict[str, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = {
    "": lambda chunks: chunks,
    "gzip": _gzip,
    "br": _br,
    "zstd": _zstd,
}
