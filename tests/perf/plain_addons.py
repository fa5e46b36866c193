"""What promptweir is compared with: addons that do as little as can be done.

``PROMPTWEIR_BENCH_ORIGIN`` (a port) says where the provider is; without it every request gets one constant answer.
"""

import os

from mitmproxy import http

from tests.perf import bodies


class Constant:
    """Answers every request with the same bytes."""

    def __init__(self) -> None:
        self._body = bodies.answer()

    def request(self, flow: http.HTTPFlow) -> None:
        """Answer."""
        flow.response = http.Response.make(200, self._body, {"content-type": "text/event-stream; charset=utf-8"})


class NoOp:
    """Lets everything pass and stream, as promptweir does, and neither reads nor keeps any of it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Point at the origin."""
        flow.request.scheme, flow.request.host, flow.request.port = "http", "127.0.0.1", self._port

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the answer."""
        if flow.response is not None:
            flow.response.stream = True


def plain_addon() -> Constant | NoOp:
    """Return what the environment asks for."""
    port = os.environ.get("PROMPTWEIR_BENCH_ORIGIN")
    return NoOp(int(port)) if port else Constant()
