"""Replays: a recorded answer made fit for the request at hand.

Goals: what need not change is sent as the bytes that were recorded.  The current request's atoms stand where the
recorded request's stood; ids are fresh and unique within the conversation; signed and encrypted blocks are as they
were, or the entry does not serve; and an answer that still gives away an old atom does not serve.

Plan.  Slow path, once per entry, encoding and set of atoms: cut into frames, rename slot by slot, put a random
placeholder for each id and each echoed field, write, cut at the placeholders.  What is left is a *template*: literal
bytes and holes.  Fast path, every time: fill the holes.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from promptweir.layers.atoms import (
    ROOT_KINDS,
    TOOL_ID,
    Atom,
    Rules,
    search_for,
    spelled_as,
)
from promptweir.layers.contract import Dialect, Encoding, Facts, Fields, Json
from promptweir.layers.dialects.base import Codec
from promptweir.layers.dialects.openai_chat import lacks_usage
from promptweir.layers.frames import Frame, Slot, SlotKind
from promptweir.layers.telltales import telltales_of
from promptweir.layers.wire import dumps, frames_of, join

type Token = Callable[[int], str]
"""Returns that many random ASCII letters and digits."""

_HOLE_CHARS = 28
_KEPT_TAIL_CHARS = 2
MIN_RANDOM_CHARS = 12
MIN_KEPT_CHARS = 8
"""A random part of this length keeps it; a shorter one could be guessed, or used up."""


class UnfitError(ValueError):
    """The entry cannot serve this request; the message is a metric label."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a template: a fresh id in the shape of ``old``, or a copy of the request's field ``echo_of``."""

    index: int
    old: str = ""
    echo_of: str = ""
    absent: bytes = b"null"
    """What the provider echoes when the request has no such field."""


@dataclass(frozen=True, slots=True)
class Template:
    """Literal bytes and holes in turn."""

    literals: tuple[bytes, ...]
    holes: tuple[Hole, ...]
    """One between each two literals; equal indexes get equal ids."""
    once: bool = False
    """Its ids are already fresh, so it must not be used again."""

    @property
    def size(self) -> int:
        """Bytes of its literals."""
        return sum(map(len, self.literals))

    def filled(self, fields: Fields, token: Token, taken: Callable[[str], bool]) -> bytes:
        """Return the body: fresh ids that are not *taken* in the conversation, and the request's own echoed fields."""
        made: dict[int, bytes] = {}
        parts = [self.literals[0]]
        for hole, literal in zip(self.holes, self.literals[1:], strict=True):
            filling = made.get(hole.index)
            if filling is None:
                if hole.echo_of:
                    filling = _on_one_line(bytes(fields[hole.echo_of])) if hole.echo_of in fields else hole.absent
                else:
                    fresh = fresh_id(hole.old, token)
                    while taken(fresh):
                        fresh = fresh_id(hole.old, token)
                    filling = fresh.encode()
                made[hole.index] = filling
            parts += [filling, literal]
        return b"".join(parts)


def _on_one_line(raw: bytes) -> bytes:
    """Return JSON without line ends, which would end an event of a stream; strings hold none."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def fresh_id(old: str, token: Token) -> str:
    """Return a new id in the shape of *old*: same prefix and, where it is long enough, same length and alphabet.

    Length matters: Mistral's tool ids have nine letters and digits, and it accepts no others.
    """
    cut = max(old.rfind("_"), old.rfind("-")) + 1
    if old.count("-") == 4 and len(old.rsplit("_", 1)[-1]) == 36:
        cut = len(old) - 36
        digits = _as_hex(token(32))
        return old[:cut] + "-".join((digits[:8], digits[8:12], "4" + digits[13:16], "a" + digits[17:20], digits[20:32]))
    tail = old[cut:]
    if len(tail) < MIN_KEPT_CHARS:
        return old[:cut] + token(MIN_RANDOM_CHARS)
    kept = _KEPT_TAIL_CHARS if len(tail) >= MIN_RANDOM_CHARS + _KEPT_TAIL_CHARS else 0
    random = token(len(tail) - kept)
    if not tail.strip(_HEX_DIGITS):
        random = _as_hex(random)
    elif tail == tail.lower():
        random = random.lower()
    return old[:cut] + tail[:kept] + random


_HEX_DIGITS = "0123456789abcdef"
_TO_HEX = {ord(char): _HEX_DIGITS[ord(char) % 16] for char in string.ascii_letters + string.digits}


def _as_hex(random: str) -> str:
    return random.translate(_TO_HEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An answer as it was learned, with the atoms of its request."""

    body: bytes
    encoding: Encoding
    atoms: tuple[Atom, ...]
    usage: bool = True
    """It carries token counts; a client that asked for none must not get the chunk that holds them."""


