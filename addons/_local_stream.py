"""The pieces of a local answer, pulled one at a time while its client keeps up.

Goals: a piece reaches the client as soon as it exists; a slow client slows the producer down instead of filling memory;
a producer that breaks, stalls or is no longer wanted ends in a way that the client can see.

Plan.  mitmproxy's generator of the flow yields a ``PromptweirChunkHook`` for every piece; its handler awaits ``pull``,
after which the generator does ``take``.  The producer runs in a task of its own, so that it can be cancelled without
cancelling mitmproxy's hook, whose completion the generator is waiting for.

What it does not do: it writes nothing to the client.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, runtime_checkable

from mitmproxy import ctx, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands

logger = logging.getLogger(__name__)

_tasks: set[asyncio.Future[None]] = set()
"""asyncio itself keeps only weak references to its tasks."""

CHUNK_MAX_S = 600.0
"""How long one piece of a local answer may take, draining the client's socket included: mitmproxy's own default for
silent connections (``tcp_timeout``), which it does not apply while a hook is waiting."""


@dataclass
class PromptweirChunkHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """The next piece of a local answer is wanted; blocks the flow, and only it."""

    flow: http.HTTPFlow


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class Mark(Enum):
    """What is not a piece."""

    END = auto()


@dataclass(frozen=True, slots=True)
class Broke:
    """There will be no clean end."""

    message: str


class LocalStream:
    """The pieces of one local answer, pulled one at a time."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._pull: asyncio.Task[bytes | Mark] | None = None
        self._pulled: bytes | Mark | Broke | None = None

    async def pull(self, flow: http.HTTPFlow) -> None:
        """Get the next piece.  Whatever the producer raises is kept, to be shown to the client as a broken answer."""
        self._pull = asyncio.create_task(self._next(flow), name=f"promptweir local chunk {flow.id}")
        try:
            await asyncio.wait({self._pull})
        finally:
            self._pull.cancel()
        if self._pull.cancelled():
            self._pulled = Broke("the client left")
        elif (error := self._pull.exception()) is not None:
            logger.info("A local answer broke: %s: %s", type(error).__name__, error)
            self._pulled = Broke("the local answer broke")
        else:
            self._pulled = self._pull.result()

    async def _next(self, flow: http.HTTPFlow) -> bytes | Mark:
        async with asyncio.timeout(CHUNK_MAX_S):
            await _drained(flow)
            async for chunk in self._chunks:
                if chunk:  # an empty HTTP/1 chunk would end the body
                    return chunk
            return Mark.END

    def take(self) -> bytes | Mark | Broke:
        """Return what was pulled, once: a hook that nobody handled must not look like a piece."""
        pulled, self._pulled = self._pulled, None
        return Broke("no addon handles promptweir_chunk") if pulled is None else pulled

    def cancel(self) -> None:
        """Stop waiting for the next piece."""
        if self._pull is not None:
            self._pull.cancel()

    def close(self) -> None:
        """Let go of the producer."""
        if isinstance(self._chunks, _Closable):
            _keep(asyncio.ensure_future(_close(self._chunks, self._pull)))


async def _drained(flow: http.HTTPFlow) -> None:
    """Wait while the client reads more slowly than we write.  mitmproxy does this only between reads of its own."""
    proxyserver = ctx.master.addons.get("proxyserver")  # type: ignore[no-untyped-call]
    if not isinstance(proxyserver, Proxyserver):
        return
    handler = proxyserver.connections.get(flow.client_conn.id)
    transport = handler.transports.get(flow.client_conn) if handler is not None else None
    if transport is None or transport.writer is None:
        return
    try:
        await transport.writer.drain()
    except OSError:
        return  # the client is gone; the layers below tell the stream


async def _close(chunks: _Closable, pull: asyncio.Task[bytes | Mark] | None) -> None:
    if pull is not None and not pull.done():
        await asyncio.wait({pull})  # an asynchronous generator cannot be closed while it runs
    await chunks.aclose()


def _keep(task: asyncio.Future[None]) -> None:
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
