"""Small parts that all of the stand-in's answer formats share: fresh ids, compact JSON, a text in pieces."""

import json
import random
import string

from promptweir.cli.standin_asks import Json

DELTAS_PER_TEXT = 4  # pieces that a text is streamed in
_ALPHABET = string.ascii_letters + string.digits


def fresh(prefix: str, length: int) -> str:
    """Return a new random id."""
    return prefix + "".join(random.choices(_ALPHABET, k=length))


def compact(value: Json) -> bytes:
    """Return *value* as JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


def pieces(text: str) -> list[str]:
    """Return *text* in the pieces that a stream would bring."""
    step = max(1, -(-len(text) // DELTAS_PER_TEXT))
    return [text[at : at + step] for at in range(0, len(text), step)]