class Replayer:
    """Makes templates for one dialect."""

    def __init__(self, codec: Codec, rules: Rules, token: Token) -> None:
        self._codec = codec
        self._rules = rules
        self._token = token

    def template_of(self, recorded: Recorded, atoms: tuple[Atom, ...], facts: Facts) -> Template:
        """Return the template of *recorded* for a request with *atoms*; raises ``UnfitError``."""
        if len(atoms) != len(recorded.atoms) or any(
            old[0] != new[0] for old, new in zip(recorded.atoms, atoms, strict=True)
        ):
            raise UnfitError("atoms-differ")
        frames = frames_of(recorded.body, recorded.encoding)
        same_layout = recorded.encoding is facts.encoding and not (recorded.usage and not facts.include_usage)
        answer = None
        if not same_layout:
            answer = self._codec.understand(frames, recorded.encoding)
            if self._codec.dialect is Dialect.OPENAI_CHAT and facts.include_usage and lacks_usage(answer):
                raise UnfitError("no-usage")
            frames = [Frame(raw=b"", doc=answer.doc)]
        layout = recorded.encoding if same_layout else Encoding.JSON
        renaming = {old: new for old, new in zip(recorded.atoms, atoms, strict=True) if old != new}
        slots = self._codec.slots(frames, layout)
        if renaming:
            self._rename(frames, slots, renaming, frozenset(recorded.atoms))
        # Inside AWS messages the text is base64 under a checksum: no holes can be cut there, each replay is made anew.
        once = facts.encoding is Encoding.AWS_EVENT_STREAM
        holes = self._bore(frames, slots, stored=facts.stored, once=once)
        if answer is None:
            body = join(frames, layout)
        else:
            doc = frames[0].doc
            assert isinstance(doc, dict)
            body = self._codec.render(replace(answer, doc=doc), facts.encoding, facts)
        return Template((body,), (), once=True) if once else _cut(body, holes)

    # --- renaming

    def _rename(
        self, frames: list[Frame], slots: Sequence[Slot], renaming: Mapping[Atom, Atom], bound: frozenset[Atom]
    ) -> None:
        search = search_for(self._rules, tuple(atom for atom in bound if atom[0] in ROOT_KINDS))
        telltales = telltales_of(renaming)
        arriving = search_for(
            _NO_MARKS, tuple(new for new in renaming.values() if new[0] in ROOT_KINDS and new not in bound)
        )
        weighed = any(slot.kind is SlotKind.OPAQUE and slot.key in _WEIGHTS for slot in slots)
        seen: list[str] = []

        def renamed(text: str, *, runs: bool = False) -> tuple[str, list[tuple[int, int, str]]]:
            edits: list[tuple[int, int, str]] = []
            found = search.pieces(text)
            rest = _edited(text, [(piece.start, piece.end, " ") for piece in found])
            if arriving.pieces(rest):
                # A path that the recorded request did not know as its own would become this request's own.
                raise UnfitError("ambiguous")
            for piece in found:
                if piece.atom in renaming:
                    new = renaming[piece.atom][1]
                    if runs and set(new) & _SHELL_SIGNS - set(piece.atom[1]):
                        raise UnfitError("quoting")  # the model quoted for the old path, if at all
                    edits.append((piece.start, piece.end, spelled_as(piece, text, renaming[piece.atom][1])))
                elif piece.atom not in bound:
                    raise UnfitError("unbound-atom")
            result = _edited(text, edits)
            seen.append(rest)
            return result, edits

        def renamed_value(value: Json) -> Json:
            match value:
                case str():
                    return renamed(value, runs=True)[0]
                case list():
                    return [renamed_value(inner) for inner in value]
                case dict():
                    made = {renamed(key)[0]: renamed_value(inner) for key, inner in value.items()}
                    if len(made) < len(value):
                        raise UnfitError("ambiguous")
                    return made
                case _:
                    return value

        for channel in _channels(slots):
            kind = channel[0].kind
            if kind in {SlotKind.TEXT, SlotKind.ARGUMENTS, SlotKind.SIGNED_TEXT}:
                pieces = [str(slot.container[slot.key]) for slot in channel]  # type: ignore[index]
                _, edits = renamed("".join(pieces), runs=kind is SlotKind.ARGUMENTS)
                if edits and kind is SlotKind.SIGNED_TEXT:
                    raise UnfitError("signed")
                if edits and weighed:
                    raise UnfitError("logprobs")  # they repeat the text, a token at a time
                for slot, was, piece in zip(channel, pieces, _spread(pieces, edits), strict=True) if edits else ():
                    if piece != was:
                        _put(frames, slot, piece)
            elif kind is SlotKind.OPAQUE:
                # Not ours to change, so nothing that is readable in there may name the recorded request.
                for slot in channel:
                    if any(edits for edits in map(_second, map(renamed, _strings(slot.container[slot.key])))):  # type: ignore[index]
                        raise UnfitError("opaque")
            elif kind is SlotKind.VALUE:
                for slot in channel:
                    old = slot.container[slot.key]  # type: ignore[index]
                    if (new := renamed_value(old)) != old:
                        _put(frames, slot, new)
        if any(map(telltales.found_in, seen)):
            raise UnfitError("fragment")

    # --- holes

    def _bore(self, frames: list[Frame], slots: Sequence[Slot], *, stored: bool, once: bool) -> dict[str, Hole]:
        """Put a placeholder wherever a fresh id or an echoed field goes; return the holes by placeholder."""
        holes: dict[str, Hole] = {}
        placeholders: dict[str, str] = {}
        wanted: dict[tuple[int, str], list[tuple[Slot, str]]] = {}
        for slot in slots:
            old = slot.container[slot.key]  # type: ignore[index]
            match slot.kind:
                case SlotKind.RESPONSE_ID | SlotKind.TOOL_ID if isinstance(old, str) and old and not stored:
                    name, hole = old, Hole(len(placeholders), old=old)
                case SlotKind.ECHO:
                    name = "\0" + slot.echo_of
                    hole = Hole(
                        len(placeholders), echo_of=slot.echo_of, absent=b"{}" if isinstance(old, dict) else b"null"
                    )
                case _:
                    continue
            placeholder = placeholders.get(name)
            if placeholder is None:
                placeholder = fresh_id(hole.old, self._token) if once else self._token(_HOLE_CHARS)
                placeholders[name] = placeholder
                holes[placeholder] = hole
            wanted.setdefault((slot.frame, old if isinstance(old, str) else ""), []).append((slot, placeholder))
        for (index, old), group in wanted.items():
            _swap(frames, index, old, group)
        return holes


