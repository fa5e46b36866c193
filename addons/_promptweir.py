"""The addon: translate a flow, walk the stack, apply the verdict; nothing else.

Plan.  ``requestheaders`` finds out whether a request is an LLM call and points it at its origin; everything else streams
through in both directions.  ``request`` walks the stack and answers, follows an identical call in flight, or lets the
request go as it is.  ``responseheaders`` puts a tee on the answer of a call that went out; when the answer is whole,
a task understands it once, teaches the layers, and writes the record, off the response path.

What it does not do: it decides nothing (``layers`` does), and it changes no byte of what passes.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace

import msgspec
from mitmproxy import command, ctx, http, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy.mode_specs import ProxyMode, ReverseMode

from promptweir.addons import _flows, _options, _routes, _streaming
from promptweir.addons._call import Call
from promptweir.addons._certstore import LeafStore
from promptweir.addons._engine import Engine, now_ns, report, token
from promptweir.addons._native import is_native, send_on, translate_back
from promptweir.addons._tee import Tee
from promptweir.layers.atoms import Atom
from promptweir.layers.contract import CacheControl, Completion, Facts, Prompt, Usage
from promptweir.layers.dialects.registry import CODECS
from promptweir.layers.fingerprint import fingerprint_of
from promptweir.layers.flight import Boarded, Expired, Flights, Follow, Landed, Lead, Promoted, Unjoinable
from promptweir.layers.native import relabelled
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.types import Trip as Row
from promptweir.layers.tenants import identity_of, proof_of, shared_tenant, tenant_of
from promptweir.layers.walk import Trip, teach, walk
from promptweir.layers.wire import frames_of

logger = logging.getLogger("promptweir")

MAX_FLIGHTS = 1024
FLIGHT_IDLE_S = 600.0
"""A reasoning model may think that long without a byte; mitmproxy's own tcp_timeout is the same."""
MAX_TASKS = 256
"""Answers being learned at the same time; beyond that an answer is not learned."""
LEARN_DRAIN_S = 5.0
THREAD_FROM_BYTES = 1 << 13
"""Answers larger than this are understood on a thread: it would take over a millisecond."""
PROVIDER_LAYER = "l3"
FLIGHT_LAYER = "l1a"
"""An answer shared with an identical call in flight is the exact layer's, a little early."""
HIT_MARKER, LOOP_MARKER = ":zap:", ":repeat:"


@dataclass(frozen=True, slots=True)
class Form:
    """What two calls with one key must have in common to share the bytes of an answer."""

    atoms: tuple[Atom, ...]
    facts: Facts
    accept_encoding: str


