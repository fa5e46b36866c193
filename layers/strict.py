"""JSON read strictly: what two readers could read differently has no value here.

Goals: no duplicate keys, no NaN or infinities, no lone surrogates, no invalid UTF-8, bounded nesting; and that at the
speed of a fast decoder, which by itself takes the last of two equal keys without a word.

Plan: written again, a value of which no key was dropped gives its own bytes back.  That proves compact JSON at once,
and any other JSON once its white space is gone.  Only what is escaped in an unusual way is read again, slowly.
"""

import json

import msgspec

from promptweir.layers.contract import Json


def decoded(raw: bytes) -> Json:
    """Return the value of *raw*; ``ValueError`` where it has none."""
    try:
        value: Json = msgspec.json.decode(raw)
        if b"{" not in raw:
            return value
        again = msgspec.json.encode(value)
        if again == raw or again == msgspec.json.format(raw, indent=-1):
            return value
        return json.loads(raw, object_pairs_hook=_distinct)  # type: ignore[no-any-return]
    except (RecursionError, OverflowError):
        raise ValueError("nested too deeply, or a number out of range") from None


def encoded(value: Json) -> bytes:
    """Return *value* as JSON; ``ValueError`` where it cannot be written."""
    try:
        return msgspec.json.encode(value)
    except (RecursionError, OverflowError, msgspec.MsgspecError):
        raise ValueError("no canonical encoding") from None


def items_of(raw: bytes) -> list[bytes]:
    """Return the elements of a JSON array, each as the bytes that were sent; ``ValueError`` where it is none."""
    try:
        return [bytes(item) for item in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("duplicate key")
    return known
