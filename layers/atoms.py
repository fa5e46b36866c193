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

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import quote

type Atom = tuple[str, str]
"""Kind and spelling."""

CWD, HOME, FOLDER, MANGLED = "cwd", "home", "folder", "mangled"
TOOL_ID, UUID, CHUNK, WALL, CLOCK = "tool-id", "uuid", "chunk", "wall", "clock"
ROOT_KINDS = frozenset({CWD, HOME, FOLDER, MANGLED})

MAX_ROOTS = 16
"""Roots that one request may declare; more would make the pattern slow, and no client needs them."""
MAX_ROOT_CHARS = 1024

_CHAR = r"[^\x00-\x1f\"'`<>|*?]"
_LAST = r"[^\s\"'`<>|*?.,;:)\]}\\/]"
_START = r"(?:/|[A-Za-z]:[\\/])"
_PATH = rf"{_START}{_CHAR}*{_LAST}"
# Up to the end of a line: a blank in the last name could as well begin a remark ("/srv/app on branch main").
_LINE = rf"({_START}(?:{_CHAR}*[\\/])?[^\s\x00-\x1f\"'`<>|*?\\/]*{_LAST})[\\/]?\s*$"
_DECLARATIONS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    # A cheap substring that must be there, the kind, and the pattern; each client's own words (see the README).
    ("orking directory: ", CWD, re.compile(rf"[wW]orking directory: {_LINE}", re.MULTILINE)),
    ("Workspace root folder: ", CWD, re.compile(rf"Workspace root folder: {_LINE}", re.MULTILINE)),
    ("Git repository root: ", CWD, re.compile(rf"Git repository root: {_LINE}", re.MULTILINE)),
    ("<cwd>", CWD, re.compile(rf"<cwd>({_PATH})[\\/]?</cwd>")),
    ("<workspace_roots>", CWD, re.compile(rf"<root>({_PATH})[\\/]?</root>")),
    ("Workspace Directories:**", CWD, re.compile(rf"Workspace Directories:\*\*\n  - {_LINE}", re.MULTILINE)),
    ("temporary directory is: ", FOLDER, re.compile(rf"temporary directory is: {_LINE}", re.MULTILINE)),
    ("Session folder: ", FOLDER, re.compile(rf"Session folder: {_LINE}", re.MULTILINE)),
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
_HOME = re.compile(
    # The last place where a path can begin; the colon of "C:/" is none.
    r"(?:^|.*(?:[\s(\[{=,;\"'`<>|*]|(?<!^[A-Za-z])(?<![^\w][A-Za-z]):))"
    # A blank is part of a path only where it is part of a user's name.
    rf"({_START}(?:(?!\s){_CHAR})*|(?:/Users/|/home/|[A-Za-z]:[\\/]Users[\\/])(?![\\/])(?:(?![\\/]){_CHAR})+)$",
    re.DOTALL,
)
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
    # Random enough to be no name of a function: digits in two places.
    ("call_", TOOL_ID, re.compile(r"(call_(?=[A-Za-z]*[0-9]+[A-Za-z]+[0-9])[A-Za-z0-9]{20,64})(?!\w)")),
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
            if text[at - 1] in "\\/" and (home := _HOME.match(line)):
                found[HOME, home[1]] = None
            at = text.find(mark, at + len(mark))
    if ".claude" in text:
        for match in _MANGLED.finditer(text):
            found[MANGLED, match[1]] = None
    return [root for root in found if _is_telling(*root)][:MAX_ROOTS]


def _is_telling(kind: str, path: str) -> bool:
    """Tell whether *path*, found in a text, can mean only this: ``/app`` may as well be the route of a web service."""
    return 2 <= len(path) <= MAX_ROOT_CHARS and not (kind == CWD and path.startswith("/") and path.count("/") == 1)


def json_escaped(path: str) -> str:
    """Return *path* as it stands inside JSON text (differs for backslashes)."""
    return path.replace("\\", "\\\\")