_SHELL_SIGNS = frozenset(" \t\n'\"\\$&;|<>()*?[]{}!#~`")
"""What a shell reads as more than a letter of a name."""
_WEIGHTS = frozenset({"logprobs", "logprobsResult"})
_NO_MARKS = Rules(clock="exact", uuids="none")


def _swap(frames: list[Frame], index: int, old: str, group: Sequence[tuple[Slot, str]]) -> None:
    """Put placeholders where *old* stands in a frame: in its own bytes, where that is not to be mistaken.

    It is not when the quoted value stands in the bytes exactly as often as in slots that all get the same placeholder.
    """
    frame = frames[index]
    quoted = dumps(old)
    spliced = bool(old) and not frame.dirty and len({placeholder for _, placeholder in group}) == 1
    if spliced and frame.raw.count(quoted) == len(group):
        frame.raw = frame.raw.replace(quoted, dumps(group[0][1]))
        for slot, placeholder in group:
            slot.container[slot.key] = placeholder  # type: ignore[index]
    else:
        for slot, placeholder in group:
            _put(frames, slot, placeholder)


def _put(frames: list[Frame], slot: Slot, value: Json) -> None:
    slot.container[slot.key] = value  # type: ignore[index]
    frames[slot.frame].dirty = True


def _second(renamed: tuple[str, list[tuple[int, int, str]]]) -> list[tuple[int, int, str]]:
    return renamed[1]


def _strings(value: Json) -> list[str]:
    """Return all strings inside *value*."""
    match value:
        case str():
            return [value]
        case list():
            return [text for inner in value for text in _strings(inner)]
        case dict():
            return [text for inner in value.values() for text in _strings(inner)]
        case _:
            return []


def _channels(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Group slots whose pieces belong together; a slot without a channel stands alone."""
    groups: dict[object, list[Slot]] = {}
    for index, slot in enumerate(slots):
        if slot.kind in {SlotKind.VALUE, SlotKind.OPAQUE} or isinstance(slot.container[slot.key], str):  # type: ignore[index]
            groups.setdefault((slot.kind, slot.channel) if slot.channel else index, []).append(slot)
    return list(groups.values())


def _edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    if not edits:
        return text
    parts: list[str] = []
    at = 0
    for start, end, new in edits:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def _spread(pieces: Sequence[str], edits: Sequence[tuple[int, int, str]]) -> list[str]:
    """Apply *edits*, given on the joined text, to its *pieces*; a replacement goes where the old text began."""
    spread: list[str] = []
    pending = list(edits)
    start = 0
    for piece in pieces:
        end = start + len(piece)
        made: list[str] = []
        at = start
        while pending and pending[0][0] < end:
            edit_start, edit_end, new = pending[0]
            if edit_start >= start:
                made += [piece[at - start : edit_start - start], new]
            at = min(max(edit_end, at), end)
            if edit_end > end:
                break
            pending.pop(0)
        made.append(piece[at - start :])
        spread.append("".join(made))
        start = end
    return spread


def _cut(body: bytes, holes: Mapping[str, Hole]) -> Template:
    found: list[tuple[int, int, Hole]] = []
    for placeholder, hole in holes.items():
        # An echoed field is JSON of any type: its hole takes the quotes of the placeholder with it.
        needle = f'"{placeholder}"'.encode() if hole.echo_of else placeholder.encode()
        at = body.find(needle)
        while at >= 0:
            found.append((at, at + len(needle), hole))
            at = body.find(needle, at + len(needle))
    found.sort(key=lambda item: item[0])
    literals: list[bytes] = []
    at = 0
    for start, end, _ in found:
        literals.append(body[at:start])
        at = end
    return Template((*literals, body[at:]), tuple(hole for _, _, hole in found))


def taken_in(atoms: Sequence[Atom]) -> Callable[[str], bool]:
    """Return a test for ids that the conversation already uses."""
    known = {spelling for kind, spelling in atoms if kind == TOOL_ID}
    return known.__contains__
