"""The canonical form of a request: what its key is made of.

Goals: every byte that can change an answer counts; what provably cannot is left out, by a list with reasons; and a
50 kB request of an agent costs a fraction of a millisecond.

Plan.  The top level of the body is read as raw values.  Long lists (messages, tools, system blocks) are cut into
*blocks*, still raw bytes.  A block is decoded, stripped of bookkeeping, searched for atoms and hashed once; a bounded
memo remembers the result by the block's own bytes, because from turn to turn an agent sends the same blocks again.
Atoms are numbered across blocks in order of first appearance; the numbers go into the key, the spellings do not.

Rules for order and spelling: the order of keys counts inside values that a model sees (schemas, tool arguments), and
does not in the envelope that a provider parses (message, block, top level).  White space and escapes between values do
not count.  A request with a duplicate key, a number out of range, or nesting beyond ``MAX_DEPTH`` has no canonical
form: ``ValueError``; such a call passes.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from promptweir.layers.atoms import TOOL_ID, Atom, Rules, declared, is_preamble, may_hold_atoms, pieces_of, roots_of
from promptweir.layers.contract import Dialect, Fields, Json

MEMO_MAX_BYTES = 64 << 20
"""Raw bytes of the blocks remembered; about a thousand turns of an agent."""
MAX_DEPTH = 200

_ABUSE = "identifies the caller to the provider's abuse detection; the model does not see it"
_LABELS = "labels for the caller's own bookkeeping; the model does not see them"
_PROMPT_CACHE = "steers the provider's prompt cache; the answer is the same with and without"
_LAYOUT = "the layout of the answer on the wire, which is made for each client anew"

OMITTED: Mapping[Dialect, Mapping[str, str]] = MappingProxyType(
    {
        Dialect.ANTHROPIC_MESSAGES: {"metadata": _ABUSE, "stream": _LAYOUT, "cache_control": _PROMPT_CACHE},
        Dialect.ANTHROPIC_COUNT_TOKENS: {"cache_control": _PROMPT_CACHE},
        Dialect.OPENAI_CHAT: {
            "stream": _LAYOUT,
            "stream_options": _LAYOUT + "; whether usage is wanted is in the key",
            "user": _ABUSE,
            "safety_identifier": _ABUSE,
            "metadata": _LABELS,
            "prompt_cache_key": _PROMPT_CACHE,
            "prompt_cache_retention": _PROMPT_CACHE,
            "prompt_cache_options": _PROMPT_CACHE,
        },
        Dialect.OPENAI_RESPONSES: {
            "stream": _LAYOUT,
            "stream_options": _LAYOUT,
            "user": _ABUSE,
            "safety_identifier": _ABUSE,
            "metadata": _LABELS + "; the answer's copy is made anew",
            "client_metadata": "Codex's session, thread and turn ids",
            "prompt_cache_key": _PROMPT_CACHE + "; the answer's copy is made anew",
            "prompt_cache_retention": _PROMPT_CACHE,
            "prompt_cache_options": _PROMPT_CACHE,
            "previous_response_id": "stands for the parent's canonical state, which is in the key",
            "store": "in the key as a fact, with the provider's default filled in",
        },
        Dialect.OPENAI_EMBEDDINGS: {"user": _ABUSE},
        Dialect.GEMINI_GENERATE: {"labels": _LABELS},
        Dialect.GEMINI_COUNT_TOKENS: {},
        Dialect.NATIVE_CHAT: {},
    }
)
"""Per dialect, the top-level fields that are left out of the key, each with its reason."""

OMITTED_IN_BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        "cache_control": _PROMPT_CACHE + "; Claude Code moves it to the newest block at every turn",
        "internal_chat_message_metadata_passthrough": "Codex's turn id and clock",
        "id (Responses items, but for item_reference)": "bookkeeping; items are told apart by their place",
    }
)
_BILLING = "x-anthropic-billing-header:"
"""Claude Code's first system block; its ``cch`` differs in every request and the provider strips it."""

_OPAQUE_KEYS = frozenset(
    {"signature", "encrypted_content", "thoughtSignature", "thought_signature", "data", "b64_json", "file_data"}
)
_ID_KEYS = frozenset({"id", "tool_use_id", "call_id", "tool_call_id"})
_ATOMS_KEY = "\0atoms"


