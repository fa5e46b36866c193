"""L1a, the exact cache: answers a call that was answered before.

Goals: a repeat, a retry, or a rerun in a new session, directory or home is answered from the store; whatever can
change an answer makes a different key; the answer is right for *this* request, or it is not given.

Plan.  ``call_of`` makes the key (see ``canonical`` and ``keys``).  ``consider`` finds the entry, asks the policies
(age, temperature, repeats inside a session, effect of the tool calls) and replays it (see ``replay``).  ``learn``
takes in whole answers with a clean ending only.

What it does not do: it judges no meaning (two wordings are two questions), and it never amends a request.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from promptweir.layers.atoms import Atom, Rules
from promptweir.layers.canonical import Canonicaliser
from promptweir.layers.contract import (
    Answer,
    CacheControl,
    Completion,
    Deflect,
    Dialect,
    Encoding,
    Ending,
    Pass,
    Prompt,
    Verdict,
)
from promptweir.layers.dialects.base import Codec
from promptweir.layers.effects import Effect, effect_of
from promptweir.layers.frames import Frame, SlotKind
from promptweir.layers.keys import digest_of, key_of, wants_usage
from promptweir.layers.replay import Recorded, Replayer, Template, Token, UnfitError, taken_in
from promptweir.layers.sessions import Repeat, SessionLog
from promptweir.layers.stores.types import Entry
from promptweir.layers.wire import dumps

NAME = "l1a"
BUDGET_S = 2.0
"""A lookup takes well under a millisecond; this is for a disk that hangs."""
MAX_TEMPLATES_BYTES = 32 << 20
MAX_TEMPLATES = 2000
"""Each also keeps the atoms of its request, some hundred short strings."""
MAX_LOOK_BYTES = 16 << 20
"""Of a request; a larger one passes."""
THREAD_FROM_BYTES = 1 << 20
"""Larger requests get their canonical form on a thread."""
MAX_CALLS = 10_000
"""Calls under way whose key is remembered between ``consider`` and ``learn``."""
_REMOTE = re.compile(rb'"(?:url|image_url|file_url|fileUri|file_uri|uri)"\s*:\s*"(?:https?|gs|s3):')
"""An image or file that the provider fetches: the same URL may show something else tomorrow."""

_UNCOUNTED = frozenset({Dialect.ANTHROPIC_COUNT_TOKENS, Dialect.GEMINI_COUNT_TOKENS, Dialect.OPENAI_EMBEDDINGS})
"""Pure functions of their input: asking again is no loop."""

CONTENT_TYPES: Mapping[Encoding, str] = MappingProxyType(
    {
        Encoding.JSON: "application/json",
        Encoding.JSON_ARRAY: "application/json",
        Encoding.SSE: "text/event-stream; charset=utf-8",
        Encoding.AWS_EVENT_STREAM: "application/vnd.amazon.eventstream",
    }
)


class Store(Protocol):
    """Where entries live."""

    async def get(self, key: bytes) -> Entry | None:
        """Return the entry under *key*, if it is there and not expired."""
        ...

    def put(self, entry: Entry) -> None:
        """Take in *entry*; never blocks."""
        ...

    def touch(self, key: bytes) -> None:
        """Count an answer given from the entry under *key*."""
        ...

    def link(self, tenant: bytes, response_id: str, state: bytes) -> None:
        """Remember the conversation state that *response_id* stands for."""
        ...

    async def linked(self, tenant: bytes, response_id: str) -> bytes | None:
        """Return that state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is served and learned."""

    ttl_ns: int
    remote_ttl_ns: int
    """For calls that name an image or file by URL."""
    max_temperature: float | None
    read_only: str
    mutating: str
    provider_tools: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A prompt's place in the cache."""

    key: bytes
    """Where its answer is learned."""
    also: bytes | None
    """A second key whose answer serves too: the one that carries usage, when this client wants none."""
    atoms: tuple[Atom, ...]


