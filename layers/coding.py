"""Content codings, with a bound: a small compressed body may hold gigabytes."""

import zlib

import brotli
import zstandard

CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})
MAX_CODINGS = 4
"""One on top of another; nobody sends more than one."""
MAX_MEMBERS = 16
"""Of one gzip or zstd body; each costs a copy of the rest, so a body of a million empty ones would keep us busy for hours."""
MAX_WINDOW_BYTES = 8 << 20  # RFC 9659: the largest window of the zstd content coding
_CHUNK_BYTES = 1 << 16
_ZSTD_STEP_BYTES = 256
"""Each byte may swell thirty thousandfold: so much goes in at a time that at most 8 MB come out."""


def decoded(raw: bytes, coding: str, max_bytes: int) -> bytes:
    """Return *raw* with its content-encoding removed; the same object where there is none.

    Several codings are undone from the last to the first (RFC 9110, 8.4).  Raises ``ValueError`` when the data is
    broken or truncated, the coding unknown, or the result longer than *max_bytes*.
    """
    names = [name for part in coding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if len(names) > MAX_CODINGS:
        raise ValueError("too many content codings")
    for name in reversed(names):
        try:
            raw = _undone(raw, name, max_bytes)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise ValueError(f"broken {name} data") from error
    return raw


def _undone(raw: bytes, name: str, max_bytes: int) -> bytes:
    match name:
        case "gzip" | "x-gzip":
            return _inflated(raw, 31, max_bytes)
        case "deflate":
            # RFC 9110 8.4.1.2 means zlib; some send the bare deflate stream.
            zlib_header = len(raw) > 1 and raw[0] & 15 == zlib.DEFLATED and int.from_bytes(raw[:2], "big") % 31 == 0
            return _inflated(raw, 15 if zlib_header else -15, max_bytes)
        case "br":
            return _unbrotlied(raw, max_bytes)
        case "zstd":
            return _unzstded(raw, max_bytes)
        case _:
            raise ValueError(f"unknown content coding {name!r}")


def _inflated(raw: bytes, window_bits: int, max_bytes: int) -> bytes:
    whole = bytearray()
    for _ in range(MAX_MEMBERS):  # a gzip body may hold several
        inflater = zlib.decompressobj(window_bits)
        whole += inflater.decompress(raw, max_bytes + 1 - len(whole))
        if len(whole) > max_bytes:
            raise ValueError("body too large")
        if not inflater.eof:
            raise ValueError("truncated body")
        raw = inflater.unused_data
        if not raw:
            return bytes(whole)
    raise ValueError("too many members")


def _unbrotlied(raw: bytes, max_bytes: int) -> bytes:
    decompressor = brotli.Decompressor()
    whole = bytearray(decompressor.process(raw, output_buffer_limit=_CHUNK_BYTES))
    while not decompressor.is_finished():
        if len(whole) > max_bytes:
            raise ValueError("body too large")
        more = decompressor.process(b"", output_buffer_limit=_CHUNK_BYTES)
        if not more:
            raise ValueError("truncated body")
        whole += more
    if len(whole) > max_bytes:
        raise ValueError("body too large")
    return bytes(whole)


def _unzstded(raw: bytes, max_bytes: int) -> bytes:
    whole = bytearray()
    at = 0
    for _ in range(MAX_MEMBERS):  # a zstd body may hold several frames (RFC 8878, 3.1)
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        while at < len(raw) and not decompressor.eof:
            whole += decompressor.decompress(raw[at : at + _ZSTD_STEP_BYTES])
            at = min(at + _ZSTD_STEP_BYTES, len(raw))
            if len(whole) > max_bytes:
                raise ValueError("body too large")
        if not decompressor.eof:
            raise ValueError("truncated body")
        at -= len(decompressor.unused_data)
        if at == len(raw):
            return bytes(whole)
    raise ValueError("too many members")
