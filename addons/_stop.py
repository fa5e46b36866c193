"""Stopping: no new connections, the answers under way finish, then the end.

mitmproxy itself stops at once and cuts what is under way; a coding agent would see a broken stream and ask again, at the
price of a whole call.
"""

import asyncio
import logging
import signal

from mitmproxy import http, master
from mitmproxy.addons import proxyserver

logger = logging.getLogger("promptweir.stop")

DRAIN_S = 10.0
"""How long a stop waits for the answers under way; a second signal ends the wait."""
LAST_BYTES_S = 0.05
"""The hook that ends a flow runs just before its last bytes are written."""


class InFlight:
    """Know which flows are under way, so that a stop can wait for them."""

    def __init__(self) -> None:
        self.flows: set[str] = set()
        self.idle = asyncio.Event()
        self.idle.set()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Note a flow."""
        self.flows.add(flow.id)
        self.idle.clear()

    def response(self, flow: http.HTTPFlow) -> None:
        """Forget a flow that was answered in full."""
        self._forget(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Forget a flow that broke."""
        self._forget(flow)

    def _forget(self, flow: http.HTTPFlow) -> None:
        self.flows.discard(flow.id)
        if not self.flows:
            self.idle.set()


class Stops:
    """While entered, SIGTERM and SIGINT stop the proxy: the first one lets answers finish, the second one does not."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, owner: master.Master, server: proxyserver.Proxyserver, in_flight: InFlight) -> None:
        self._owner = owner
        self._server = server
        self._in_flight = in_flight
        self._draining: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        for number in self.SIGNALS:
            try:
                self._owner.event_loop.add_signal_handler(number, self._stop)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: self._owner.event_loop.call_soon_threadsafe(self._stop))

    def __exit__(self, *_: object) -> None:
        for number in self.SIGNALS:
            try:
                self._owner.event_loop.remove_signal_handler(number)
            except NotImplementedError:
                signal.signal(number, signal.SIG_DFL)

    def _stop(self) -> None:
        if self._draining:
            self._owner.shutdown()  # type: ignore[no-untyped-call]
        else:
            self._draining = self._owner.event_loop.create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        await self._server.servers.update([])
        if self._in_flight.flows:
            logger.info("stopping; waiting up to %d s for %d calls", DRAIN_S, len(self._in_flight.flows))
        try:
            await asyncio.wait_for(self._in_flight.idle.wait(), DRAIN_S)
        except TimeoutError:
            logger.warning("cutting %d calls that are still under way", len(self._in_flight.flows))
        await asyncio.sleep(LAST_BYTES_S)
        for addon in self._owner.addons.chain:
            if (drain := getattr(addon, "drain", None)) is not None:
                await drain()
        self._owner.shutdown()  # type: ignore[no-untyped-call]
