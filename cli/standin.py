"""A provider stand-in: answers like Anthropic, OpenAI and Gemini do, on loopback, without a model and without keys.

Goals: `promptweir demo` can show the whole way of a call on any machine, and tests can ask what reached the provider.
Answers are deterministic (standin_answers), ids are fresh per call as with the real services, and a header or the
``mode`` attribute makes it fail in any way that a provider has been seen to fail (standin_trouble).

Plan: asyncio and the standard library only.  One task per connection reads a request, notes it in ``calls``, answers.
Codex's WebSocket upgrade gets 426, which makes it use POST.  Other paths get what clients were seen to accept: an empty
object for what they post, 404 for what they get.

What this module does not do: HTTP/2, authentication, prompt caching.
"""

import argparse
import asyncio
import hashlib
import json
import ssl
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from promptweir.cli.standin_answers import plan_of
from promptweir.cli.standin_asks import Json, as_map, read_ask
from promptweir.cli.standin_http import MAX_HEAD_BYTES, BadRequest, Request, Response, read_request
from promptweir.cli.standin_parts import compact
from promptweir.cli.standin_side import Kind, Route, count, embed, history_of, models, route_of, with_history
from promptweir.cli.standin_trouble import Trouble, error_body, read_trouble, spoil
from promptweir.cli.standin_wire import Api, Layout, Reply, fresh_headers, write

MAX_CALLS = 200_000  # notes kept; a benchmark makes 100,000
MAX_STORED_RESPONSES = 1_000
STOP_WAIT_S = 2.0


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that reached the stand-in."""

    method: str
    path: str
    query: str
    host: str
    headers: tuple[tuple[str, str], ...]
    body_bytes: int
    body_sha256: str
    at: float
    """Unix time at which the request had been read."""
    llm: bool
    """A generation, a token count, an embedding, or an attempt to open a WebSocket for one."""
    body: bytes = b""
    """Only with ``keep_bodies``."""
    reply_sha256: str = ""
    """Of the reply's body as sent; empty until it has been sent whole."""


