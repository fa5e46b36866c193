"""Local answers that stream, and upstream answers that outlive their client.

mitmproxy sends a response that an addon made in one piece, and drops the upstream as soon as the client is gone.  This
module adds three things to its HTTP layer, without a detour over a loopback socket, so that they work in every mode:

* ``serve``: answer a flow from an asynchronous iterator, piece by piece.  When the iterator raises, the client sees what
  it would see if an upstream broke: HTTP/1 closes without the last chunk, HTTP/2 resets the stream.
* ``shield``: when the client of this flow leaves while others follow the answer, the upstream goes on without it.
* ``unless_gone``: wait for something in a hook, but only as long as the client is there.  mitmproxy itself tells an addon
  that a client left only after the hook that waits has returned.

Plan.  Two methods of mitmproxy's ``HttpStream`` (one per request) are replaced.  ``send_response`` asks for the pieces
of a local answer by a hook of ours.  ``handle_event`` sees every ``RequestProtocolError``, which is how the layers below
say that the client has left (connection closed, HTTP/2 reset), before it is queued.  For a shielded flow this event is
kept back: the stream becomes an *orphan*, deaf to its client and mute towards it.  A second hook waits until the last
follower leaves, and then the event takes its native course, which closes the upstream.  When the whole client connection
is gone, ``client_disconnected`` is held until its orphans are over, because mitmproxy closes the upstream connections
of a client after that hook.  ``problems`` names what a release of mitmproxy changed under our feet.

What it does not do: it does not decide who follows whom, and does not bound what mitmproxy's HTTP/2 buffers for a client
that gives no window.

Usage::

    class Addon(StreamingHooks):                  # or forward the three hooks to a StreamingHooks instance
        def load(self, loader): install()         # False: not supported; do not call the rest
        async def request(self, flow):
            match await unless_gone(flow, follow.board(wait_s)):
                case Gone(): return               # mitmproxy ends the flow; its error hook is called
                case Boarded(status=status, headers=headers, chunks=chunks): serve(flow, status, headers, chunks)
                case Promoted(lead=lead): shield(flow, lead)
        def response(self, flow): forget(flow)    # the local or upstream answer went out in full
        def error(self, flow): forget(flow)       # it did not; aborted(flow) says whether the client was the reason

The ``response`` hook of an orphan fires as usual: its answer is whole although ``aborted`` says that the client left.
"""

import asyncio
import inspect
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass

from mitmproxy import connection, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.net.http import status_codes
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
)

from promptweir.addons._local_stream import Broke, LocalStream, Mark, PromptweirChunkHook
from promptweir.addons._orphan import ORPHAN_MAX_S, Crew, Orphan

logger = logging.getLogger(__name__)

FRAMING = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""Header fields that belong to the leader's connection, not to the answer (RFC 9110 7.6.1)."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The client left while we waited."""


# What is known about live flows, by flow id.  Not in flow.metadata: mitmproxy copies that deeply.
_local: dict[str, LocalStream] = {}
_crews: dict[str, Crew] = {}
_orphans: dict[str, Orphan] = {}
_waits: dict[str, Callable[[], object]] = {}
_departed: weakref.WeakSet[http.HTTPFlow] = weakref.WeakSet()

_send_response = HttpStream.send_response


def serve(
    flow: http.HTTPFlow, status: int, headers: Iterable[tuple[bytes, bytes]], chunks: AsyncIterator[bytes]
) -> None:
    """Answer *flow* from *chunks*.  For the ``request`` hook; framing headers are replaced by fitting ones."""
    version = flow.request.http_version
    fields = [(name, value) for name, value in headers if name.lower() not in FRAMING]
    if flow.request.is_http11:
        fields.append((b"transfer-encoding", b"chunked"))
    elif flow.request.is_http10:
        fields.append((b"connection", b"close"))
    flow.response = http.Response(
        http_version=version.encode(),
        status_code=status,
        reason=status_codes.RESPONSES.get(status, "").encode(),
        headers=http.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=time.time(),
        timestamp_end=None,
    )
    _local[flow.id] = LocalStream(chunks)


def shield(flow: http.HTTPFlow, crew: Crew) -> None:
    """Let the upstream of *flow* outlive its client as long as *crew* follows it."""
    _crews[flow.id] = crew


def unshield(flow: http.HTTPFlow) -> None:
    """Let *flow* end with its client again."""
    _crews.pop(flow.id, None)


def aborted(flow: http.HTTPFlow) -> bool:
    """Return whether the client left before it had the whole answer."""
    return flow in _departed


def forget(flow: http.HTTPFlow) -> None:
    """Let go of all that is kept about *flow*; call it at the end of ``response`` and of ``error``."""
    _crews.pop(flow.id, None)
    if (local := _local.pop(flow.id, None)) is not None:
        local.close()


async def unless_gone[T](flow: http.HTTPFlow, waiting: Coroutine[object, object, T]) -> T | Gone:
    """Await *waiting* inside a hook of *flow*; cancel it when the client leaves."""
    # Started eagerly: a coroutine that is cancelled before its first step never runs its cleanup.
    task = asyncio.Task(waiting, loop=asyncio.get_running_loop(), eager_start=True)
    if aborted(flow):
        task.cancel()
    _waits[flow.id] = task.cancel
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
        _waits.pop(flow.id, None)
    return Gone() if task.cancelled() else task.result()