@dataclass(frozen=True, slots=True)
class Search:
    """Which atoms to look for in a text."""

    roots: tuple[Atom, ...]
    marks: tuple[tuple[str, str, re.Pattern[str]], ...]
    uuids: str
    clock_chars: int | None
    """How much of a client's clock is content; None: all of it, or there is no clock."""

    def pieces(self, text: str) -> list[Piece]:
        """Return the atoms of *text*, in order, without overlaps; of two that overlap, the earlier, then the longer."""
        found: list[Piece] = []
        for root in self.roots:
            _find_root(text, root, root[1], found)
            if "\\" in root[1]:
                _find_root(text, root, json_escaped(root[1]), found)
        for literal, kind, pattern in self.marks:
            at = text.find(literal)
            while at >= 0:
                match = pattern.match(text, at)
                if match and (kind is not TOOL_ID or not _is_word(text[at - 1 : at])):
                    found.append(Piece(match.start(1), match.end(1), (kind, match[1])))
                at = text.find(literal, at + len(literal))
        if self.uuids != "none":
            _find_uuids(text, self.uuids == "all", found)
        if self.clock_chars is not None and (at := text.find(_CLOCK_OPEN)) >= 0 and not text[:at].strip():
            # The client's own stamp stands at the head of a text; elsewhere it is somebody's words.
            start, end = at + len(_CLOCK_OPEN) + self.clock_chars, text.find(_CLOCK_CLOSE, at)
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


def search_for(rules: Rules, roots: tuple[Atom, ...]) -> Search:
    """Return the search for every atom that *rules* know."""
    return Search(roots, _MARKS, rules.uuids, _CLOCK_CHARS.get(rules.clock))


def pieces_of(text: str, rules: Rules, roots: tuple[Atom, ...]) -> list[Piece]:
    """Return the atoms of *text*; see ``Search.pieces``."""
    return search_for(rules, roots).pieces(text)