class StandIn:
    """The server; ``async with StandIn() as provider`` starts and stops it."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: tuple[Path, Path] | None = None,
        delay_s: float = 0.0,
        chunk_delay_s: float = 0.0,
        *,
        keep_bodies: bool = False,
        log: Path | None = None,
    ) -> None:
        """Prepare; *tls* is (certificate chain, key) in PEM, *log* takes a JSON line per call."""
        self.host = host
        self.port = port
        self.delay_s = delay_s
        self.chunk_delay_s = chunk_delay_s
        self.mode = ""
        """Trouble for every LLM call that brings no ``x-standin-mode`` of its own."""
        self.calls: list[Call] = []
        self._tls = tls
        self._keep_bodies = keep_bodies
        self._log = log
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stored: dict[str, list[Json]] = {}
        self._replies: dict[str, Json] = {}
        self._once: set[str] = set()

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:PORT``, or https."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def llm_calls(self) -> list[Call]:
        """The calls that a provider would have billed, in order."""
        return [call for call in self.calls if call.llm]

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one."""
        context = None
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            context.set_alpn_protocols(["http/1.1"])
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=context, limit=MAX_HEAD_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop what is open."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_WAIT_S)

    async def __aenter__(self) -> "StandIn":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            writer.transport.abort()  # the client left, or we stop
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = await read_request(reader, writer)
            except BadRequest as error:
                body = compact({"error": {"message": str(error)}})
                await Response(writer).whole(400, [("connection", "close")], body)
                return
            if request is None:
                return
            call = self._note(request)
            response = Response(writer, head_only=request.method == "HEAD")
            kept = await self._answer(request, call, response)
            if kept:
                call.reply_sha256 = response.digest.hexdigest()
            if not (kept and request.keep_alive):
                return

    def _note(self, request: Request) -> Call:
        kind = route_of(request.path, request.query).kind
        upgrade = request.header("upgrade").lower() == "websocket"
        asks = request.method == "POST" and kind in (Kind.GENERATE, Kind.COUNT, Kind.EMBED)
        call = Call(
            method=request.method,
            path=request.path,
            query=request.query,
            host=request.header("host"),
            headers=request.headers,
            body_bytes=len(request.body),
            body_sha256=hashlib.sha256(request.body).hexdigest(),
            at=time.time(),
            llm=asks or (upgrade and kind is Kind.GENERATE),
            body=request.body if self._keep_bodies else b"",
        )
        del self.calls[: max(0, len(self.calls) - MAX_CALLS + 1)]
        self.calls.append(call)
        if self._log:
            line = {"at": call.at, "method": call.method, "path": call.path, "host": call.host, "llm": call.llm}
            with self._log.open("a") as out:
                out.write(json.dumps({**line, "bytes": call.body_bytes, "sha256": call.body_sha256}) + "\n")
        return call

    async def _answer(self, request: Request, call: Call, response: Response) -> bool:
        """Answer; return whether the connection may be used again."""
        route = route_of(request.path, request.query)
        if request.header("upgrade").lower() == "websocket":
            await response.whole(426, _JSON, compact({"error": {"message": "no WebSocket here, use POST"}}))
            return True
        try:
            trouble = read_trouble(self._mode(request, llm=call.llm))
            if trouble.wait_s or self.delay_s:
                await asyncio.sleep(trouble.wait_s or self.delay_s)
            if trouble.status:
                body = error_body(route.api, trouble.status, f"stand-in error {trouble.status}")
                await response.whole(trouble.status, [*_JSON, *trouble.headers], compact(body))
                return True
            doc: Json = json.loads(request.decoded() or b"null") if request.method == "POST" else None
            reply = self._reply(request, route, doc, trouble)
        except (ValueError, RecursionError, LookupError) as error:
            message = f"{type(error).__name__}: {error}"
            await response.whole(400, _JSON, compact(error_body(route.api, 400, message)))
            return True
        if reply is None:
            status, body = (200, {}) if request.method != "GET" else (404, error_body(route.api, 404, "Not found"))
            await response.whole(status, _JSON, compact(body))
            return True
        return await self._send(reply, route, trouble, response)

    def _mode(self, request: Request, *, llm: bool) -> str:
        mode = request.header("x-standin-mode") or (self.mode if llm else "")
        if not mode.startswith("once:"):
            return mode
        if mode in self._once:
            return ""
        self._once.add(mode)
        return mode[5:].partition("#")[0]

    def _reply(self, request: Request, route: Route, doc: Json, trouble: Trouble) -> Reply | None:
        match route.kind:
            case Kind.MODELS if request.method == "GET":
                return _json_reply(models(request.path, route))
            case Kind.STORED if request.method == "GET" and route.model in self._replies:
                return _json_reply(self._replies[route.model])
            case Kind.COUNT if request.method == "POST":
                return _json_reply(count(doc, route))
            case Kind.EMBED if request.method == "POST":
                return _json_reply(embed(doc, route))
            case Kind.GENERATE if request.method == "POST":
                return self._generate(route, doc, len(request.body), thinking=trouble.thinking)
            case _:
                return None

    def _generate(self, route: Route, doc: Json, request_bytes: int, *, thinking: bool) -> Reply:
        if not isinstance(doc, dict):
            raise BadRequest("the body must be a JSON object")
        if route.api is Api.RESPONSES:
            if doc.get("previous_response_id") not in (None, *self._stored):
                raise BadRequest(f"Previous response with id '{doc['previous_response_id']}' not found.")
            doc = dict(as_map(with_history(doc, self._stored)))
        ask = read_ask(doc, route.model)
        layout = route.layout or (Layout.SSE if doc.get("stream") is True else Layout.JSON)
        reply = write(plan_of(ask), ask, route.api, layout, request_bytes, thinking=thinking)
        if route.api is Api.RESPONSES and doc.get("store", True) is True:
            id_ = str(as_map(reply.doc).get("id"))
            self._stored[id_], self._replies[id_] = history_of(doc, reply.doc), reply.doc
            if len(self._stored) > MAX_STORED_RESPONSES:
                oldest = next(iter(self._stored))
                del self._stored[oldest], self._replies[oldest]
        return reply

    async def _send(self, reply: Reply, route: Route, trouble: Trouble, response: Response) -> bool:
        chunks = spoil(reply, route.api, trouble)
        headers = [("content-type", reply.content_type), *fresh_headers(route.api)]
        packer = None
        if trouble.gzip:
            headers.append(("content-encoding", "gzip"))
            packer = zlib.compressobj(wbits=31)
            chunks = [packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks] + [packer.flush()]
        whole = len(reply.chunks) == 1 or trouble.cut == "length"
        length = sum(map(len, chunks)) if whole and not trouble.close and trouble.cut != "chunked" else None
        await response.start(200, headers, length, close=trouble.close)
        middle = max(1, len(chunks) // 2)
        for number, chunk in enumerate(chunks):
            if number == middle and trouble.stall_s:
                await asyncio.sleep(trouble.stall_s)
            if trouble.cut and number == min(middle, len(chunks) - 1):
                await response.part(chunk[: len(chunk) // 2])
                if trouble.cut == "chunked":
                    response.abort()
                return False
            await response.part(chunk)
            if number < len(chunks) - 1:
                await asyncio.sleep(trouble.event_wait_s or self.chunk_delay_s)
        await response.end()
        return not trouble.close


_JSON = [("content-type", "application/json")]


def _json_reply(doc: Json) -> Reply:
    return Reply(content_type="application/json", chunks=(compact(doc),), doc=doc)


async def _run(server: StandIn) -> None:
    async with server:
        print(server.origin, flush=True)  # noqa: T201 - whoever started us reads the port from here
        await asyncio.Event().wait()


def main() -> None:
    """Run the stand-in until it is interrupted; the first line of output is its origin."""
    parser = argparse.ArgumentParser(prog="python -m promptweir.cli.standin", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", type=Path, help="certificate chain in PEM; with --key")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--log", type=Path, help="file that gets a JSON line per call")
    parser.add_argument("--mode", default="", help="trouble for every LLM call, see standin_trouble")
    parser.add_argument("--chunk-delay-s", type=float, default=0.0)
    given = parser.parse_args()
    tls = (given.cert, given.key) if given.cert and given.key else None
    server = StandIn(port=given.port, tls=tls, chunk_delay_s=given.chunk_delay_s, log=given.log)
    server.mode = given.mode
    try:
        read_trouble(given.mode.removeprefix("once:").partition("#")[0])
        asyncio.run(_run(server))
    except KeyboardInterrupt:
        return
    except (OSError, ValueError, OverflowError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
