"""Narrow decoded JSON to the shape a dialect expects; whatever has another shape is a ``ValueError``.

Messages name the field and never its value: a value may be text of a prompt.
"""

from collections.abc import Iterator

import msgspec

from promptweir.layers.contract import Fields, Json
from promptweir.layers.frames import Slot, SlotKind

type Container = dict[str, Json] | list[Json]

CIPHERS = frozenset(("signature", "thoughtSignature", "encrypted_content", "encrypted_index"))
"""Fields that hold what only the provider can read, wherever they stand."""

_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_FLAG: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
_NUMBER: msgspec.json.Decoder[float | None] = msgspec.json.Decoder(float | None)
_FIELDS: msgspec.json.Decoder[dict[str, msgspec.Raw] | None] = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_TEXTS: msgspec.json.Decoder[list[str] | None] = msgspec.json.Decoder(list[str] | None)


def as_object(value: Json, name: str) -> dict[str, Json]:
    """Return *value*, which has to be an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {type(value).__name__}")
    return value


def as_array(value: Json, name: str) -> list[Json]:
    """Return *value*, which has to be an array."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be an array, not {type(value).__name__}")
    return value


def as_text(value: Json, name: str) -> str:
    """Return *value*, which has to be a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {type(value).__name__}")
    return value


def as_count(value: Json, name: str) -> int:
    """Return *value*, which has to be a whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number, not {type(value).__name__}")
    return value


def tally(doc: dict[str, Json], name: str) -> int:
    """Return the token count *name* of a usage object, 0 where the provider gave none."""
    value = doc.get(name)
    return 0 if value is None else as_count(value, name)


def read_text(fields: Fields, name: str) -> str | None:
    """Return a string field of a request, None where it is absent or null."""
    return _decode(_TEXT, fields, name)


def read_flag(fields: Fields, name: str) -> bool | None:
    """Return a boolean field of a request, None where it is absent or null."""
    return _decode(_FLAG, fields, name)


def read_number(fields: Fields, name: str) -> float | None:
    """Return a number of a request, None where it is absent or null."""
    return _decode(_NUMBER, fields, name)


def read_fields(fields: Fields, name: str) -> Fields | None:
    """Return an object of a request, its values still bytes; None where it is absent or null."""
    return _decode(_FIELDS, fields, name)


def read_texts(fields: Fields, name: str) -> list[str]:
    """Return a list of strings of a request, empty where it is absent or null."""
    return _decode(_TEXTS, fields, name) or []


def model_of(fields: Fields) -> str:
    """Return the body's ``model``, which has to be there."""
    model = read_text(fields, "model")
    if not model:
        raise ValueError("model is missing")
    return model


def sealed(frame: int, container: Container, key: str | int) -> Iterator[Slot]:
    """Mark a value that no replay may alter: every string in it, field by field.

    Ciphers are opaque.  Everything else may hold a name that a replay would have to change, so it is marked as text
    under a signature: where renaming would alter it, the entry does not serve.
    """
    stack: list[tuple[Container, str | int]] = [(container, key)]
    while stack:
        holder, at = stack.pop()
        value = holder[at]  # type: ignore[index] # a list comes with an int, a dict with a str
        match value:
            case dict():
                stack.extend((value, name) for name in reversed(value) if name != "type")
            case list():
                stack.extend((value, index) for index in reversed(range(len(value))))
            case str() if value:
                kind = SlotKind.OPAQUE if at in CIPHERS else SlotKind.SIGNED_TEXT
                yield Slot(frame=frame, container=holder, key=at, kind=kind)


def _decode[T](decoder: msgspec.json.Decoder[T | None], fields: Fields, name: str) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} has a wrong type") from error