class ExactCache:
    """The layer."""

    name = NAME
    budget_s = BUDGET_S

    def __init__(
        self,
        *,
        store: Store,
        codecs: Mapping[Dialect, Codec],
        rules: Rules,
        policy: Policy,
        sessions: SessionLog,
        origin_of: Callable[[str], str],
        searches: Callable[[str], bool],
        token: Token,
        now_ns: Callable[[], int],
    ) -> None:
        """*origin_of* maps a host to the origin its calls really go to; *searches* tells whether a provider always searches the web."""
        self._store = store
        self._codecs = codecs
        self._policy = policy
        self._sessions = sessions
        self._origin_of = origin_of
        self._searches = searches
        self._token = token
        self._now_ns = now_ns
        self._canonicaliser = Canonicaliser(rules)
        self._large = Canonicaliser(rules)
        """Only for the thread."""
        self._thread = ThreadPoolExecutor(1, "promptweir-canonical")
        self._replayers = {dialect: Replayer(codec, rules, token) for dialect, codec in codecs.items()}
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._templates: OrderedDict[tuple[object, ...], Template] = OrderedDict()
        self._templates_bytes = 0

    async def call_of(self, prompt: Prompt) -> Call:
        """Return the prompt's place in the cache; ``ValueError`` where it can have none."""
        known = self._calls.get(prompt.id)
        if known is not None:
            return known
        if len(prompt.body) > MAX_LOOK_BYTES:
            raise ValueError("too large to look at")
        if len(prompt.body) > THREAD_FROM_BYTES:
            # Hundreds of milliseconds where nothing is remembered of it; meanwhile the others' bytes go on.
            look = asyncio.get_running_loop().run_in_executor
            canonical = await look(self._thread, self._large.canonical_of, prompt.dialect, prompt.fields)
        else:
            canonical = self._canonicaliser.canonical_of(prompt.dialect, prompt.fields)
        origin = self._origin_of(prompt.host) or prompt.origin
        parent = b""
        if parent_id := prompt.facts.parent_id:
            # An unknown parent stands for itself: its id names one conversation state at the provider.
            parent = await self._store.linked(prompt.tenant, parent_id) or b"id:" + parent_id.encode()
        usage = wants_usage(prompt)
        key = key_of(prompt, canonical, origin=origin, parent=parent, usage=usage)
        also = None if usage else key_of(prompt, canonical, origin=origin, parent=parent, usage=True)
        call = self._calls[prompt.id] = Call(key=key, also=also, atoms=canonical.atoms)
        if len(self._calls) > MAX_CALLS:
            self._calls.popitem(last=False)
        return call

    async def consider(self, prompt: Prompt) -> Verdict:
        """Answer from the store where that is right."""
        if prompt.facts.refuse:
            return Pass(reason=prompt.facts.refuse)
        try:
            call = await self.call_of(prompt)
        except ValueError:
            return Pass(reason="no-canonical-form")
        if prompt.control in {CacheControl.BYPASS, CacheControl.REFRESH}:
            return Pass(reason=prompt.control.value)
        limit = self._policy.max_temperature
        if limit is not None and (1.0 if prompt.facts.temperature is None else prompt.facts.temperature) > limit:
            return Pass(reason="temperature")
        entry = await self._store.get(call.key)
        if entry is None and call.also is not None:
            entry = await self._store.get(call.also)
        now_ns = self._now_ns()
        if entry is None or now_ns - entry.created_ns > self._policy.ttl_ns or now_ns >= entry.expires_ns:
            return Pass(reason="miss")
        if refused := self._refused(prompt, call, Effect(entry.effect), now_ns):
            return Pass(reason=refused)
        try:
            body = self._replayed(prompt, call, entry)
        except UnfitError as unfit:
            return Pass(reason=f"unfit-{unfit}")
        self._store.touch(entry.key)
        self._answered(prompt, call, now_ns)
        self._calls.pop(prompt.id, None)  # nothing will be learned
        encoding = prompt.facts.encoding
        content_type = entry.content_type if entry.encoding == encoding.value else CONTENT_TYPES[encoding]
        return Deflect(
            completion=Completion(status=entry.status, content_type=content_type, encoding=encoding, body=body),
            reason="hit",
            usage=entry.usage,
        )

    async def learn(self, prompt: Prompt, completion: Completion) -> None:
        """Take in a whole answer, if its ending is clean and its kind is one that we serve."""
        if prompt.facts.refuse or prompt.control is CacheControl.BYPASS or not 200 <= completion.status < 300:
            return
        answer = completion.answer
        if prompt.facts.parent_id:
            # A child asked right after its parent's answer comes before that answer is learned; by now it is.
            self._calls.pop(prompt.id, None)
        try:
            call = await self.call_of(prompt)
        except ValueError:
            return
        finally:
            self._calls.pop(prompt.id, None)
        if answer is None:
            return
        now_ns = self._now_ns()
        self._answered(prompt, call, now_ns)
        if answer.ending is not Ending.CLEAN:
            return
        if not self._policy.provider_tools and (answer.provider_tools or self._searches(prompt.provider)):
            return
        ttl_ns = self._policy.ttl_ns
        if _REMOTE.search(prompt.body):
            ttl_ns = min(ttl_ns, self._policy.remote_ttl_ns)
        self._store.put(
            Entry(
                key=call.key,
                tenant=prompt.tenant,
                dialect=prompt.dialect.value,
                model=prompt.facts.model,
                status=completion.status,
                content_type=completion.content_type,
                encoding=completion.encoding.value,
                body=completion.body,
                atoms=call.atoms,
                effect=effect_of(answer.tool_calls).value,
                ending=answer.reason,
                client=prompt.client,
                created_ns=now_ns,
                expires_ns=now_ns + ttl_ns,
                usage=answer.usage,
                fingerprint=prompt.fingerprint,
                prompt_id=prompt.id,
            )
        )
        response_id = answer.doc.get("id")
        if prompt.facts.stored and isinstance(response_id, str):
            self._store.link(prompt.tenant, response_id, self._state_of(prompt, call, answer))

    def forget_call(self, prompt_id: str) -> None:
        """Drop what was remembered of a call that will not be learned."""
        self._calls.pop(prompt_id, None)

    def _refused(self, prompt: Prompt, call: Call, effect: Effect, now_ns: int) -> str | None:
        """Return why the policies do not serve this entry now, or None."""
        policy = {
            Effect.NONE: "serve",
            Effect.READ_ONLY: self._policy.read_only,
            Effect.MUTATING: self._policy.mutating,
        }[effect]
        if policy == "pass":
            return f"effect-{effect.value}"
        if prompt.dialect in _UNCOUNTED:
            return None
        match self._sessions.repeat_of(prompt.tenant, prompt.session, call.key, now_ns, retry=prompt.retry):
            case Repeat.LOOP:
                return "loop"
            case Repeat.AGAIN if policy == "new-session":
                return "again"
            case _:
                return None

    def _answered(self, prompt: Prompt, call: Call, now_ns: int) -> None:
        if prompt.dialect not in _UNCOUNTED:
            self._sessions.answered(prompt.tenant, prompt.session, call.key, now_ns)

    def _replayed(self, prompt: Prompt, call: Call, entry: Entry) -> bytes:
        facts = prompt.facts
        name = (entry.key, entry.created_ns, call.atoms, facts.encoding, facts.include_usage)
        template = self._templates.get(name)
        if template is not None:
            self._templates.move_to_end(name)
        else:
            recorded = Recorded(
                body=entry.body,
                encoding=Encoding(entry.encoding),
                atoms=tuple((kind, spelling) for kind, spelling in entry.atoms),
                usage=entry.key == call.also or wants_usage(prompt),
            )
            template = self._replayers[prompt.dialect].template_of(recorded, call.atoms, facts)
            if not template.once:
                self._templates[name] = template
                self._templates_bytes += template.size
                while self._templates_bytes > MAX_TEMPLATES_BYTES or len(self._templates) > MAX_TEMPLATES:
                    self._templates_bytes -= self._templates.popitem(last=False)[1].size
        return template.filled(prompt.fields, self._token, taken_in(call.atoms))

    def _state_of(self, prompt: Prompt, call: Call, answer: Answer) -> bytes:
        """Return the state of the conversation after *answer*: the request's key and atoms, and the answer without its ids.

        The atoms go in as they are spelled: a child request does not repeat them, so nothing could rename them back.
        """
        frame = Frame(raw=b"", doc=answer.doc)
        numbers: dict[str, int] = {}
        for slot in self._codecs[prompt.dialect].slots([frame], Encoding.JSON):
            old = slot.container[slot.key]  # type: ignore[index]
            if slot.kind in {SlotKind.RESPONSE_ID, SlotKind.TOOL_ID} and isinstance(old, str):
                slot.container[slot.key] = numbers.setdefault(old, len(numbers))  # type: ignore[index]
        spelled = [part.encode() for atom in call.atoms for part in atom]
        return digest_of((call.key, len(spelled).to_bytes(4, "big"), *spelled, dumps(answer.doc.get("output"))))
