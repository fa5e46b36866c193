"""An entry as one compressed frame, and back.

The frame holds the whole entry, its key and tenant included, under zstd's checksum: what comes off the disk is either
the entry that was put there or nothing.
"""

from dataclasses import dataclass

import msgspec
import zstandard

from promptweir.layers.stores.types import Entry

COMPRESSION_LEVEL = 3
MAX_DECODED_BYTES = 256 << 20  # far above the largest answer that is teed; a frame that claims more is damaged
MAX_INTEGER = 2**63 - 1  # what a column of SQLite holds

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry made ready for its rows, outside of any transaction."""

    entry: Entry
    frame: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes of ``max_bytes``."""
        return len(self.frame) + len(self.entry.fingerprint)


def pack(entry: Entry) -> Packed:
    """Compress *entry*; ``ValueError`` says why it cannot be stored."""
    if not all(0 <= number <= MAX_INTEGER for number in (entry.created_ns, entry.expires_ns)):
        raise ValueError("a time of an entry is out of range")
    try:
        # The fingerprint has its own column, because listings read it without the answer.
        plain = _encoder.encode(msgspec.structs.replace(entry, fingerprint=b""))
    except OverflowError as error:
        raise ValueError(str(error)) from error
    if len(plain) > MAX_DECODED_BYTES:
        raise ValueError("an entry is too large")
    # Made anew each time: one compressor must not be used by two threads, and making one costs a few microseconds.
    return Packed(entry, zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True).compress(plain))


def unpack(frame: bytes, fingerprint: bytes) -> Entry:
    """Return the entry in *frame*; ``ValueError`` means that it is damaged."""
    try:
        if not 0 < zstandard.frame_content_size(frame) <= MAX_DECODED_BYTES:
            raise ValueError("a stored entry has no credible size")
        entry = _decoder.decode(zstandard.ZstdDecompressor().decompress(frame))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(f"a stored entry is damaged ({error})") from error
    return msgspec.structs.replace(entry, fingerprint=fingerprint)
