"""Where a request goes: which provider it means, which origin serves it, and what is answered on the spot.

The gateway port speaks to nobody by itself: the path decides the provider.  Everything here happens before a
connection to anyone is made.
"""

import ipaddress
import json
from dataclasses import dataclass

from mitmproxy import ctx, http
from mitmproxy.net.http import url
from mitmproxy.net.server_spec import ServerSpec
from mitmproxy.proxy.mode_specs import ProxyMode, ReverseMode, UpstreamMode

from promptweir.layers.config import Config, Origin
from promptweir.layers.contract import Dialect
from promptweir.layers.providers import NATIVE, Registry, dialect_of, gateway_route_of

GATEWAY_HOST = "gateway.invalid"
"""The target of the gateway's reverse mode; it cannot exist, so nothing goes there by mistake."""

UPGRADE_REQUIRED = 426


@dataclass(frozen=True, slots=True)
class Target:
    """The provider that a request means."""

    provider: str
    host: str


def target_of(flow: http.HTTPFlow, registry: Registry) -> Target | None:
    """Return the provider that *flow* means; None when it is none of ours."""
    if is_gateway(flow):
        names = frozenset(name.lower() for name in flow.request.headers)
        route = gateway_route_of(flow.request.path.partition("?")[0], names)
        return Target(route.provider, route.host) if route else None
    host = flow.request.host
    if flow.client_conn.sni and _is_address(host):
        # In transparent and similar modes only the address is known; the name was in the TLS handshake, and the
        # certificate was made for it.
        host = flow.client_conn.sni
    provider = registry.provider_of(host)
    return Target(provider.name, host.lower().rstrip(".")) if provider else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def origin_of(flow: http.HTTPFlow) -> str:
    """Return where the flow goes when that is not its host's https port: another port may be another server."""
    request = flow.request
    if (request.scheme, request.port) == ("https", 443):
        return ""
    return f"{request.scheme}://{request.host}:{request.port}"


def is_gateway(flow: http.HTTPFlow) -> bool:
    """Tell whether the request came in at the gateway port."""
    mode = flow.client_conn.proxy_mode
    return isinstance(mode, ReverseMode) and mode.address[0] == GATEWAY_HOST


def direct(flow: http.HTTPFlow, target: Target, config: Config) -> None:
    """Point *flow* at the origin that serves *target*."""
    origin = config.upstream.get(target.host)
    if origin is not None:
        _send_to(flow.request, origin)
    elif is_gateway(flow) and target.provider != NATIVE.name:
        flow.request.scheme, flow.request.host, flow.request.port = "https", target.host, 443
        if parent := _parent():
            flow.server_conn.via = parent  # out through the same corporate proxy as everything else


def _send_to(request: http.Request, origin: Origin) -> None:
    """Do what setting scheme, host and port does, the Host header included, in one pass over the headers."""
    data = request.data
    data.scheme, data.host, data.port = origin.scheme.encode(), origin.host, origin.port
    named = url.hostport(origin.scheme, origin.host, origin.port)
    value = named.encode()
    data.headers.fields = tuple(
        [(pair[0], value) if len(pair[0]) == 4 and pair[0].lower() == b"host" else pair for pair in data.headers.fields]
    )
    if data.authority:
        request.authority = named


def _parent() -> ServerSpec | None:
    """Return the proxy that upstream mode goes through, where it is one of the modes."""
    for spec in ctx.options.mode:
        mode = ProxyMode.parse(spec)
        if isinstance(mode, UpstreamMode):
            return mode.scheme, mode.address
    return None


def is_responses_websocket(flow: http.HTTPFlow) -> bool:
    """Tell whether this is Codex's attempt to speak WebSocket on the Responses path."""
    return (
        flow.request.method == "GET"
        and flow.request.headers.get("upgrade", "").lower() == "websocket"
        and dialect_of(flow.request.path.partition("?")[0]) is Dialect.OPENAI_RESPONSES
    )


def refuse_websocket(flow: http.HTTPFlow) -> None:
    """Answer 426: Codex then falls back to POST at once; any other status costs it seven tries."""
    flow.response = problem(UPGRADE_REQUIRED, "WebSocket is not offered here; use POST with server-sent events.")


def refuse_gateway_path(flow: http.HTTPFlow) -> None:
    """Answer a path of the gateway that names no provider."""
    path = flow.request.path.partition("?")[0]
    if flow.request.method in {"GET", "HEAD"} and path == "/":
        flow.response = http.Response.make(200, b'{"service":"promptweir"}', {"content-type": "application/json"})
    else:
        flow.response = problem(404, "This path belongs to no provider that the gateway knows.")


def problem(status: int, message: str) -> http.Response:
    """Return an error in the shape that the SDKs of all providers read."""
    body = {"type": "error", "error": {"type": "promptweir_error", "code": status, "message": message}}
    return http.Response.make(status, json.dumps(body).encode(), {"content-type": "application/json"})
