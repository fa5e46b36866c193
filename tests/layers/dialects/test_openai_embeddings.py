"""The answer side of embeddings."""

import base64
import struct
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import msgspec
import openai
import pytest

from promptweir.layers.contract import Answer, Encoding, Ending, Facts, Fields
from promptweir.layers.dialects.base import Codec
from promptweir.layers.dialects.openai_embeddings import CODEC
from promptweir.layers.frames import SlotKind
from promptweir.layers.wire import dumps, frames_of

type Doc = dict[str, Any]
"""A document whose parts a test reaches into without asking for their types."""

FACTS = Facts(model="e", encoding=Encoding.JSON)


def fields_of(request: Doc) -> Fields:
    return msgspec.json.decode(dumps(request), type=dict[str, msgspec.Raw])


def embeddings(*vectors: Any, **extra: Any) -> Doc:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage} | extra


def understand(doc: Any) -> Answer:
    return CODEC.understand(frames_of(dumps(doc), Encoding.JSON), Encoding.JSON)


def test_the_codec_keeps_to_the_contract() -> None:
    codec: Codec = CODEC

    assert codec.dialect == "openai-embeddings"


def test_a_request_is_read_for_its_model_or_azures_deployment() -> None:
    assert CODEC.facts_of("/v1/embeddings", "", fields_of({"model": "e"})) == FACTS
    assert CODEC.facts_of("/openai/deployments/emb/embeddings", "", fields_of({"input": "x"})).model == "emb"
    with pytest.raises(ValueError, match="model must be"):
        CODEC.facts_of("/v1/embeddings", "", fields_of({"model": 1}))


@pytest.mark.parametrize("vector", [[0.25, -1.5], "AACAPgAAwL8="])
def test_a_document_with_vectors_is_a_whole_answer_and_is_written_as_it_was(vector: Any) -> None:
    doc = embeddings(vector, vector)

    answer = understand(doc)

    assert (answer.ending, answer.usage.input_tokens, answer.tool_calls) == (Ending.CLEAN, 5, ())
    assert CODEC.render(answer, Encoding.JSON, FACTS) == dumps(doc)


@pytest.mark.parametrize(
    "doc",
    [{}, [], None, {"data": {}}, {"data": [7]}, {"data": [{"index": 0}]}, {"data": [], "error": {"message": "no"}}],
)
def test_a_document_without_vectors_is_not_understood(doc: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        understand(doc)


def test_embeddings_are_not_streamed() -> None:
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.understand([], Encoding.SSE)
    with pytest.raises(ValueError, match="not sent as"):
        CODEC.render(understand(embeddings([1.0])), Encoding.SSE, FACTS)


def test_vectors_are_opaque_and_ids_of_other_providers_are_fresh() -> None:
    plain = frames_of(dumps(embeddings("AAAA")), Encoding.JSON)
    other = frames_of(dumps(embeddings([1.0], id="embd-1", created=7)), Encoding.JSON)

    assert [(slot.key, slot.kind) for slot in CODEC.slots(plain, Encoding.JSON)] == [("data", SlotKind.OPAQUE)]
    assert [(slot.key, slot.kind) for slot in CODEC.slots(other, Encoding.JSON)][:2] == [
        ("id", SlotKind.RESPONSE_ID),
        ("created", SlotKind.CREATED),
    ]


class _Server(BaseHTTPRequestHandler):
    body: ClassVar[bytes]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Keep the test's output clean."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], str]]:
    """Return a function that puts a body on a loopback port and returns its base URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler: Any = type("Handler", (_Server,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def start(body: bytes) -> str:
        handler.body = body
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_sdk_reads_the_vectors(serve: Callable[[bytes], str]) -> None:
    # The SDK asks for base64 and decodes it.
    packed = base64.b64encode(struct.pack("<2f", 0.25, -1.5)).decode()
    url = serve(CODEC.render(understand(embeddings(packed)), Encoding.JSON, FACTS))

    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        answer = client.embeddings.create(model="e", input="x")

    assert answer.data[0].embedding == [0.25, -1.5]
    assert answer.usage.prompt_tokens == 5
