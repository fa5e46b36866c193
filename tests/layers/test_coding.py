"""Content codings are undone exactly, or not at all, and never take more memory than allowed."""

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.coding import CODINGS, MAX_CODINGS, MAX_MEMBERS, decoded

MB = 1 << 20


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def narrow_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=9)
    return packer.compress(data) + packer.flush()


def streamed_zstd(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its header": ("deflate", bare_deflate),
    "deflate with a small window": ("deflate", narrow_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd without a length": ("zstd", streamed_zstd),
}
every = pytest.mark.parametrize(("coding", "pack"), PACKERS.values(), ids=PACKERS.keys())


def test_every_coding_is_tested() -> None:
    assert {coding for coding, _ in PACKERS.values()} == CODINGS


@every
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | st.integers(1, 200_000).map(bytes))
def test_what_was_packed_comes_out(coding: str, pack: Callable[[bytes], bytes], data: bytes) -> None:
    assert decoded(pack(data), coding, 200_000) == data


@every
def test_a_body_of_just_the_allowed_size_passes_and_one_byte_more_does_not(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    data = b"x" * 100_000

    assert decoded(pack(data), coding, len(data)) == data
    with pytest.raises(ValueError, match="too large"):
        decoded(pack(data), coding, len(data) - 1)


@every
def test_a_truncated_body_is_refused_wherever_it_breaks_off(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(range(256)) * 4)

    for size in range(len(packed)):
        with pytest.raises(ValueError, match=r"truncated|broken"):
            decoded(packed[:size], coding, MB)


@every
def test_garbage_behind_the_end_is_refused_and_not_dropped(coding: str, pack: Callable[[bytes], bytes]) -> None:
    for tail in (b"x", b"{}" * 3000, b"\0"):
        with pytest.raises(ValueError, match=r"truncated|broken"):
            decoded(pack(b"hello") + tail, coding, MB)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_and_frames_one_after_another_all_count(coding: str) -> None:
    pack = PACKERS[coding][1]

    assert decoded(pack(b"hello ") + pack(b"world") + pack(b""), coding, MB) == b"hello world"
    assert decoded(pack(b"x" * 999) * MAX_MEMBERS, coding, MB) == b"x" * 999 * MAX_MEMBERS
    with pytest.raises(ValueError, match="too large"):
        decoded(pack(b"x" * 999) * 3, coding, 2000)
    with pytest.raises(ValueError, match="too many"):
        decoded(pack(b"") * 100_000, coding, MB)


@pytest.mark.parametrize("coding", sorted(CODINGS))
@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=200))
def test_garbage_is_a_value_error_and_nothing_else(coding: str, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(decoded(data, coding, 1000)) <= 1000


def test_several_codings_are_undone_from_the_last_to_the_first() -> None:
    data = b"hello" * 50

    assert decoded(brotli.compress(gzip.compress(data)), "gzip, br", MB) == data
    assert decoded(zstandard.compress(zlib.compress(data)), " Deflate ,ZSTD,", MB) == data
    with pytest.raises(ValueError, match="broken"):
        decoded(brotli.compress(gzip.compress(data)), "br, gzip", MB)


def test_more_codings_than_anyone_sends_are_refused() -> None:
    data = b"hello"
    for _ in range(MAX_CODINGS + 1):
        data = gzip.compress(data)

    with pytest.raises(ValueError, match="too many"):
        decoded(data, ",".join(["gzip"] * (MAX_CODINGS + 1)), MB)


@pytest.mark.parametrize("coding", ["", "identity", " Identity , identity", ","])
def test_without_a_coding_the_same_object_comes_back(coding: str) -> None:
    raw = b"anything"

    assert decoded(raw, coding, 1) is raw


@pytest.mark.parametrize("coding", ["compress", "gzip;q=1", "aes128gcm", "*"])
def test_an_unknown_coding_is_refused(coding: str) -> None:
    with pytest.raises(ValueError, match="unknown content coding"):
        decoded(b"x", coding, MB)


def bomb_of(coding: str) -> bytes:
    """64 MB of zeros, packed small."""
    zeros = bytes(MB)
    match coding:
        case "gzip":
            packer = zlib.compressobj(9, wbits=31)
            return b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
        case "deflate":
            packer = zlib.compressobj(9)
            return b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
        case "br":
            small = brotli.Compressor(quality=3)
            return b"".join(small.process(zeros) for _ in range(64)) + small.finish()
        case _:
            frame = zstandard.ZstdCompressor(level=3).compressobj()
            return b"".join(frame.compress(zeros) for _ in range(64)) + frame.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_defused_in_bounded_memory(coding: str) -> None:
    bomb = bomb_of(coding)
    assert len(bomb) < MB

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too large"):
            decoded(bomb, coding, 4 * MB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 32 * MB


def test_a_window_larger_than_the_standard_allows_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packer.compress(b"hello") + packer.flush()

    with pytest.raises(ValueError, match="broken zstd"):
        decoded(body, "zstd", MB)
