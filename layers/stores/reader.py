"""Reading the store from outside the proxy: what the command line shows.

Synchronous, and safe while proxies run.  A folder without a store, or with one that cannot be read, gives empty
results; ``warnings`` says why.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from promptweir.layers.stores import ledger, schema
from promptweir.layers.stores.types import EntrySummary, Totals, Trip

READ_WAIT_S = 2.0
MAX_LISTED = 100_000

_SUMMARY = """SELECT e.key, e.tenant, e.dialect, e.model, e.client, e.created_ns, e.expires_ns, e.used_ns, e.size,
    e.hits, e.prompt_id, b.fingerprint FROM entries e JOIN bodies b ON b.id = e.id"""


class Reader:
    """A look into the store under *folder*.  Each call opens the file anew."""

    def __init__(self, folder: Path) -> None:
        self.warnings: list[str] = []
        self._path = folder / schema.FILE_NAME

    def totals(self) -> Totals:
        """Return the sums over all calls ever recorded."""
        return self._ask(ledger.read_totals, Totals())

    def since(self, at_ns: int) -> Totals:
        """Return the sums over the calls from *at_ns* on, as far back as trips are kept."""
        return self._ask(lambda connection: ledger.read_totals_since(connection, at_ns), Totals())

    def recent(self, n: int, deflected: bool | None = None) -> list[Trip]:
        """Return the latest *n* trips, the newest first."""
        where, values = ("1", ()) if deflected is None else ("deflected = ?", (int(deflected),))
        limit = max(0, min(n, MAX_LISTED))
        return self._ask(lambda connection: ledger.read_trips(connection, where, values, limit), [])

    def trip(self, id: str) -> Trip | None:  # noqa: A002 - the field's name
        """Return the trip with this id."""
        if not id.isascii():
            return None
        none: list[Trip] = []
        found = self._ask(lambda connection: ledger.read_trips(connection, "id = ?", (id,), 1), none)
        return found[0] if found else None

    def entries(self, limit: int, tenant: bytes | None = None) -> list[EntrySummary]:
        """Return the most recently used entries."""
        where, values = ("", ()) if tenant is None else (" WHERE e.tenant = ?", (tenant,))
        query = f"{_SUMMARY}{where} ORDER BY e.tick DESC LIMIT ?"
        capped = max(0, min(limit, MAX_LISTED))

        def listed(connection: sqlite3.Connection) -> list[EntrySummary]:
            return [_summary_of(row) for row in connection.execute(query, (*values, capped))]

        return self._ask(listed, [])

    def usage(self) -> tuple[int, int]:
        """Return the number of entries and the bytes that they take."""

        def sums(connection: sqlite3.Connection) -> tuple[int, int]:
            entries, size = connection.execute("SELECT entries, bytes FROM meta").fetchone() or (0, 0)
            return int(entries), int(size)

        return self._ask(sums, (0, 0))

    def _ask[T](self, read: Callable[[sqlite3.Connection], T], empty: T) -> T:
        try:
            if not self._path.is_file():
                return empty
            with contextlib.closing(schema.connect(self._path, wait_s=READ_WAIT_S)) as connection:
                connection.execute("PRAGMA query_only=ON")
                state, why = schema.state_of(connection)
                if state is schema.State.OURS:
                    return read(connection)
        except (OSError, sqlite3.Error) as error:
            why = str(error)
        if why:
            self.warnings.append(f"{self._path} cannot be read ({why})")
        return empty


def _summary_of(row: tuple[bytes, bytes, str, str, str, int, int, int, int, int, str, bytes]) -> EntrySummary:
    key, tenant, dialect, model, client, created_ns, expires_ns, used_ns, size, hits, prompt_id, fingerprint = row
    return EntrySummary(
        key=key,
        tenant=tenant,
        dialect=dialect,
        model=model,
        client=client,
        created_ns=created_ns,
        expires_ns=expires_ns,
        last_used_ns=used_ns,
        bytes=size,
        hits=hits,
        prompt_id=prompt_id,
        fingerprint=fingerprint,
    )