@dataclass(frozen=True, slots=True)
class Part:
    """One block, context-free but for the declared roots."""

    digest: bytes
    atoms: tuple[Atom, ...]
    """In order of appearance, repeats included."""


@dataclass(slots=True)
class _Remembered:
    preamble_roots: tuple[Atom, ...] | None = None
    parts: dict[tuple[Atom, ...], Part] | None = None


@dataclass(frozen=True, slots=True)
class Canonical:
    """The canonical form, hashed."""

    digest: bytes
    atoms: tuple[Atom, ...]
    """Each distinct atom once; its index is its number in the key."""


type _Shaper = Callable[["_Walk", Json], Json]


class Canonicaliser:
    """Makes canonical forms under one set of rules; remembers blocks.  Not thread-safe: one per event loop."""

    def __init__(self, rules: Rules, memo_max_bytes: int = MEMO_MAX_BYTES) -> None:
        self._rules = rules
        self._memo: OrderedDict[tuple[str, bytes], _Remembered] = OrderedDict()
        self._memo_bytes = 0
        self._memo_max_bytes = memo_max_bytes

    def canonical_of(self, dialect: Dialect, fields: Fields) -> Canonical:
        """Return the canonical form of a request; ``ValueError`` where it has none."""
        blocks = list(_blocks_of(dialect, fields))
        roots: tuple[Atom, ...] = ()
        if self._rules.relocate:
            declarations: list[Atom] = []
            for block in blocks:
                if block.speaks:
                    declarations += self._declared(block)
            roots = roots_of(declarations)
        numbers: dict[Atom, int] = {}
        digest = hashlib.blake2b(digest_size=32)
        # The roots come first, so that their numbers do not depend on where they happen to be used.
        for root in roots:
            numbers[root] = len(numbers)
            digest.update(root[0].encode() + b"\0")
        digest.update(_nesting(roots))
        for block in blocks:
            part = self._part(block, roots)
            order = [numbers.setdefault(atom, len(numbers)) for atom in part.atoms]
            digest.update(block.label)
            digest.update(part.digest)
            digest.update(len(order).to_bytes(4, "big"))
            if order:
                digest.update(b"".join(number.to_bytes(4, "big") for number in order))
        return Canonical(digest.digest(), tuple(numbers))

    def _remembered(self, block: "_Block") -> _Remembered:
        key = (block.shape, block.raw)
        known = self._memo.get(key)
        if known is None:
            known = self._memo[key] = _Remembered()
            self._memo_bytes += len(block.raw)
            while self._memo_bytes > self._memo_max_bytes and len(self._memo) > 1:
                (_, old), _ = self._memo.popitem(last=False)
                self._memo_bytes -= len(old)
        else:
            self._memo.move_to_end(key)
        return known

    def _declared(self, block: "_Block") -> tuple[Atom, ...]:
        known = self._remembered(block)
        if known.preamble_roots is None:
            found: list[Atom] = []
            for text in _preamble_texts(block.shape, _decoded(block.raw)):
                found += declared(text)
            known.preamble_roots = tuple(found)
        return known.preamble_roots

    def _part(self, block: "_Block", roots: tuple[Atom, ...]) -> Part:
        known = self._remembered(block)
        if known.parts is None:
            known.parts = {}
        part = known.parts.get(roots)
        if part is None:
            if len(known.parts) >= 8:  # another checkout each time: do not let one block's memo grow
                known.parts.clear()
            walk = _Walk(self._rules, roots, may_hold_atoms(block.raw, self._rules, roots))
            shaped = _SHAPES[block.shape](walk, _decoded(block.raw))
            part = known.parts[roots] = Part(
                hashlib.blake2b(_encoded(shaped), digest_size=32).digest(), tuple(walk.atoms)
            )
        return part


def _nesting(roots: tuple[Atom, ...]) -> bytes:
    """Say which root lies inside which: an answer such as ``~/app`` depends on it."""
    return bytes(
        a[1] != b[1] and a[1].startswith(b[1].rstrip("\\/")) and a[1][len(b[1].rstrip("\\/")) :][:1] in {"/", "\\"}
        for a in roots
        for b in roots
    )


def _decoded(raw: bytes) -> Json:
    """Decode JSON strictly: no duplicate keys, NaN, infinities or lone surrogates."""
    try:
        msgspec.json.decode(raw)
        if raw[:1] not in b"{[":
            return json.loads(raw)  # type: ignore[no-any-return]
        return json.loads(raw, object_pairs_hook=_distinct)  # type: ignore[no-any-return]
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("duplicate key")
    return known


