"""JSON read strictly: what two readers could read differently has no value here.

Goals: no duplicate keys, no NaN or infinities, no lone surrogates, no invalid UTF-8, bounded nesting; and that at the
speed of a fast decoder, which by itself takes the last of two equal keys without a word.

Plan: written again, a value of which no key was dropped gives its own bytes back.  That proves compact JSON at once,
and any other JSON once its white space is gone.  Only what is escaped in an unusual way is read again, slowly.
"""

import json

import msgspec

from promptweir.layers.contract import Json

MAX_REQUEST_SWELL_BYTES = 32 << 20
"""Far more than the structure of a prompt that fills a window of a million tokens."""
MAX_ANSWER_SWELL_BYTES = 96 << 20
"""A stream of 16 MB, one small event per token, comes near it."""
MAX_ITEMS = 32_768
"""Messages or tools of one request, of which each is remembered by itself; long sessions of agents have a thousand."""
_CONTAINER_BYTES = 200  # an object with one key
_VALUE_BYTES = 32  # a number and its place in a list


def check_swell(raw: bytes, max_bytes: int) -> None:
    """Raise ``ValueError`` when *raw*, decoded, would take more than *max_bytes* beside its texts.

    ``[{},{},{},...]`` takes sixty times its size; the bound on the size of a body does not bound that.
    """
    # Signs inside of texts count as well: so it is an upper bound, and costs a fraction of reading the JSON.
    if len(raw) * _CONTAINER_BYTES > max_bytes:
        swell = _CONTAINER_BYTES * (raw.count(b"{") + raw.count(b"[")) + _VALUE_BYTES * raw.count(b",")
        if swell > max_bytes:
            raise ValueError("too many values")


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
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if len(items) > MAX_ITEMS:
        raise ValueError("too many items")
    return [bytes(item) for item in items]


def _distinct(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("duplicate key")
    return known
