r"""Volatile atoms: the strings in a request that name *this* session, directory, home or moment, not the question.

Goals: the same question asked in another checkout, home or session has the same key; an answer that names an atom
is given the current one; whatever else differs stays different.

Plan.  Two families:

* *Roots* (working directory, home, a client's session or project folder) are declared by the client's own preamble:
  a system or developer text, or a user text that opens with a known envelope.  ``declared`` finds them there, and
  nowhere else: a tool result that says "Working directory: /x" declares nothing.  Once declared, a root is an atom
  wherever it stands as a whole path prefix (``/home/al/app`` in ``/home/al/app/x.py``, not in ``/home/al/app2``).
* *Marks* (provider-made tool ids, UUIDs inside paths, Codex's chunk ids, a client's clock) are known by their shape.

Atoms are compared by order of first appearance, so their equalities count, their spelling does not.

What it does not do: it never looks inside base64, signatures or encrypted content, and it never guesses: a path
that no preamble declared is part of the question.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

type Atom = tuple[str, str]
"""Kind and spelling."""

CWD, HOME, FOLDER, MANGLED = "cwd", "home", "folder", "mangled"
TOOL_ID, UUID, CHUNK, WALL, CLOCK = "tool-id", "uuid", "chunk", "wall", "clock"
ROOT_KINDS = frozenset({CWD, HOME, FOLDER, MANGLED})

MAX_ROOTS = 16
"""Roots that one request may declare; more would make the pattern slow, and no client needs them."""
MAX_ROOT_CHARS = 1024

_PATH = r"(?:/|[A-Za-z]:[\\/])[^\n\r\"'`<>|*?\t]*[^\s\"'`<>|*?.,;:\\/]"
_DECLARATIONS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    # A cheap substring that must be there, the kind, and the pattern; each client's own words (see the README).
    ("orking directory: ", CWD, re.compile(rf"[wW]orking directory: ({_PATH})[\\/]?\s*$", re.MULTILINE)),
    ("Workspace root folder: ", CWD, re.compile(rf"Workspace root folder: ({_PATH})[\\/]?\s*$", re.MULTILINE)),
    ("Git repository root: ", CWD, re.compile(rf"Git repository root: ({_PATH})[\\/]?\s*$", re.MULTILINE)),
    ("<cwd>", CWD, re.compile(rf"<cwd>({_PATH})[\\/]?</cwd>")),
    ("<workspace_roots>", CWD, re.compile(rf"<root>({_PATH})[\\/]?</root>")),
    ("Workspace Directories:**", CWD, re.compile(rf"Workspace Directories:\*\*\n  - ({_PATH})[\\/]?$", re.MULTILINE)),
    ("temporary directory is: ", FOLDER, re.compile(rf"temporary directory is: ({_PATH})[\\/]?$", re.MULTILINE)),
    ("Session folder: ", FOLDER, re.compile(rf"Session folder: ({_PATH})[\\/]?$", re.MULTILINE)),
)
_MANGLED = re.compile(r"[\\/]\.claude[\\/]projects[\\/]([\w.-]+)")
_HOME_MARKS = (
    ".claude/projects",
    ".claude\\projects",
    ".codex/",
    ".codex\\",
    ".gemini/tmp",
    ".gemini\\tmp",
    ".copilot/session-state",
    ".copilot\\session-state",
)
_PATH_START = re.compile(r"(?:/|[A-Za-z]:[\\/])[^\n\r\"'`<>|*?\t]*$")
MAX_HOME_CHARS = 512
_ENVELOPES = ("<environment_context>", "<session_context>")

_HEX = "[0-9a-fA-F]"
_UUID_TAIL = re.compile(rf"-{_HEX}{{4}}-{_HEX}{{12}}(?![\w-])")
"""The end of a UUID; a pattern that starts with a literal is searched for several times faster than one that does not."""
_UUID_HEAD = re.compile(rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}")
_UUID_HEAD_CHARS = 18
# Under ten seconds a duration says how busy the machine was; above, it may be what the answer is about.
_WALL = r"([0-9](?:\.[0-9]{1,12})?(?:e-[0-9]{1,2})?)"
_MARKS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    # The literal to look for, the kind, and the pattern that must match from there; its group is the atom.
    ("toolu_", TOOL_ID, re.compile(r"(toolu_[A-Za-z0-9]{20,64})(?!\w)")),
    ("call_", TOOL_ID, re.compile(r"(call_[A-Za-z0-9]{20,64})(?!\w)")),
    ('"chunk_id":"', CHUNK, re.compile(r'"chunk_id":"([0-9a-f]{6})"')),
    ('"wall_time_seconds":', WALL, re.compile(rf'"wall_time_seconds":{_WALL}[,}}]')),
    ("Chunk ID: ", CHUNK, re.compile(r"Chunk ID: ([0-9a-f]{6})\b")),
    ("Wall time: ", WALL, re.compile(rf"Wall time: {_WALL} seconds")),
    ("Wall time ", WALL, re.compile(rf"Wall time {_WALL} seconds")),
)
_CLOCK_OPEN, _CLOCK_CLOSE = "<current_datetime>", "</current_datetime>"
_CLOCK_CHARS = {"day": 10, "hour": 13, "minute": 16}
MAX_CLOCK_CHARS = 64


@dataclass(frozen=True, slots=True)
class Rules:
    """Which marks count as atoms; one per configuration."""

    clock: str = "day"
    uuids: str = "paths"
    relocate: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """One atom found in a text."""

    start: int
    end: int
    atom: Atom


def is_preamble(role: str, text: str) -> bool:
    """Tell whether a client speaks here about itself, so that roots may be declared."""
    return role in {"system", "developer"} or text.startswith(_ENVELOPES)


def declared(text: str) -> list[Atom]:
    """Return the roots that a preamble declares, in order of appearance of their patterns, without repeats."""
    found: dict[Atom, None] = {}
    for hint, kind, pattern in _DECLARATIONS:
        if hint in text:
            for match in pattern.finditer(text):
                found[kind, match[1]] = None
    for mark in _HOME_MARKS:
        at = text.find(mark)
        while at > 0:
            # The path that ends before "/.codex/": back to its first separator, over names that may hold spaces.
            line = text[max(0, at - 1 - MAX_HOME_CHARS) : at - 1]
            if text[at - 1] in "\\/" and (start := _PATH_START.search(line)):
                found[HOME, start[0]] = None
            at = text.find(mark, at + len(mark))
    if ".claude" in text:
        for match in _MANGLED.finditer(text):
            found[MANGLED, match[1]] = None
    return [(kind, path) for kind, path in found if 2 <= len(path) <= MAX_ROOT_CHARS][:MAX_ROOTS]


def json_escaped(path: str) -> str:
    """Return *path* as it stands inside JSON text (differs for backslashes)."""
    return path.replace("\\", "\\\\")


def pieces_of(text: str, rules: Rules, roots: tuple[Atom, ...]) -> list[Piece]:
    """Return the atoms of *text*, in order, without overlaps; where two overlap, the earlier, then the longer, stands."""
    found: list[Piece] = []
    for root in roots:
        _find_root(text, root, root[1], found)
        if "\\" in root[1]:
            _find_root(text, root, json_escaped(root[1]), found)
    for literal, kind, pattern in _MARKS:
        at = text.find(literal)
        while at >= 0:
            match = pattern.match(text, at)
            if match and (kind is not TOOL_ID or not _is_word(text[at - 1 : at])):
                found.append(Piece(match.start(1), match.end(1), (kind, match[1])))
            at = text.find(literal, at + len(literal))
    if rules.uuids != "none":
        _find_uuids(text, rules.uuids == "all", found)
    if (keep := _CLOCK_CHARS.get(rules.clock)) is not None and (at := text.find(_CLOCK_OPEN)) >= 0:
        start, end = at + len(_CLOCK_OPEN) + keep, text.find(_CLOCK_CLOSE, at)
        if start < end <= start + MAX_CLOCK_CHARS:
            found.append(Piece(start, end, (CLOCK, text[start:end])))
    if len(found) < 2:
        return found
    found.sort(key=lambda piece: (piece.start, -piece.end))
    kept: list[Piece] = []
    for piece in found:
        if not kept or piece.start >= kept[-1].end:
            kept.append(piece)
    return kept


_RAW_HINTS = (*(literal.replace('"', '\\"').encode() for literal, _, _ in _MARKS), _CLOCK_OPEN.encode(), b"\\u", b"\\/")
_RAW_UUID = re.compile(rb"-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def may_hold_atoms(raw: bytes, rules: Rules, roots: tuple[Atom, ...]) -> bool:
    """Tell, cheaply, whether a search of the strings in this JSON could find an atom.

    Exotic escapes say yes, because they could hide one.
    """
    return (
        any(hint in raw for hint in _RAW_HINTS)
        or any(json_escaped(path).encode() in raw for _, path in roots)
        or (rules.uuids != "none" and _RAW_UUID.search(raw) is not None)
    )


def _is_word(char: str) -> bool:
    return char.isalnum() or char in {"_", "-"} if char else False


def _find_root(text: str, root: Atom, spelling: str, found: list[Piece]) -> None:
    """Find *spelling* where it is a whole path prefix: not in the middle of a longer name on either side."""
    at = text.find(spelling)
    while at >= 0:
        end = at + len(spelling)
        before, after = text[at - 1 : at] if at else "", text[end : end + 2]
        # In JSON text a line break before the path reads backslash, n: the n belongs to the escape.
        free = not (_is_word(before) or before == ".") or (before in {"n", "t", "r"} and text[at - 2 : at - 1] == "\\")
        if free and not _is_word(after[:1]) and not (after[:1] == "." and _is_word(after[1:])):
            found.append(Piece(at, end, root))
        at = text.find(spelling, end)


def _find_uuids(text: str, everywhere: bool, found: list[Piece]) -> None:
    if "-" not in text:
        return
    for tail in _UUID_TAIL.finditer(text):
        start = tail.start() - _UUID_HEAD_CHARS
        if start < 0 or not _UUID_HEAD.fullmatch(text, start, tail.start()):
            continue
        before = text[start - 1 : start] if start else ""
        if before in {"/", "\\"} or (everywhere and not _is_word(before)):
            found.append(Piece(start, tail.end(), (UUID, text[start : tail.end()])))


def spelled_as(piece: Piece, text: str, new: str) -> str:
    """Return *new* in the spelling that *piece* has in *text*: JSON-escaped where the old one was."""
    old = piece.atom[1]
    return json_escaped(new) if text[piece.start : piece.end] != old else new


_WORDS = re.compile(r"[^\\/\s:]+")


def fragments_of(old: Atom, new: Atom) -> list[str]:
    """Return the lower-case strings whose presence in a renamed answer gives the old atom away.

    For a path these are its folder names that the new path does not have; for a clock its hour and minute.
    """
    kind, spelling = old
    if old == new:
        return []
    if kind in ROOT_KINDS:
        kept = {word.lower() for word in _WORDS.findall(new[1])}
        return [word.lower() for word in _WORDS.findall(spelling) if len(word) > 1 and word.lower() not in kept]
    if kind == UUID:
        return [spelling[:8].lower()]
    if kind == CLOCK:
        times = re.findall(r"\d\d:\d\d", spelling)
        kept = set(re.findall(r"\d\d:\d\d", new[1]))
        return [time for time in times if time not in kept]
    return [spelling.lower()]


@lru_cache(maxsize=1024)
def fragment_pattern(fragments: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds any of *fragments* as a word of its own in lower-case text."""
    body = "|".join(re.escape(fragment) for fragment in sorted(fragments, key=len, reverse=True))
    return re.compile(rf"(?:(?<![a-z0-9])|(?<=\\[nrtbf]))(?:{body})(?![a-z0-9])")


def roots_of(declarations: Sequence[Atom]) -> tuple[Atom, ...]:
    """Return the distinct roots; a path declared twice keeps its first kind."""
    distinct: dict[str, Atom] = {}
    for kind, path in declarations:
        distinct.setdefault(path, (kind, path))
    return tuple(distinct.values())[:MAX_ROOTS]
