"""Content codings, with a bound: a small compressed body may hold gigabytes."""

import zlib

import brotli
import zstandard

CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})
_CHUNK_BYTES = 1 << 16


def decoded(raw: bytes, coding: str, max_bytes: int) -> bytes:
    """Return *raw* with its content-encoding removed; the same object where there is none.

    Several codings are undone from the last to the first (RFC 9110, 8.4).  Raises ``ValueError`` when the data is
    broken or truncated, the coding unknown, or the result longer than *max_bytes*.
    """
    for name in reversed([part.strip().lower() for part in coding.split(",")]):
        if name in {"", "identity"}:
            continue
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
            return _inflated(raw, 15 if raw[:1] == b"\x78" else -15, max_bytes)
        case "br":
            return _unbrotlied(raw, max_bytes)
        case "zstd":
            return _unzstded(raw, max_bytes)
        case _:
            raise ValueError(f"unknown content coding {name!r}")


def _inflated(raw: bytes, window_bits: int, max_bytes: int) -> bytes:
    whole = bytearray()
    while raw:  # a gzip body may hold several members
        inflater = zlib.decompressobj(window_bits)
        whole += inflater.decompress(raw, max_bytes + 1 - len(whole))
        if len(whole) > max_bytes:
            raise ValueError("body too large")
        if not inflater.eof:
            raise ValueError("truncated body")
        raw = inflater.unused_data
    return bytes(whole)


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
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    for at in range(0, len(raw), _CHUNK_BYTES >> 6):  # small steps: each may swell a thousandfold
        whole += decompressor.decompress(raw[at : at + (_CHUNK_BYTES >> 6)])
        if len(whole) > max_bytes:
            raise ValueError("body too large")
        if decompressor.eof:
            break
    if not decompressor.eof:
        raise ValueError("truncated body")
    return bytes(whole)