_ID_MARKS = tuple(mark for mark in _MARKS if mark[1] == TOOL_ID)
"""Chunk ids and wall times are noise in the outputs of Codex's tools only; in a question they may be what it is about."""
_RAW_MARKS = tuple((mark[0].replace('"', '\\"').encode(), mark) for mark in _MARKS)
_RAW_CLOCK = _CLOCK_OPEN.encode()
_RAW_UUID = re.compile(rb"-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def search_in(raw: bytes, rules: Rules, roots: tuple[Atom, ...], *, tool_output: bool = False) -> Search | None:
    """Return the search for the atoms that strings inside this JSON can hold, told from its bytes; None: it holds none.

    A block of JSON is scanned once here, so that its many strings need not be scanned for what is nowhere in it.
    """
    if b"\\u" in raw or b"\\/" in raw:  # exotic escapes could hide anything
        found = search_for(rules, roots)
        return found if tool_output else replace(found, marks=_ID_MARKS)
    near = tuple([root for root in roots if _stands_in(raw, root[1])])
    marks = tuple([mark for literal, mark in _RAW_MARKS if literal in raw and (tool_output or mark[1] == TOOL_ID)])
    uuids = rules.uuids if rules.uuids != "none" and _RAW_UUID.search(raw) else "none"
    clock_chars = _CLOCK_CHARS.get(rules.clock) if _RAW_CLOCK in raw else None
    if not near and not marks and uuids == "none" and clock_chars is None:
        return None
    return Search(near, marks, uuids, clock_chars)


def _stands_in(raw: bytes, path: str) -> bool:
    """Tell whether JSON spells *path* somewhere: as it is, or inside JSON text inside a string."""
    escaped = json_escaped(path)
    return escaped.encode() in raw or (escaped != path and json_escaped(escaped).encode() in raw)


def _is_word(char: str) -> bool:
    return char.isalnum() or char in {"_", "-"} if char else False


_GLUED_BEFORE = frozenset(".~$%@*?#)]}")
"""Before a path these make it another: ``~/app``, ``${X}/app``, ``**/app``, ``#/app``."""
_GLUED_AFTER = frozenset("~+@$%*=#{")
"""After a name these make it longer, or a pattern."""


def _find_root(text: str, root: Atom, spelling: str, found: list[Piece]) -> None:
    """Find *spelling* where it is a whole path prefix: not in the middle of a longer name on either side."""
    bare_name = root[0] == MANGLED
    at = text.find(spelling)
    while at >= 0:
        end = at + len(spelling)
        before, after = text[at - 1 : at] if at else "", text[end : end + 2]
        # In JSON text a line break before the path reads backslash, n: the n belongs to the escape.
        free = not (_is_word(before) or before in _GLUED_BEFORE) or (
            before in {"n", "t", "r"} and text[at - 2 : at - 1] == "\\"
        )
        if bare_name:  # "-w" is a folder only where it stands in a path; elsewhere it is an option
            free = before in {"/", "\\"}
        ends = not (_is_word(after[:1]) or after[:1] in _GLUED_AFTER or (after[:1] == "." and _is_word(after[1:])))
        if free and ends:
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


_NAMES = re.compile(r"[^\\/:]+")


def fragments_of(old: Atom, new: Atom) -> list[str]:
    """Return the lower-case strings whose presence in a renamed answer gives the old atom away.

    For a path these are the names in it that the new path does not have at the same place, counted from either end, the
    last one from the end only: an answer that calls ``/srv/app`` "app" is wrong in ``/srv/app/sub``.  For a clock they
    are its hour and minute.
    """
    kind, spelling = old
    if old == new:
        return []
    if kind in ROOT_KINDS:
        names, others = _NAMES.findall(spelling.lower()), _NAMES.findall(new[1].lower())
        gone: list[str] = []
        for index, name in enumerate(names):
            from_end = len(names) - index
            last = from_end == 1
            same_place = others[-from_end:][:1] if from_end <= len(others) else []
            if name not in (others[index : index + 1] if not last else []) + same_place:
                gone += name.split()
        return [spelled for word in gone for spelled in _spellings_of(word)]
    if kind == UUID:
        return [spelling[:8].lower()]
    if kind == CLOCK:
        kept = set(_times_in(new[1]))
        return [time for time in _times_in(spelling) if time not in kept]
    return [spelling.lower()]


def _times_in(stamp: str) -> list[str]:
    """Return the ways in which an answer may tell the times in *stamp*: on 24 and on 12 hours."""
    times: list[str] = []
    for hour, minute in re.findall(r"(\d\d):(\d\d)(?::|$)", stamp):
        half, short = ("am" if int(hour) < 12 else "pm"), str(int(hour) % 12 or 12)
        times += [f"{hour}:{minute}", f"{int(hour)}:{minute}", f"{short}:{minute}", f"{short} {half}", f"{short}{half}"]
    return times


def _spellings_of(word: str) -> set[str]:
    """Return the ways in which a folder's name may be written: in JSON, in a URL; of one letter, only beside a separator."""
    if len(word) == 1 and word.isascii():
        return {"/" + word, "\\" + word, word + "/", word + "\\"}
    forms = {word} if word.isascii() else {word, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))}
    return forms | {json.dumps(form)[1:-1].lower() for form in forms} | {quote(form).lower() for form in forms}


@lru_cache(maxsize=1024)
def fragment_pattern(fragments: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds any of *fragments* as a word of its own in lower-case text."""
    # Before a name there may be an escape: \\n, %2f, %252f, \\u002f.
    start = r"(?:(?<![a-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9a-f]{2})|(?<=%25[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
    end = "(?![a-z0-9])"
    bodies = (
        (start if fragment[:1].isalnum() else "") + re.escape(fragment) + (end if fragment[-1:].isalnum() else "")
        for fragment in sorted(fragments, key=len, reverse=True)
    )
    return re.compile("|".join(bodies))


def roots_of(declarations: Sequence[Atom]) -> tuple[Atom, ...]:
    """Return the distinct roots; a path declared twice keeps its first kind."""
    distinct: dict[str, Atom] = {}
    for kind, path in declarations:
        distinct.setdefault(path, (kind, path))
    return tuple(distinct.values())[:MAX_ROOTS]
