"""Fill a store with entries by the store's own code, in large transactions and without the proxy.

The answers that are there already stay, and are stored anew at random places among the new ones, so that reading them
means looking all over the file.
"""

import random
import secrets
import sys
import time
from pathlib import Path

import msgspec

from promptweir.layers.stores import rows
from promptweir.layers.stores.codec import Packed, pack, unpack
from promptweir.layers.stores.files import Database
from promptweir.layers.stores.meta import transaction
from promptweir.layers.stores.types import Entry

BATCH = 10_000
WAIT_S = 5.0


def fill(cache: Path, count: int) -> None:
    """Bring the store in *cache*, which must hold some entries, up to *count*."""
    database = Database(cache, warn=lambda text: print(text, file=sys.stderr))
    if not database.open():
        raise SystemExit(f"no usable store in {cache}")
    connection = database.connect(wait_s=WAIT_S)
    try:
        real = [
            unpack(frame, fingerprint)
            for frame, fingerprint in connection.execute("SELECT frame, fingerprint FROM bodies").fetchall()
        ]
        model = pack(real[0])
        rng = random.Random(count)
        places = dict(zip(rng.sample(range(count), len(real)), real, strict=True))
        for start in range(0, count, BATCH):
            with transaction(connection) as meta:
                for place in range(start, min(start + BATCH, count)):
                    entry = places.get(place)
                    packed = _copy(model) if entry is None else pack(entry)
                    rows.put_entry(connection, meta, packed, time.time_ns())
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()
        database.close()


def _copy(model: Packed) -> Packed:
    # Its frame names another key, so nobody could be served from it; it only has to take its place.
    entry: Entry = msgspec.structs.replace(model.entry, key=secrets.token_bytes(32))
    return Packed(entry, model.frame)
