"""A minimal addon on the streaming modules: identical bodies in flight share one upstream call.

Run by test_streaming.py as ``mitmdump -s``.  ``GET http://control.test/`` tells what is held.
"""

import hashlib
import json

from mitmproxy import ctx, http

from promptweir.addons import _streaming
from promptweir.addons._streaming import Gone, StreamingHooks, aborted, forget, install, serve, shield, unless_gone
from promptweir.addons._tee import Tee
from promptweir.layers.flight import Boarded, Expired, Flights, Follow, Landed, Lead, Promoted, Unjoinable

MAX_BYTES = 1 << 20
WAIT_S = 20.0


class Coalescing(StreamingHooks):
    def __init__(self) -> None:
        self.flights = Flights(max_bytes=MAX_BYTES, max_flights=64, idle_s=WAIT_S)
        self.leads: dict[str, Lead] = {}
        self.tees: dict[str, Tee] = {}
        self.learned: list[str] = []
        self.ended: list[str] = []

    def load(self, _loader: object) -> None:
        assert install()

    async def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.host == "control.test":
            flow.response = http.Response.make(200, json.dumps(self._state()))
            return
        if port := flow.request.headers.get("x-origin-port"):
            flow.request.scheme, flow.request.host, flow.request.port = "https", "127.0.0.1", int(port)
        listener = flow.client_conn.sockname[1]
        key = hashlib.sha256(b"%d " % listener + (flow.request.raw_content or b"")).digest()
        role = self.flights.join(key)
        if isinstance(role, Follow):
            promoted = await self._follow(flow, role)
            if promoted is None:
                return
            role = promoted
        self.leads[flow.id] = role
        shield(flow, role)

    async def _follow(self, flow: http.HTTPFlow, follow: Follow) -> Lead | None:
        if flow.request.headers.get("x-wait-for") == "outcome":
            outcome = await unless_gone(flow, follow.landed(WAIT_S))
        else:
            outcome = await unless_gone(flow, follow.board(WAIT_S))
        match outcome:
            case Promoted(lead=lead):
                return lead
            case Boarded(status=status, headers=headers, chunks=chunks):
                serve(flow, status, [*headers, (b"x-role", b"follower")], chunks)
            case Landed():
                flow.response = http.Response.make(200, "landed")
            case Gone() | Expired() | Unjoinable():
                pass
        return None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if (lead := self.leads.get(flow.id)) is not None and flow.response is not None:
            lead.head(flow.response.status_code, flow.response.headers.fields)
            tee = self.tees[flow.id] = Tee(max_bytes=MAX_BYTES, copies_to=lead.chunk)
            flow.response.stream = tee

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.request.host != "control.test":
            self.ended.append("response aborted" if aborted(flow) else "response")
        tee = self.tees.pop(flow.id, None)
        if (lead := self.leads.pop(flow.id, None)) is not None:
            lead.end()
            if tee is not None and (body := tee.body()) is not None:
                self.learned.append(body.decode())
            lead.land()
        forget(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        self.ended.append("error aborted" if aborted(flow) else "error")
        self.tees.pop(flow.id, None)
        if (lead := self.leads.pop(flow.id, None)) is not None:
            lead.fail(flow.error.msg if flow.error else "unknown")
        forget(flow)

    def _state(self) -> dict[str, object]:
        return {
            "flights": len(self.flights),
            "followers": sum(lead.followers for lead in self.leads.values()),
            "held": len(self.leads) + len(self.tees) + len(_streaming._local) + len(_streaming._crews),
            "orphans": len(_streaming._orphans),
            "connections": ctx.master.commands.call("proxyserver.active_connections"),
            "learned": self.learned,
            "ended": self.ended,
        }


addons = [Coalescing()]