class StreamingHooks:
    """The hooks that the addon has to have."""

    async def promptweir_chunk(self, flow: http.HTTPFlow) -> None:
        """Get the next piece of a local answer."""
        if (local := _local.get(flow.id)) is not None:
            await local.pull(flow)

    async def promptweir_orphan(self, flow: http.HTTPFlow) -> None:
        """Return when the upstream of an orphan is not wanted any longer."""
        if (orphan := _orphans.get(flow.id)) is not None:
            await _at_most(ORPHAN_MAX_S, [orphan.wait()])

    async def client_disconnected(self, client: connection.Client) -> None:
        """Hold the upstream connections of *client* open until its orphans are over."""
        orphans = [orphan for orphan in _orphans.values() if orphan.flow.client_conn is client]
        if orphans:
            await _at_most(ORPHAN_MAX_S, [orphan.over.wait() for orphan in orphans])


def problems() -> list[str]:
    """Return what this release of mitmproxy does not have as we need it; empty when all is well."""
    wanted = [
        (HttpStream, "send_response", ["self", "already_streamed"]),
        (HttpStream, "handle_protocol_error", ["self", "event"]),
        (HttpStream, "check_killed", ["self", "emit_error_hook"]),
        (layer.Layer, "handle_event", ["self", "event"]),
        (SendHttp, "__init__", ["self", "event", "connection"]),
        (ResponseHeaders, "__init__", ["self", "stream_id", "response", "end_stream"]),
        (ResponseData, "__init__", ["self", "stream_id", "data"]),
        (ResponseProtocolError, "__init__", ["self", "stream_id", "message", "code"]),
        (events.HookCompleted, "__init__", ["self", "command", "reply"]),
    ]
    found = [_signature_problem(owner, name, parameters) for owner, name, parameters in wanted]
    own = vars(HttpStream).get("handle_event", _patched_handle_event)
    if own is not _patched_handle_event:
        found.append("HttpStream has a handle_event of its own")
    if "connections" not in Proxyserver.__annotations__:
        found.append("Proxyserver.connections is gone")
    if not hasattr(http_layers.HttpLayer, "event_to_child"):
        found.append("HttpLayer.event_to_child is gone")
    return [problem for problem in found if problem]


def supported() -> bool:
    """Return whether this release of mitmproxy can be extended as described above."""
    return not problems()


def install() -> bool:
    """Extend mitmproxy's HTTP layer, once; return whether that is supported."""
    if found := problems():
        logger.warning("Streaming of local answers is off, mitmproxy has changed: %s", "; ".join(found))
        return False
    HttpStream.send_response = _patched_send_response  # type: ignore[method-assign]
    HttpStream.handle_event = _patched_handle_event  # type: ignore[method-assign,assignment]
    return True


def _patched_send_response(self: HttpStream, already_streamed: bool = False) -> layer.CommandGenerator[None]:
    local = None if already_streamed else _local.get(self.flow.id)
    if local is None or self.flow.response is None:
        yield from _send_response(self, already_streamed)
        return
    client = self.context.client
    yield SendHttp(ResponseHeaders(self.stream_id, self.flow.response, False), client)
    while True:
        yield PromptweirChunkHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        match local.take():
            case bytes() as chunk:
                yield SendHttp(ResponseData(self.stream_id, chunk), client)
            case Mark.END:
                break
            case Broke(message):
                error = ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
                yield from self.handle_protocol_error(error)
                return
    yield from _send_response(self, True)


def _patched_handle_event(self: HttpStream, event: events.Event) -> layer.CommandGenerator[None]:
    flow = getattr(self, "flow", None)
    if isinstance(event, RequestProtocolError) and flow is not None and flow.live:
        return _client_left(self, event)
    return layer.Layer.handle_event(self, event)


def _client_left(stream: HttpStream, event: RequestProtocolError) -> layer.CommandGenerator[None]:
    flow = stream.flow
    _departed.add(flow)
    if (cancel := _waits.get(flow.id)) is not None:
        cancel()
    if (local := _local.get(flow.id)) is not None:
        local.cancel()
    crew = _crews.get(flow.id)
    if crew is None or not crew.followed:
        return layer.Layer.handle_event(stream, event)
    orphan = _orphans[flow.id] = Orphan(stream, event, crew, lambda: _orphans.pop(flow.id, None))
    stream.handle_event = orphan.handle_event  # type: ignore[method-assign]
    return orphan.begin()


async def _at_most(limit_s: float, waits: list[Coroutine[object, object, object]]) -> None:
    tasks = {asyncio.ensure_future(wait) for wait in waits}
    try:
        await asyncio.wait(tasks, timeout=limit_s)
    finally:
        for task in tasks:
            task.cancel()


def _signature_problem(owner: type, name: str, parameters: list[str]) -> str | None:
    method = getattr(owner, name, None)
    if method is None:
        return f"{owner.__name__}.{name} is gone"
    seen = list(inspect.signature(method).parameters)
    return None if seen == parameters else f"{owner.__name__}.{name} takes {seen}, not {parameters}"