class Promptweir(_streaming.StreamingHooks):
    """The prompt firewall as a mitmproxy addon."""

    name = "promptweir"

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._calls: dict[str, Call] = {}
        self._flights: Flights | None = None
        self._can_stream = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._beyond_loopback = False
        self._forms: dict[bytes, Form] = {}
        self._ended: set[bytes] = set()
        self._landings = 0

    # --- life

    def load(self, loader: Loader) -> None:
        """Register the options."""
        _options.register(loader)
        self._can_stream = _streaming.install()
        if not self._can_stream:
            logger.warning(
                "This mitmproxy differs from the ones we know; calls in flight are not shared while they stream."
            )

    def configure(self, updated: set[str]) -> None:
        """Read the options; build everything anew when one of ours changed."""
        if {"mode", "listen_host"} & updated:
            self._beyond_loopback = _listens_beyond_loopback()
        if self._engine is not None and not any(name.startswith("promptweir_") for name in updated):
            return
        config = _options.parse()
        if self._engine is not None:
            if self._engine.config == config:
                return
            self._engine.close()
        self._engine = Engine(config)
        self._engine.open()
        self._flights = Flights(max_bytes=config.answer_max_bytes, max_flights=MAX_FLIGHTS, idle_s=FLIGHT_IDLE_S)
        # A hit must not wait for, or even need, the provider's server.
        if ctx.options.connection_strategy != "lazy":
            ctx.options.update(connection_strategy="lazy")  # type: ignore[no-untyped-call]
        # A body of unknown length could fill the memory; beyond the limit it streams through.
        if ctx.options.stream_large_bodies is None:
            ctx.options.update(stream_large_bodies=str(config.request_max_bytes))  # type: ignore[no-untyped-call]

    def running(self) -> None:
        """Look at where we listen, and at options that nobody knows."""
        for name in _options.misspelt():
            logger.warning("Unknown option %s; `promptweir options` lists them all.", name)
        self._beyond_loopback = _listens_beyond_loopback()

    async def drain(self) -> None:
        """Finish what is being learned."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LEARN_DRAIN_S)

    def done(self) -> None:
        """Close the store.  Not a coroutine: a script that is reloaded or taken out is told so synchronously."""
        for task in self._tasks:
            task.cancel()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # --- TLS

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Tunnel everything blind but the hosts of LLM APIs."""
        engine = self._engine
        if data.context.server.address is None and not isinstance(data.context.client.proxy_mode, ReverseMode):
            return  # the client speaks TLS to the proxy itself
        host = data.client_hello.sni or (data.context.server.address[0] if data.context.server.address else "")
        mode = data.context.client.proxy_mode
        gateway = getattr(mode, "address", ("",))[0] == _routes.GATEWAY_HOST
        if not gateway and (engine is None or engine.registry.provider_of(host) is None or not _may_sign(host)):
            data.ignore_connection = True

    # --- HTTP

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Find out what the request is, before its body comes in."""
        engine = self._engine
        if engine is None or flow.response or flow.error or not flow.live:
            return
        target = _routes.target_of(flow, engine.registry)
        if target is None:
            if not _routes.is_gateway(flow):
                flow.request.stream = True
            return
        _routes.direct(flow, target, engine.config)
        headers = _flows.header_map(flow.request)
        control = _flows.control_of(headers)
        if _flows.CONTROL_HEADER in headers:
            del flow.request.headers[_flows.CONTROL_HEADER]
        if engine.config.websocket_426 and _routes.is_responses_websocket(flow):
            return
        dialect = engine.registry.dialect_of(flow.request.path.partition("?")[0])
        length = headers.get("content-length", "0")
        too_long = length.isdigit() and int(length) > engine.config.request_max_bytes
        if dialect is None or flow.request.method != "POST" or too_long:
            flow.request.stream = True
            return
        self._calls[flow.id] = Call(
            id=token(10).lower(),
            dialect=dialect,
            provider=target.provider,
            host=target.host,
            control=control,
            headers=headers,
            header_fields=flow.request.headers.fields,
            origin=_routes.origin_of(flow),
        )

    async def request(self, flow: http.HTTPFlow) -> None:
        """Answer, follow, or let go."""
        engine = self._engine
        if engine is None or flow.response or flow.error or not flow.live or flow.request.stream:
            return
        call = self._calls.get(flow.id)
        if call is None:
            if engine.config.websocket_426 and _routes.is_responses_websocket(flow):
                _routes.refuse_websocket(flow)
            elif _routes.is_gateway(flow) and _routes.target_of(flow, engine.registry) is None:
                _routes.refuse_gateway_path(flow)
            return
        try:
            prompt = self._prompt_of(flow, call, engine)
        except ValueError:
            # Not a request that we can read; the provider will say what is wrong with it, if anything is.
            call.reason = "unreadable"
        else:
            call.prompt = prompt
            await self._decide(flow, call, prompt, engine)
        if flow.response is None and is_native(call.provider):
            send_on(flow, call.prompt, engine.config)
            if flow.response is not None:
                call.local, call.reason = True, "not-native"

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let the answer of a provider stream, with a copy kept of one that may be learned."""
        engine, call, response = self._engine, self._calls.get(flow.id), flow.response
        if engine is None or response is None or (call is not None and call.local) or flow.error:
            return
        if response.status_code == 101 or (call is None and not flow.request.stream):
            return
        if call is None:
            response.stream = True
            return
        if is_native(call.provider):
            return
        if call.lead is not None:
            call.lead.head(response.status_code, response.headers.fields)
            if not 200 <= response.status_code < 300:
                self._leave_flight(call, "an error is not shared")
        if 200 <= response.status_code < 300 and call.prompt is not None:
            lead = call.lead
            call.tee = Tee(max_bytes=engine.config.answer_max_bytes, copies_to=lead.chunk if lead else None)
            response.stream = call.tee
            if call.identity is not None and call.identity.account and call.identity.provable:
                engine.store.prove(proof_of(call.identity, call.host), call.identity.account.hex())
        else:
            response.stream = True
        if engine.config.headers:
            _flows.mark(flow, layer=PROVIDER_LAYER, provider=call.provider, deflected=False)

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer is out."""
        engine, call = self._engine, self._calls.pop(flow.id, None)
        if engine is not None and call is not None:
            if call.local:
                engine.exact.forget_call(call.id)
                if call.reason == "in-flight":
                    status = flow.response.status_code if flow.response else 0
                    engine.store.record(
                        call.trip(layer=FLIGHT_LAYER, status=status, at_ns=now_ns(), deflected=True, upstream=False)
                    )
            else:
                if is_native(call.provider):
                    body = translate_back(flow, call.prompt, engine.config)
                else:
                    body = call.tee.body() if call.tee else None
                if call.lead is not None:
                    self._ended.add(call.flight_key)
                self._start(self._finish(flow, call, engine, body), call)
        _streaming.forget(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The upstream or the client broke off."""
        engine, call = self._engine, self._calls.pop(flow.id, None)
        if engine is not None and call is not None:
            self._leave_flight(call, "the provider's answer broke off")
            if call.prompt is not None:
                engine.exact.forget_call(call.prompt.id)
            if not call.local:
                call.reason = "client-left" if _streaming.aborted(flow) else "upstream-error"
                engine.store.record(
                    call.trip(
                        layer=PROVIDER_LAYER,
                        status=0,
                        at_ns=now_ns(),
                        deflected=False,
                        upstream=flow.server_conn.timestamp_start is not None,
                    )
                )
        _streaming.forget(flow)

    # --- deciding

    def _prompt_of(self, flow: http.HTTPFlow, call: Call, engine: Engine) -> Prompt:
        config = engine.config
        # Other addons may have changed them meanwhile.
        same = flow.request.headers.fields is call.header_fields
        headers = call.headers if same else _flows.header_map(flow.request)
        body = _flows.body_of(flow.request, headers, config.request_max_bytes)
        fields = _flows.fields_of(body)
        call.identity = identity_of(headers, flow.request.path.partition("?")[2], fields)
        if config.tenant_shared:
            tenant = shared_tenant(engine.pepper)
        else:
            tenant = tenant_of(engine.pepper, call.identity, trusted=self._trusts(call, engine))
        return _flows.prompt_of(
            flow,
            id_=call.id,
            dialect=call.dialect,
            provider=call.provider,
            host=call.host,
            tenant=tenant,
            body=body,
            fields=fields,
            control=call.control,
            headers=headers,
            origin=call.origin,
        )

    def _trusts(self, call: Call, engine: Engine) -> bool:
        """Tell whether the account that the request claims is taken at its word."""
        identity, proof = call.identity, engine.config.tenant_proof
        if identity is None or not identity.account or proof == "never":
            return True
        if proof == "auto" and not self._beyond_loopback:
            return True
        return identity.provable and engine.store.proven(proof_of(identity, call.host)) == identity.account.hex()

    async def _decide(self, flow: http.HTTPFlow, call: Call, prompt: Prompt, engine: Engine) -> None:
        landings = self._landings
        trip = await walk(prompt, engine.layers, now_ns, report)
        if self._apply(flow, call, trip, engine):
            return
        if call.control is CacheControl.ONLY:
            call.local, call.reason = True, "only-miss"
            engine.store.record(
                call.trip(layer=PROVIDER_LAYER, status=504, at_ns=now_ns(), deflected=False, upstream=False)
            )
            flow.response = _routes.problem(
                504, "Not in the cache, and x-promptweir-cache: only forbids to ask the provider."
            )
            return
        if (
            trip.reason == "miss"
            and call.control is CacheControl.DEFAULT
            and engine.config.flight_enabled
            and "pass" not in {engine.config.l1a_read_only, engine.config.l1a_mutating}
            and not is_native(call.provider)
        ):
            await self._share(flow, call, prompt, engine, landings)

    def _apply(self, flow: http.HTTPFlow, call: Call, trip: Trip, engine: Engine) -> bool:
        """Carry out the verdict; true when the flow is answered."""
        call.reason = trip.reason
        found = trip.deflected
        if found is None:
            if trip.prompt.raw is not (call.prompt.raw if call.prompt else None):
                flow.request.raw_content = trip.prompt.raw
            if trip.reason == "loop":
                flow.marked = LOOP_MARKER
            flow.comment = f"promptweir {call.id}: passed, {trip.reason}"
            return False
        layer, deflect = found
        if is_native(call.provider):
            body = relabelled(deflect.completion.body, layer)
            deflect = replace(deflect, completion=replace(deflect.completion, body=body))
        call.local = True
        _flows.answer(
            flow,
            deflect,
            layer=layer,
            provider=call.provider,
            dialect=call.dialect,
            tell=engine.config.headers,
            request_id=token(24),
        )
        flow.marked = HIT_MARKER
        flow.comment = f"promptweir {call.id}: {layer} {deflect.reason}"
        row = call.trip(layer=layer, status=deflect.completion.status, at_ns=now_ns(), deflected=True, upstream=False)
        engine.store.record(_with_usage(row, deflect.usage))
        return True

    # --- commands

    @command.command("promptweir.stats")  # type: ignore[untyped-decorator]
    def stats(self) -> str:
        """Tell, in one line, how many calls there were and how many were deflected."""
        if self._engine is None:
            return "promptweir is not running"
        totals = Reader(self._engine.folder / "cache").totals()
        return f"{totals.calls} calls, {totals.deflected} deflected, {totals.provider_calls} went to a provider"

    @command.command("promptweir.purge")  # type: ignore[untyped-decorator]
    async def purge(self) -> None:
        """Forget every stored answer."""
        if self._engine is not None:
            count = await self._engine.store.purge(all=True)
            logger.info("%d stored answers forgotten.", count)

    # --- sharing calls in flight

    async def _share(self, flow: http.HTTPFlow, call: Call, prompt: Prompt, engine: Engine, landings: int) -> None:
        """Lead an identical call, or follow one: by its bytes where both ask for the same form, else by its outcome.

        *landings* is how many answers had been learned before the look into the cache that this call missed.
        """
        try:
            place = await engine.exact.call_of(prompt)
        except ValueError:
            return None
        key, wait_s = place.key, float(engine.config.flight_wait_s)
        form = Form(place.atoms, prompt.facts, flow.request.headers.get("accept-encoding", ""))
        while self._flights is not None:
            match self._flights.join(key):
                case Lead() as lead:
                    # Between that look and now an identical call may have landed, and the flight may be over.
                    if self._landings != landings and self._apply(
                        flow, call, await walk(prompt, engine.layers, now_ns, report), engine
                    ):
                        lead.land()
                        return None
                    return self._lead(flow, call, lead, key, form)
                # Who comes when the bytes are all out can as well wait for the word whether they are a whole answer.
                case Follow() as follow if self._can_stream and self._forms.get(key) == form and key not in self._ended:
                    match await _streaming.unless_gone(flow, follow.board(wait_s)):
                        case Boarded(chunks=chunks) if self._forms.get(key) != form:
                            chunks.leave()  # another leader took over, whose answer has another form
                        case Boarded() as boarded:
                            return self._board(flow, call, boarded, engine)
                        case Promoted(lead=lead):
                            return self._lead(flow, call, lead, key, form)
                        case Unjoinable() | Expired() | _streaming.Gone():
                            return None
                case Follow() as follow:
                    match await _streaming.unless_gone(flow, follow.landed(wait_s)):
                        case Landed():
                            self._apply(flow, call, await walk(prompt, engine.layers, now_ns, report), engine)
                            return None
                        case Promoted(lead=lead):
                            return self._lead(flow, call, lead, key, form)
                        case Expired() | _streaming.Gone():
                            return None
        return None

    def _lead(self, flow: http.HTTPFlow, call: Call, lead: Lead, key: bytes, form: Form) -> None:
        call.lead, call.flight_key = lead, key
        self._forms[key] = form
        self._ended.discard(key)
        _streaming.shield(flow, lead)

    def _leave_flight(self, call: Call, reason: str) -> None:
        """Lead no longer; a flight that has not landed fails, and one of those who wait leads on."""
        if call.lead is not None:
            self._forms.pop(call.flight_key, None)
            self._ended.discard(call.flight_key)
            call.lead.fail(reason)
            call.lead = None

    def _board(self, flow: http.HTTPFlow, call: Call, boarded: Boarded, engine: Engine) -> None:
        """Answer *flow* with the bytes of the identical call in flight."""
        call.local, call.reason = True, "in-flight"
        _streaming.serve(flow, boarded.status, boarded.headers, boarded.chunks)
        if engine.config.headers:
            _flows.mark(flow, layer=FLIGHT_LAYER, provider=call.provider, deflected=True)
        flow.marked = HIT_MARKER
        flow.comment = f"promptweir {call.id}: shared with an identical call in flight"

    # --- learning

    async def _finish(self, flow: http.HTTPFlow, call: Call, engine: Engine, raw: bytes | None) -> None:
        """Understand the answer of a provider, teach the layers, write the record."""
        prompt, response = call.prompt, flow.response
        assert response is not None
        row = call.trip(
            layer=PROVIDER_LAYER, status=response.status_code, at_ns=now_ns(), deflected=False, upstream=True
        )
        if prompt is None:
            engine.store.record(row)
            return
        completion = None
        if raw is not None:
            try:
                completion = await _understood(response, raw, prompt, engine.config.answer_max_bytes)
            except ValueError:
                # Not whole, or not what the dialect says: passed on as it was, and not learned.
                row = msgspec.structs.replace(row, reason=f"{row.reason}, not-whole")
        if call.lead is not None and (completion is not None or _says_its_end(response)):
            call.lead.end()
        if completion is None:
            self._leave_flight(call, "the answer is not whole")
        heading = (("endpoint", prompt.path), *prompt.headers)
        fingerprint = await asyncio.to_thread(fingerprint_of, prompt.dialect, prompt.fields, heading, engine.pepper)
        if completion is not None:
            await teach(replace(prompt, fingerprint=fingerprint), completion, engine.layers, report)
            assert completion.answer is not None
            row = _with_usage(row, completion.answer.usage)
        else:
            engine.exact.forget_call(prompt.id)
        if call.lead is not None:
            call.lead.land()
            self._landings += 1
            self._leave_flight(call, "landed")
        engine.store.record(msgspec.structs.replace(row, fingerprint=fingerprint))

    def _start(self, work: Coroutine[object, object, None], call: Call) -> None:
        """Run *work* beside the flow; beyond the bound it is not done at all."""
        if len(self._tasks) >= MAX_TASKS:
            work.close()
            if self._engine is not None:
                self._engine.exact.forget_call(call.id)
            self._leave_flight(call, "too many answers at once")
            return
        task = asyncio.create_task(work, name=f"promptweir-learn-{call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # However it ended: nobody must wait for a flight that nobody leads.
        task.add_done_callback(lambda _: self._leave_flight(call, "not learned"))


def _says_its_end(response: http.Response) -> bool:
    """Tell whether the framing would have shown a cut; where the connection's end ends the body, it would not."""
    return response.is_http2 or "content-length" in response.headers or "transfer-encoding" in response.headers


async def _understood(response: http.Response, raw: bytes, prompt: Prompt, max_bytes: int) -> Completion:
    def understand() -> Completion:
        completion = _flows.completion_of(response, raw, prompt.facts.encoding, max_bytes)
        codec = CODECS[prompt.dialect]
        answer = codec.understand(frames_of(completion.body, completion.encoding), completion.encoding)
        return replace(completion, answer=answer)

    return (
        await asyncio.to_thread(understand)
        if len(raw) > THREAD_FROM_BYTES or response.headers.get("content-encoding")
        else understand()
    )


def _with_usage(row: Row, usage: Usage) -> Row:
    return msgspec.structs.replace(
        row, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cached_tokens=usage.cached_tokens
    )


def _may_sign(host: str) -> bool:
    """Tell whether a certificate of ours for *host* would be taken: a constrained CA made for other hosts is of no use."""
    store = getattr(ctx.master.addons.get("tlsconfig"), "certstore", None)  # type: ignore[no-untyped-call]
    return not isinstance(store, LeafStore) or store.authority.covers(host)


def _listens_beyond_loopback() -> bool:
    """Tell whether anyone but this machine can reach one of the ports."""
    modes = [ProxyMode.parse(spec) for spec in ctx.options.mode]
    return any(
        mode.type_name in {"wireguard", "tun"} or not _is_loopback(mode.listen_host(ctx.options.listen_host))
        for mode in modes
        if mode.type_name != "local"
    )


def _is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*; an empty one means all interfaces."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