def _encoded(value: Json) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (RecursionError, OverflowError, msgspec.MsgspecError):
        raise ValueError("no canonical encoding") from None


@dataclass(frozen=True, slots=True)
class _Block:
    shape: str
    label: bytes
    raw: bytes
    speaks: bool = False
    """The client may declare its roots here."""


def _blocks_of(dialect: Dialect, fields: Fields) -> Sequence[_Block]:
    omitted = OMITTED[dialect]
    blocks: list[_Block] = []
    shapes = _SHAPES_OF[dialect]
    for name in sorted(fields, key=lambda name: (_FIRST.get(name, 9), name)):
        if name in omitted:
            continue
        raw = bytes(fields[name])
        label = name.encode()
        label = len(label).to_bytes(4, "big") + label
        shape, speaks = shapes.get(name, ("value", False))
        if shape != "value" and raw[:1] == b"[":
            items = _items_of(raw)
            label += b"[" + len(items).to_bytes(4, "big")
            blocks += [_Block(shape, label, bytes(item), speaks) for item in items]
            if not items:
                blocks.append(_Block("value", label, b"[]"))
        else:
            blocks.append(_Block("value" if shape == "tool" else shape, label + b"=", raw, speaks))
    return blocks


def _items_of(raw: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(raw, type=list[msgspec.Raw])
    except RecursionError:
        raise ValueError("nested too deeply") from None


_FIRST = {
    "system": 0,
    "instructions": 0,
    "systemInstruction": 0,
    "system_instruction": 0,
    "tools": 1,
    "messages": 2,
    "input": 2,
    "contents": 2,
}
_SHAPES_OF: Mapping[Dialect, Mapping[str, tuple[str, bool]]] = MappingProxyType(
    {
        Dialect.ANTHROPIC_MESSAGES: {
            "system": ("system", True),
            "tools": ("tool", False),
            "messages": ("message", True),
        },
        Dialect.ANTHROPIC_COUNT_TOKENS: {
            "system": ("system", True),
            "tools": ("tool", False),
            "messages": ("message", True),
        },
        Dialect.OPENAI_CHAT: {"messages": ("message", True), "tools": ("tool", False)},
        Dialect.OPENAI_RESPONSES: {
            "instructions": ("system", True),
            "tools": ("tool", False),
            "input": ("item", True),
        },
        Dialect.OPENAI_EMBEDDINGS: {},
        Dialect.GEMINI_GENERATE: {
            "systemInstruction": ("gemini-system", True),
            "system_instruction": ("gemini-system", True),
            "tools": ("tool", False),
            "contents": ("gemini", True),
        },
        Dialect.GEMINI_COUNT_TOKENS: {"contents": ("gemini", True)},
        Dialect.NATIVE_CHAT: {},
    }
)


class _Walk:
    """Replaces atoms in the values of one block, and collects them."""

    def __init__(self, rules: Rules, roots: tuple[Atom, ...], searching: bool) -> None:
        self.rules = rules
        self.roots = roots
        self.searching = searching
        self.atoms: list[Atom] = []

    def text(self, text: str) -> Json:
        pieces = pieces_of(text, self.rules, self.roots) if self.searching else ()
        if not pieces:
            return text
        marked: list[Json] = []
        at = 0
        for piece in pieces:
            self.atoms.append(piece.atom)
            # The escaped spelling of a path and the plain one are different texts.
            escaped = text[piece.start : piece.end] != piece.atom[1]
            marked += [text[at : piece.start], piece.atom[0] + ("+" if escaped else "")]
            at = piece.end
        return {_ATOMS_KEY: [*marked, text[at:]]}

    def value(self, value: Json, depth: int = 0) -> Json:
        """A value the model sees: key order counts, strings are searched."""
        if not self.searching:
            return value
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        match value:
            case str():
                return self.text(value)
            case dict():
                shaped: dict[str, Json] = {}
                for key, inner in value.items():
                    name = "\0" + key if key.startswith("\0") else key
                    shaped[name] = (
                        inner if key in _OPAQUE_KEYS and isinstance(inner, str) else self.value(inner, depth + 1)
                    )
                return shaped
            case list():
                return [self.value(inner, depth + 1) for inner in value]
            case _:
                return value

    def id_atom(self, value: Json) -> Json:
        if not isinstance(value, str):
            return self.value(value)
        self.atoms.append((TOOL_ID, value))
        return {_ATOMS_KEY: ["", TOOL_ID, ""]}

    def envelope(self, value: Json, *, nested: Mapping[str, _Shaper], ids: bool, drop: frozenset[str]) -> Json:
        """An object that a provider parses: key order does not count, bookkeeping is dropped."""
        if not isinstance(value, dict):
            return self.value(value)
        shaped: dict[str, Json] = {}
        for key in sorted(value):
            if key in drop:
                continue
            inner = value[key]
            name = "\0" + key if key.startswith("\0") else key
            if ids and key in _ID_KEYS:
                shaped[name] = self.id_atom(inner)
            elif key in nested:
                shaped[name] = nested[key](self, inner)
            elif key in _OPAQUE_KEYS and isinstance(inner, str):
                shaped[name] = inner
            else:
                shaped[name] = self.value(inner)
        return shaped


_HINT = frozenset({"cache_control"})
_ITEM_DROP = frozenset({"cache_control", "internal_chat_message_metadata_passthrough"})


def _each(shaper: _Shaper) -> _Shaper:
    return lambda walk, value: (
        [shaper(walk, inner) for inner in value] if isinstance(value, list) else walk.value(value)
    )


def _block(walk: _Walk, value: Json) -> Json:
    """One content block of a message (Anthropic's, or a part of OpenAI's)."""
    return walk.envelope(value, nested={"content": _each(_block)}, ids=_has_tool_id(value), drop=_HINT)


def _has_tool_id(value: Json) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str) and "tool" in str(value["type"])


