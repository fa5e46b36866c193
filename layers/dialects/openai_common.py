"""Reading decoded JSON by type, for the three OpenAI dialects.

Goals: every reader either returns the type its name promises or raises ``ValueError`` naming the place; nothing here
recurses, so a document nested ten thousand deep costs a loop and not the stack.

What it does not do: it parses no bytes (``wire`` does) and knows no field of any one dialect.
"""

import re
from collections.abc import Collection
from urllib.parse import unquote

from promptweir.layers.contract import Fields, Json
from promptweir.layers.frames import Frame, Slot, SlotKind
from promptweir.layers.wire import loads

# Azure OpenAI names the model by its deployment: /openai/deployments/{name}/chat/completions
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")


def read(fields: Fields, name: str) -> Json:
    """Return the decoded field *name* of a request; an absent field reads as null, as it does at the provider."""
    raw = fields.get(name)
    return None if raw is None else loads(bytes(raw))


def read_text(fields: Fields, name: str) -> str | None:
    """Return a string field of a request, or None."""
    match read(fields, name):
        case None:
            return None
        case str() as value:
            return value
        case _:
            raise ValueError(f"{name} must be a string")


def read_flag(fields: Fields, name: str, *, default: bool) -> bool:
    """Return a boolean field of a request, or *default*."""
    match read(fields, name):
        case None:
            return default
        case bool() as value:
            return value
        case _:
            raise ValueError(f"{name} must be true or false")


def read_number(fields: Fields, name: str) -> float | None:
    """Return a numeric field of a request, or None."""
    match read(fields, name):
        case None:
            return None
        case bool():
            raise ValueError(f"{name} must be a number")
        case int() | float() as value:
            return float(value)
        case _:
            raise ValueError(f"{name} must be a number")


def read_object(fields: Fields, name: str) -> dict[str, Json] | None:
    """Return an object field of a request, or None."""
    value = read(fields, name)
    return None if value is None else as_object(value, name)


def model_of(path: str, fields: Fields) -> str:
    """Return the model that the body names, else Azure's deployment in *path*, else the empty string."""
    named = read_text(fields, "model")
    if named:
        return named
    deployment = _DEPLOYMENT.search(path)
    return unquote(deployment[1]) if deployment else ""


def as_object(value: Json, what: str) -> dict[str, Json]:
    """Return *value* if it is an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    return value


def as_array(value: Json, what: str) -> list[Json]:
    """Return *value* if it is an array."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be an array")
    return value


def as_text(value: Json, what: str) -> str:
    """Return *value* if it is a string; null reads as the empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string")
    return value


def objects(value: Json) -> list[dict[str, Json]]:
    """Return the objects of an array and pass over all else: for looking around, not for checking."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count(holder: Json, *path: str) -> int:
    """Return the token count at *path*, 0 where the provider reported none."""
    for name in path:
        if not isinstance(holder, dict):
            return 0
        holder = holder.get(name)
    return holder if isinstance(holder, int) and not isinstance(holder, bool) and holder > 0 else 0


def holds_text(value: Json) -> bool:
    """Tell whether any non-empty string is found in *value*; keys do not count."""
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text if text:
                return True
            case list() as items:
                pending.extend(items)
            case dict() as members:
                pending.extend(members.values())
            case _:
                pass
    return False


def opaque_rest(out: list[Slot], at: int, container: dict[str, Json], known: Collection[str]) -> None:
    """Mark every member of *container* that is not *known* and holds text as one that no replay may alter."""
    for key, value in container.items():
        if key not in known and holds_text(value):
            out.append(Slot(at, container, key, SlotKind.OPAQUE))


def whole_document(frames: list[Frame]) -> dict[str, Json]:
    """Return the one JSON document of a non-streamed answer; an error object is no answer."""
    if len(frames) != 1:
        raise ValueError(f"a JSON answer is one document, not {len(frames)}")
    doc = as_object(frames[0].doc, "the answer")
    if doc.get("error") is not None:
        raise ValueError("the answer is an error")
    return doc
