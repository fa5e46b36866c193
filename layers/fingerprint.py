"""Fingerprints: what a request looked like, path by path, without its text.

``promptweir why`` tells in which JSON path a missed call differs from the nearest stored one.  For that the store keeps
a short keyed digest for each path, never the text; the digests of two requests can be compared, and nothing else.
The canonical form's omissions are applied at the top level, so that a session id is never named as the difference.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from promptweir.layers.canonical import OMITTED
from promptweir.layers.contract import Dialect, Fields, Json

MAX_PATHS = 4000
_DEPTH = 7
_DIGEST_BYTES = 4

type Marks = list[tuple[str, bytes]]


def fingerprint_of(dialect: Dialect, fields: Fields, heading: Sequence[tuple[str, str]], pepper: bytes) -> bytes:
    """Return the fingerprint of a request; *heading* are named values outside the body (endpoint, headers)."""
    marks: Marks = [(name, _mark(value.encode("utf-8", "surrogateescape"), pepper)) for name, value in heading]
    for name in fields:
        if name not in OMITTED[dialect]:
            try:
                _collect(f"$.{name}", msgspec.json.decode(fields[name]), _DEPTH, marks, pepper)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return b""
    return msgspec.msgpack.encode(marks[:MAX_PATHS])


def _collect(path: str, value: Json, depth: int, marks: Marks, pepper: bytes) -> None:
    if len(marks) >= MAX_PATHS:
        return
    if depth and isinstance(value, dict) and value:
        for key, inner in value.items():
            if key != "cache_control":
                _collect(f"{path}.{key}", inner, depth - 1, marks, pepper)
    elif depth and isinstance(value, list) and value:
        for index, inner in enumerate(value):
            _collect(f"{path}[{index}]", inner, depth - 1, marks, pepper)
    else:
        marks.append((path, _mark(msgspec.json.encode(value), pepper)))


def _mark(value: bytes, pepper: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_DIGEST_BYTES, key=pepper[:64]).digest()


def _marks_of(fingerprint: bytes) -> Marks:
    try:
        marks: Marks = msgspec.msgpack.decode(fingerprint, type=list[tuple[str, bytes]])
        return marks
    except msgspec.MsgspecError:
        return []


def first_difference(a: bytes, b: bytes) -> str | None:
    """Return the first path, in *a*'s order, whose value differs in *b* or is missing there; None when there is none.

    A path that only *b* has is named when everything of *a* is in *b*.
    """
    left, right = _marks_of(a), _marks_of(b)
    known = dict(right)
    for path, mark in left:
        if known.get(path) != mark:
            return path
    seen = {path for path, _ in left}
    return next((path for path, _ in right if path not in seen), None)


def nearest(target: bytes, candidates: Sequence[bytes]) -> int | None:
    """Return the index of the candidate that shares most paths and values with *target*; None without candidates."""
    marks = set(_marks_of(target))
    scores = [2 * len(marks.intersection(other)) - len(other) for other in map(_marks_of, candidates)]
    return max(range(len(scores)), key=scores.__getitem__) if scores else None
