"""The shapes of blocks: which of their parts a model sees, which only a provider parses, and where atoms may stand.

Goals: one block, decoded, becomes the value that is hashed; atoms are taken out of it in order of appearance.

Rules: the order of keys counts inside values that a model sees (schemas, tool arguments), and does not in the envelope
that a provider parses (message, block, top level).  Bookkeeping of the envelope is dropped, by ``OMITTED_IN_BLOCKS``.

What it does not do: it knows no request as a whole (see ``canonical``), and it never looks inside signatures or
encrypted content.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from promptweir.layers.atoms import TOOL_ID, Atom, Search, is_preamble
from promptweir.layers.contract import Json

MAX_DEPTH = 200

OMITTED_IN_BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        "cache_control": "steers the provider's prompt cache; the answer is the same with and without; "
        "Claude Code moves it to the newest block at every turn",
        "internal_chat_message_metadata_passthrough": "Codex's turn id and clock",
        "id (Responses items that are whole without it)": "bookkeeping; items are told apart by their place",
    }
)
BILLING = "x-anthropic-billing-header:"
"""Claude Code's first system block; its ``cch`` differs in every request and the provider strips it."""
_PAIR = r" *[A-Za-z_-]+=[!#-:<-\[\]-~]*"
BILLING_REST = rf"(?:{_PAIR};)*(?:{_PAIR})? *"
"""Names and values only: a sentence in that place would be for the model."""
_BILLING_TEXT = re.compile(BILLING + BILLING_REST)

_OPAQUE_KEYS = frozenset(
    {"signature", "encrypted_content", "thoughtSignature", "thought_signature", "data", "b64_json", "file_data"}
)
_ID_KEYS = frozenset({"id", "tool_use_id", "call_id", "tool_call_id"})
_ATOMS_KEY = "\0atoms"

type Shaper = Callable[["Walk", Json], Json]


class Walk:
    """Replaces atoms in the values of one block, and collects them."""

    def __init__(self, search: Search | None) -> None:
        """Without a *search* there are no atoms in the texts; ids are atoms all the same."""
        self._search = search
        self.atoms: list[Atom] = []
        """In order of appearance, repeats included."""
        self.bound: set[Atom] = set()
        """Those that are ids of tool calls, and not only look like it."""

    def text(self, text: str) -> Json:
        """Return *text* with a mark in place of each atom."""
        pieces = self._search.pieces(text) if self._search is not None else ()
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
        """Return a value that the model sees: key order counts, strings are searched."""
        if self._search is None:
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
        """Return the mark of an id, whatever its spelling."""
        if not isinstance(value, str):
            return self.value(value)
        self.atoms.append((TOOL_ID, value))
        self.bound.add((TOOL_ID, value))
        return {_ATOMS_KEY: ["", TOOL_ID, ""]}

    def envelope(self, value: Json, *, nested: Mapping[str, Shaper], ids: bool, drop: frozenset[str]) -> Json:
        """Return an object that a provider parses: key order does not count, bookkeeping is dropped."""
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


def _each(shaper: Shaper) -> Shaper:
    return lambda walk, value: (
        [shaper(walk, inner) for inner in value] if isinstance(value, list) else walk.value(value)
    )


def _block(walk: Walk, value: Json) -> Json:
    """One content block of a message (Anthropic's, or a part of OpenAI's)."""
    return walk.envelope(value, nested={"content": _each(_block)}, ids=_has_tool_id(value), drop=_HINT)


def _has_tool_id(value: Json) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str) and "tool" in str(value["type"])


def _system(walk: Walk, value: Json) -> Json:
    if (
        isinstance(value, dict)
        and isinstance(text := value.get("text"), str)
        and text.startswith(BILLING)
        and _BILLING_TEXT.fullmatch(text.strip())
    ):
        return {"billing": None}
    return _block(walk, value)


def _tool_call(walk: Walk, value: Json) -> Json:
    return walk.envelope(value, nested={}, ids=True, drop=frozenset())


def _message(walk: Walk, value: Json) -> Json:
    ids = isinstance(value, dict) and "tool_call_id" in value and "id" not in value
    return walk.envelope(value, nested={"content": _each(_block), "tool_calls": _each(_tool_call)}, ids=ids, drop=_HINT)


_WHOLE_ITEMS = frozenset({"message", "additional_tools"})
"""Others may be no more than the name of something that the provider keeps: a reasoning, an image that it made."""


def _item(walk: Walk, value: Json) -> Json:
    """One input item of OpenAI Responses."""
    if not isinstance(value, dict):
        return walk.value(value)
    bare = {key: inner for key, inner in value.items() if key != "id"}
    nested = {"content": _each(_block), "output": _each(_block), "tools": _each(_tool)}
    shaped = walk.envelope(bare, nested=nested, ids=True, drop=_ITEM_DROP)
    whole = str(value.get("type", "message")) in _WHOLE_ITEMS or value.get("call_id") or value.get("encrypted_content")
    return shaped if whole or "id" not in value else {"\0item": [value["id"], shaped]}


def _tool(walk: Walk, value: Json) -> Json:
    return walk.envelope(value, nested={}, ids=False, drop=_HINT)


def _gemini_part(walk: Walk, value: Json) -> Json:
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


def _gemini(walk: Walk, value: Json) -> Json:
    return walk.envelope(value, nested={"parts": _each(_gemini_part)}, ids=False, drop=frozenset())


SHAPES: Mapping[str, Shaper] = MappingProxyType(
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
"""By name."""


def preamble_texts(shape: str, value: Json) -> list[str]:
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
