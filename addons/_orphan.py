"""An upstream answer that outlives its client, because others follow it.

Goals: the leader of a flight may leave at any time, by closing its connection or by resetting one HTTP/2 stream, and the
followers do not notice; when the last of them leaves as well, the upstream is closed at once, as if all had left together.

Plan.  mitmproxy tells a stream by ``RequestProtocolError`` that its client has left, and the stream then closes the
upstream.  An ``Orphan`` keeps that event back and stands in for the stream's ``handle_event``: it goes on feeding the
stream what comes from upstream, and drops what the stream wants to send to its client.  Its own hook is marked like a
hook that some layer waits for, so mitmproxy reports the completion to the stream, but nothing is held up by it.  The
hook completes when nobody follows any more; then the event that was kept back takes its native course.

What it does not do: it does not keep the upstream connection open when the whole client connection is gone; see
``client_disconnected`` in ``promptweir.addons._streaming``.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import RequestProtocolError

ORPHAN_MAX_S = 1800.0
"""How long an upstream may go on without its client: well over the longest answers (600 s is the official SDKs' limit
for one call)."""


@dataclass
class PromptweirOrphanHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """A shielded flow lost its client; completes when nobody wants its answer any more."""

    flow: http.HTTPFlow


class Crew(Protocol):
    """Those who want a flow's answer besides its own client; ``layers.flight.Lead`` is one."""

    @property
    def followed(self) -> bool:
        """Whether anybody wants the answer now."""
        ...

    async def deserted(self) -> bool:
        """Wait until nobody wants it any more (true), or until it is over (false)."""
        ...


class Orphan:
    """A stream whose client left, and which goes on for those who follow it."""

    def __init__(
        self, stream: HttpStream, departure: RequestProtocolError, crew: Crew, on_over: Callable[[], object]
    ) -> None:
        self.flow = stream.flow
        self.over = asyncio.Event()
        self._stream = stream
        self._departure = departure
        self._crew = crew
        self._on_over = on_over
        self._hook = PromptweirOrphanHook(stream.flow)
        # The value that a layer sets on a hook it waits for: completion is reported to it, but nothing is held up.
        self._hook.blocking = stream  # type: ignore[assignment]

    def begin(self) -> layer.CommandGenerator[None]:
        """Take the stream over."""
        yield self._hook

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Stand in for the stream's own method."""
        if isinstance(event, events.HookCompleted) and event.command is self._hook:
            if self.over.is_set():
                return
            event = self._departure
        elif isinstance(event, RequestProtocolError):
            return
        for command in layer.Layer.handle_event(self._stream, event):
            # Nothing for a client that is gone, so that neither its TLS nor its HTTP state is touched again.
            if not (isinstance(command, SendHttp) and command.connection is self._stream.context.client):
                yield command
        if not self.flow.live and not self.over.is_set():
            self.over.set()
            self._on_over()

    async def wait(self) -> None:
        """Wait until this answer is over or nobody wants it any more."""
        if not await self._crew.deserted():
            await self.over.wait()
