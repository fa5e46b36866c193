"""Keys: length-prefixed, so that they are injective, and the tenant comes first."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from urllib.parse import parse_qsl

from promptweir.layers.canonical import Canonical
from promptweir.layers.contract import Dialect, Encoding, Prompt

VERSION = b"1"
"""Changes whenever the canonical form does: old entries are then never found, and age out."""

MAX_PLACES = 1024
"""Callers and endpoints remembered."""

_STREAMED_METHODS = (
    (":streamGenerateContent", ":generateContent"),
    (":streamRawPredict", ":rawPredict"),
    ("/invoke-with-response-stream", "/invoke"),
)
_QUERY_LEFT_OUT = frozenset({"key", "alt", "access_token", "$alt"})
"""Credentials belong to the tenant, ``alt`` to the layout."""


def digest_of(parts: Iterable[bytes]) -> bytes:
    """Return 32 bytes that differ whenever the sequence of *parts* does."""
    said = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    return hashlib.blake2b(said, digest_size=32).digest()


def endpoint_of(path: str) -> str:
    """Return *path* with a streaming method replaced by its plain twin: both ask the same question."""
    for streamed, plain in _STREAMED_METHODS:
        if path.endswith(streamed):
            return path.removesuffix(streamed) + plain
    return path


def key_of(prompt: Prompt, canonical: Canonical, *, origin: str, parent: bytes, usage: bool) -> bytes:
    """Return the key of *prompt*.

    *origin* is where the call really goes (empty: the provider's own host); *parent* the canonical state that
    ``previous_response_id`` stands for (empty: none); *usage* whether the answer has to carry token counts.
    """
    place = _place_of(
        prompt.tenant,
        prompt.dialect,
        prompt.provider,
        prompt.host,
        origin,
        prompt.path,
        prompt.headers,
        prompt.facts.stored,
        usage,
    )
    pairs: list[bytes] = []
    if prompt.query:
        # By name only: which of two values of one name comes first may count.  Bytes that are no UTF-8 must not look alike.
        read = parse_qsl(prompt.query, keep_blank_values=True, errors="surrogateescape")
        query = sorted((pair for pair in read if pair[0] not in _QUERY_LEFT_OUT), key=itemgetter(0))
        pairs = [part.encode("utf-8", "surrogateescape") for pair in query for part in pair]
    return digest_of((place, parent, canonical.digest, *pairs))


@lru_cache(maxsize=MAX_PLACES)
def _place_of(
    tenant: bytes,
    dialect: Dialect,
    provider: str,
    host: str,
    origin: str,
    path: str,
    headers: tuple[tuple[str, str], ...],
    stored: bool,
    usage: bool,
) -> bytes:
    """Return the digest of all that rarely differs from one request of a client to the next.

    The query is not part of it: credentials may be in there, and need not be kept.
    """
    texts = (dialect.value, provider, host, origin, endpoint_of(path), *(part for pair in headers for part in pair))
    flags = bytes((stored, usage))
    return digest_of((tenant, VERSION, flags, *(text.encode("utf-8", "surrogateescape") for text in texts)))


def wants_usage(prompt: Prompt) -> bool:
    """Tell whether the client expects token counts: only a streamed chat completion may go without."""
    return (
        not (prompt.dialect is Dialect.OPENAI_CHAT and prompt.facts.encoding is Encoding.SSE)
        or prompt.facts.include_usage
    )
