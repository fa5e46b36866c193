"""The canonical form of a request: what its key is made of.

Goals: every byte that can change an answer counts; what provably cannot is left out, by a list with reasons; and a
50 kB request of an agent costs a fraction of a millisecond.

Plan.  The top level of the body is read as raw values.  Long lists (messages, tools, system blocks) are cut into
*blocks*, still raw bytes.  A block is decoded strictly (``strict``), stripped of bookkeeping and searched for atoms
(``shapes``), and hashed, once; a bounded memo remembers the result by the block's own bytes, because from turn to turn
an agent sends the same blocks again.  The list of tools is remembered as a whole as well.  Atoms are numbered across
blocks in order of first appearance; the numbers go into the key, the spellings do not.

White space and escapes between values do not count, nor does the order of keys where only a provider parses them.  A
request with a duplicate key, a number out of range, or nesting beyond ``MAX_DEPTH`` has no canonical form:
``ValueError``; such a call passes.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from promptweir.layers.atoms import TOOL_ID, WALL, Atom, Rules, declared, roots_of, search_in
from promptweir.layers.contract import Dialect, Fields, Json
from promptweir.layers.shapes import BILLING, BILLING_REST, SHAPES, Walk, preamble_texts
from promptweir.layers.strict import decoded, encoded, items_of

MEMO_MAX_BYTES = 64 << 20
"""What the blocks remembered take; about a thousand turns of an agent."""
MEMO_BLOCK_BYTES = 1024
"""What a block takes beside its own bytes, roughly."""
MAX_CHECKOUTS = 8
"""Sets of roots under which one block is remembered."""
MAX_ROOT_SETS = 256
MAX_PLANS = 256
"""Sets of field names; a client uses a few."""

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


@dataclass(frozen=True, slots=True)
class Canonical:
    """The canonical form, hashed."""

    digest: bytes
    atoms: tuple[Atom, ...]
    """Each distinct atom once; its index is its number in the key."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One block, context-free but for the declared roots."""

    head: bytes
    """Digest and number of atoms."""
    atoms: tuple[Atom, ...]
    """In order of appearance, repeats included."""
    bound: frozenset[Atom]
    """Those that are ids of tool calls here."""


@dataclass(frozen=True, slots=True)
class _Roots:
    """The declared roots of a request; one object for each distinct set."""

    atoms: tuple[Atom, ...]
    heading: bytes


@dataclass(slots=True, eq=False)
class _Block:
    """A run of bytes and what is known about it."""

    shape: str
    raw: bytes
    declared: tuple[Atom, ...] | None = None
    roots: _Roots | None = None
    """Those under which ``part`` was made."""
    part: _Part | None = None
    """The last of ``parts``."""
    parts: dict[tuple[Atom, ...], _Part] = field(default_factory=dict)


type _Field = tuple[str, bytes, str, bool]
"""Name, label, shape, and whether the client may declare its roots there."""