def _system(walk: _Walk, value: Json) -> Json:
    if (
        isinstance(value, dict)
        and isinstance(text := value.get("text"), str)
        and text.startswith(_BILLING)
        and "\n" not in text.strip()
    ):
        return {"billing": None}
    return _block(walk, value)


def _tool_call(walk: _Walk, value: Json) -> Json:
    return walk.envelope(value, nested={}, ids=True, drop=frozenset())


def _message(walk: _Walk, value: Json) -> Json:
    ids = isinstance(value, dict) and "tool_call_id" in value and "id" not in value
    return walk.envelope(value, nested={"content": _each(_block), "tool_calls": _each(_tool_call)}, ids=ids, drop=_HINT)


def _item(walk: _Walk, value: Json) -> Json:
    """One input item of OpenAI Responses."""
    if not isinstance(value, dict):
        return walk.value(value)
    if value.get("type") == "item_reference":
        return {"\0item": value.get("id")}
    bare = {key: inner for key, inner in value.items() if key != "id"}
    nested = {"content": _each(_block), "output": _each(_block), "tools": _each(_tool)}
    return walk.envelope(bare, nested=nested, ids=True, drop=_ITEM_DROP)


def _tool(walk: _Walk, value: Json) -> Json:
    return walk.envelope(value, nested={}, ids=False, drop=_HINT)


def _gemini_part(walk: _Walk, value: Json) -> Json:
    return walk.envelope(
        value,
        nested={
            "functionCall": _tool_call,
            "functionResponse": _tool_call,
            "function_call": _tool_call,
            "function_response": _tool_call,
        },
        ids=False,
        drop=frozenset(),
    )


def _gemini(walk: _Walk, value: Json) -> Json:
    return walk.envelope(value, nested={"parts": _each(_gemini_part)}, ids=False, drop=frozenset())


_SHAPES: Mapping[str, _Shaper] = MappingProxyType(
    {
        "value": lambda walk, value: walk.value(value),
        "system": _system,
        "tool": _tool,
        "message": _message,
        "item": _item,
        "gemini": _gemini,
        "gemini-system": _gemini,
    }
)


def _preamble_texts(shape: str, value: Json) -> list[str]:
    """Return the texts of a block in which the client may speak about itself."""
    match value:
        case str():
            return [value] if shape in {"system", "gemini-system"} else []
        case dict():
            role = "system" if shape in {"system", "gemini-system"} else str(value.get("role", ""))
            texts = [value.get("text"), value.get("content")]
            for inner in (value.get("content"), value.get("parts")):
                if isinstance(inner, list):
                    texts += [part.get("text") for part in inner if isinstance(part, dict)]
            return [text for text in texts if isinstance(text, str) and is_preamble(role, text)]
        case _:
            return []
