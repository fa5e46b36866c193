"""The rows about calls and callers: trips with their totals, and the proofs of accounts.

Trips are a ring: the newest of them are kept, and ``totals`` keeps the sums of all that ever were.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from promptweir.layers.stores.types import Totals, Trip

MAX_PROOFS = 10_000
MAX_COUNT = 2**43  # tokens or nanoseconds (2.4 hours) in one trip; a million such trips still fit into a sum
MAX_TRIP_FINGERPRINT_BYTES = 64 << 10  # a larger one is left out of the trip's row
MAX_TRIP_TEXT_CHARS = 512  # user agents and session names are the client's own words

_TRIP_COLUMNS = (
    "id, at_ns, tenant, client, session, dialect, provider, model, layer, reason, status, deflected, "
    "input_tokens, output_tokens, cached_tokens, elapsed_ns, upstream, fingerprint, key"
)
_INSERT_TRIP = f"INSERT INTO trips({_TRIP_COLUMNS}) VALUES ({', '.join('?' * 19)})"
_ADD_TOTALS = """INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, cached_tokens = cached_tokens + excluded.cached_tokens,
    elapsed_ns = elapsed_ns + excluded.elapsed_ns"""

type _Sum = tuple[str, int, int, int, int, int, int, int]
"""layer, deflected, upstream, calls, input, output and cached tokens, elapsed nanoseconds."""


def add_trips(connection: sqlite3.Connection, trips: Sequence[Trip]) -> None:
    """Append *trips* and add them to the totals: once for each kind of trip, however many there are."""
    rows: list[tuple[str | bytes | int, ...]] = []
    sums: dict[tuple[str, bool, bool], list[int]] = {}
    for trip in trips:
        counts = [
            _clamp(number) for number in (trip.input_tokens, trip.output_tokens, trip.cached_tokens, trip.elapsed_ns)
        ]
        texts = (trip.client, trip.session, trip.dialect, trip.provider, trip.model, trip.layer, trip.reason)
        client, session, dialect, provider, model, layer, reason = (_clean(text) for text in texts)
        fingerprint = trip.fingerprint if len(trip.fingerprint) <= MAX_TRIP_FINGERPRINT_BYTES else b""
        at_ns = max(0, min(trip.at_ns, 2**63 - 1))
        head = (_clean(trip.id), at_ns, trip.tenant, client, session, dialect, provider, model, layer, reason)
        rows.append((*head, _clamp(trip.status), trip.deflected, *counts, trip.upstream, fingerprint, trip.key))
        known = sums.setdefault((layer, trip.deflected, trip.upstream), [0] * 5)
        sums[layer, trip.deflected, trip.upstream] = [
            total + one for total, one in zip(known, (1, *counts), strict=True)
        ]
    connection.executemany(_INSERT_TRIP, rows)
    connection.executemany(_ADD_TOTALS, [(*kind, *sum_) for kind, sum_ in sums.items()])


def trim_trips(connection: sqlite3.Connection, max_trips: int) -> None:
    """Drop the oldest trips beyond *max_trips*."""
    connection.execute("DELETE FROM trips WHERE seq <= (SELECT max(seq) FROM trips) - ?", (max_trips,))


def add_proof(connection: sqlite3.Connection, token_hash: bytes, account: str) -> None:
    """Remember which account a token was proven to belong to."""
    connection.execute("INSERT OR REPLACE INTO proofs(token_hash, account) VALUES (?, ?)", (token_hash, account))
    connection.execute("DELETE FROM proofs WHERE seq <= (SELECT max(seq) FROM proofs) - ?", (MAX_PROOFS,))


def read_proofs(connection: sqlite3.Connection) -> dict[bytes, str]:
    """Return all proofs, the oldest first."""
    rows = connection.execute("SELECT token_hash, account FROM proofs ORDER BY seq").fetchall()
    return {bytes(token_hash): str(account) for token_hash, account in rows}


def read_trips(connection: sqlite3.Connection, where: str, values: tuple[str | int, ...], limit: int) -> list[Trip]:
    """Return the newest trips that fit the condition *where*, the newest first."""
    query = f"SELECT {_TRIP_COLUMNS} FROM trips WHERE {where} ORDER BY seq DESC LIMIT ?"
    return [_trip_of(row) for row in connection.execute(query, (*values, limit))]


def read_totals(connection: sqlite3.Connection) -> Totals:
    """Sum up every call ever recorded."""
    return _summed(connection.execute("SELECT * FROM totals ORDER BY layer").fetchall())


def read_totals_since(connection: sqlite3.Connection, at_ns: int) -> Totals:
    """Sum up the calls from *at_ns* on, as far back as the ring reaches."""
    query = """SELECT layer, deflected, upstream, count(*), sum(input_tokens), sum(output_tokens), sum(cached_tokens),
        sum(elapsed_ns) FROM trips WHERE at_ns >= ? GROUP BY layer, deflected, upstream ORDER BY layer"""
    return _summed(connection.execute(query, (at_ns,)).fetchall())


def _summed(sums: list[_Sum]) -> Totals:
    layers: dict[str, int] = {}
    for layer, _, _, calls, *_ in sums:
        layers[layer] = layers.get(layer, 0) + calls
    deflected = [one for one in sums if one[1]]
    provider = [one for one in sums if one[2]]
    return Totals(
        calls=sum(one[3] for one in sums),
        deflected=sum(one[3] for one in deflected),
        provider_calls=sum(one[3] for one in provider),
        layers=layers,
        saved_input_tokens=sum(one[4] for one in deflected),
        saved_output_tokens=sum(one[5] for one in deflected),
        saved_cached_tokens=sum(one[6] for one in deflected),
        spent_input_tokens=sum(one[4] for one in provider),
        spent_output_tokens=sum(one[5] for one in provider),
        spent_cached_tokens=sum(one[6] for one in provider),
        deflected_elapsed_ns=sum(one[7] for one in deflected),
        provider_elapsed_ns=sum(one[7] for one in provider),
    )


def _trip_of(row: tuple[str | int | bytes, ...]) -> Trip:
    # Not strict: SQLite has no booleans, and gives 0 and 1 back.
    return msgspec.convert(dict(zip(_TRIP_COLUMNS.split(", "), row, strict=True)), Trip, strict=False)


def _clamp(number: int) -> int:
    return max(0, min(number, MAX_COUNT))


def _clean(text: str) -> str:
    # Text of requests may hold lone surrogates, which no column takes.
    return text[:MAX_TRIP_TEXT_CHARS].encode("utf-8", "replace").decode()