class Canonicaliser:
    """Makes canonical forms under one set of rules; remembers blocks.  Not thread-safe: one per event loop."""

    def __init__(self, rules: Rules, memo_max_bytes: int = MEMO_MAX_BYTES) -> None:
        self._rules = rules
        self._memo = _Memo(memo_max_bytes)
        self._root_sets: dict[tuple[Atom, ...], _Roots] = {}
        self._plans: dict[tuple[Dialect, tuple[str, ...]], list[_Field]] = {}

    def canonical_of(self, dialect: Dialect, fields: Fields) -> Canonical:
        """Return the canonical form of a request; ``ValueError`` where it has none."""
        values: dict[_Block, Json] = {}
        groups, declarations = self._read(dialect, fields, values)
        roots = self._roots_of(declarations)
        # The roots come first, so that their numbers do not depend on where they happen to be used.
        numbers = {atom: number for number, atom in enumerate(roots.atoms)}
        said = [roots.heading]
        bound: set[Atom] = set()
        for label, blocks in groups:
            said.append(label)
            for block in blocks:
                part = block.part
                if part is None or block.roots is not roots:
                    part = self._part(block, roots, values)
                said.append(part.head)
                if part.atoms:
                    said += [numbers.setdefault(atom, len(numbers)).to_bytes(4, "big") for atom in part.atoms]
                    bound |= part.bound
        # What looks like the id of a tool call, but is none in this conversation, may be what is asked about.
        said.append(repr([atom[1] for atom in numbers if atom[0] == TOOL_ID and atom not in bound]).encode())
        # Which of two waits was the longer one can be the question, even where both are short.
        said.append(
            repr(
                sorted((number for atom, number in numbers.items() if atom[0] == WALL), key=_seconds(numbers))
            ).encode()
        )
        return Canonical(hashlib.blake2b(b"".join(said), digest_size=32).digest(), tuple(numbers))

    def _read(
        self, dialect: Dialect, fields: Fields, values: dict[_Block, Json]
    ) -> tuple[list[tuple[bytes, list[_Block]]], list[Atom]]:
        """Return the blocks of each field under its label, and what they declare; *values* takes what was decoded."""
        groups: list[tuple[bytes, list[_Block]]] = []
        declarations: list[Atom] = []
        block_of = self._memo.block
        for name, label, shape, speaks in self._plan_of(dialect, tuple(fields)):
            raw = bytes(fields[name])
            if shape == "value" or raw[:1] != b"[":
                blocks = [block_of("value" if shape == "tool" else shape, raw)]
                groups.append((label + b"=", blocks))
            elif speaks:
                items = items_of(raw)
                if shape == "system":
                    items = [_ANY_BILLING if _BILLING_BLOCK.fullmatch(item) else item for item in items]
                blocks = [block_of(shape, item) for item in items]
                groups.append((label + b"[" + len(items).to_bytes(4, "big"), blocks))
            else:
                blocks = [block_of(shape + _LIST, raw)]
                groups.append((label + b"[=", blocks))
            if speaks and self._rules.relocate:
                for block in blocks:
                    if block.declared is None:
                        values[block] = value = decoded(block.raw)
                        block.declared = tuple(
                            [atom for text in preamble_texts(shape, value) for atom in declared(text)]
                        )
                    declarations += block.declared
        return groups, declarations

    def _plan_of(self, dialect: Dialect, names: tuple[str, ...]) -> Sequence[_Field]:
        """Return the fields that count, in the order in which they are read."""
        plan = self._plans.get((dialect, names))
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = []
            for name in sorted(set(names) - OMITTED[dialect].keys(), key=lambda name: (_FIRST.get(name, 9), name)):
                label = name.encode()
                shape, speaks = _SHAPES_OF[dialect].get(name, ("value", False))
                plan.append((name, len(label).to_bytes(4, "big") + label, shape, speaks))
            self._plans[dialect, names] = plan
        return plan

    def _roots_of(self, declarations: list[Atom]) -> _Roots:
        atoms = roots_of(declarations)
        roots = self._root_sets.get(atoms)
        if roots is None:
            if len(self._root_sets) >= MAX_ROOT_SETS:
                self._root_sets.clear()
            # An answer made for one kind of separators is no good for the other.
            kinds = b"".join(kind.encode() + (b"\\\0" if "\\" in path else b"/\0") for kind, path in atoms)
            roots = self._root_sets[atoms] = _Roots(atoms, kinds + b"\0" + _nesting(atoms))
        return roots

    def _part(self, block: _Block, roots: _Roots, values: Mapping[_Block, Json]) -> _Part:
        part = block.parts.get(roots.atoms)
        if part is None:
            if len(block.parts) >= MAX_CHECKOUTS:
                block.parts.clear()
            part = (
                self._list_part(block, roots) if block.shape.endswith(_LIST) else self._new_part(block, roots, values)
            )
            block.parts[roots.atoms] = part
        block.roots, block.part = roots, part
        return part

    def _new_part(self, block: _Block, roots: _Roots, values: Mapping[_Block, Json]) -> _Part:
        value = values[block] if block in values else decoded(block.raw)
        tool_output = block.shape == "item" and _TOOL_OUTPUT in block.raw
        walk = Walk(search_in(block.raw, self._rules, roots.atoms, tool_output=tool_output))
        return _part_of(encoded(SHAPES[block.shape](walk, value)), tuple(walk.atoms), frozenset(walk.bound))

    def _list_part(self, block: _Block, roots: _Roots) -> _Part:
        shape = block.shape.removesuffix(_LIST)
        parts = [self._part(self._memo.block(shape, item), roots, {}) for item in items_of(block.raw)]
        atoms = tuple([atom for part in parts for atom in part.atoms])
        bound = frozenset().union(*(part.bound for part in parts))
        return _part_of(b"".join([part.head for part in parts]), atoms, bound)


class _Memo:
    """Blocks by shape and bytes, in two generations: what was not asked for while one filled up is forgotten with it."""

    def __init__(self, max_bytes: int) -> None:
        self._young: dict[tuple[str, bytes], _Block] = {}
        self._old: dict[tuple[str, bytes], _Block] = {}
        self._young_bytes = 0
        self._young_max_bytes = max_bytes // 2

    def block(self, shape: str, raw: bytes) -> _Block:
        """Return what is known about *raw*; nothing yet, if it is new."""
        key = (shape, raw)
        block = self._young.get(key)
        if block is None:
            block = self._young[key] = self._old.pop(key) if key in self._old else _Block(shape, raw)
            self._young_bytes += len(raw) + MEMO_BLOCK_BYTES
            if self._young_bytes > self._young_max_bytes:
                self._old, self._young, self._young_bytes = self._young, {}, 0
        return block


def _part_of(said: bytes, atoms: tuple[Atom, ...], bound: frozenset[Atom]) -> _Part:
    return _Part(hashlib.blake2b(said, digest_size=32).digest() + len(atoms).to_bytes(4, "big"), atoms, bound)


def _seconds(numbers: Mapping[Atom, int]) -> Callable[[int], float]:
    """Return how long the wall time of a number is."""
    seconds = {number: float(atom[1]) for atom, number in numbers.items() if atom[0] == WALL}
    return seconds.__getitem__


def _nesting(roots: tuple[Atom, ...]) -> bytes:
    """Say which root lies inside which: an answer such as ``~/app`` depends on it."""
    return bytes(
        a[1] != b[1] and a[1].startswith(b[1].rstrip("\\/")) and a[1][len(b[1].rstrip("\\/")) :][:1] in {"/", "\\"}
        for a in roots
        for b in roots
    )


_TOOL_OUTPUT = b"_output"
"""Part of the type of every item that brings back what a client's tool said."""
_LIST = "[]"
"""Marks the shape of a list that is remembered as a whole."""
_ANY_BILLING = f'{{"type":"text","text":"{BILLING}"}}'.encode()
_BILLING_BLOCK = re.compile(rb'\{"type":"text","text":"' + (BILLING + BILLING_REST).encode() + rb'"\}')
"""The usual spelling of a block that means nothing; it would else be a new block in every request."""
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
