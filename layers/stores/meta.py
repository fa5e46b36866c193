"""The running sums of the store: read at the start of a transaction, written at its end.

They change in the same transaction as the rows they describe, so they are right after a crash too, and nothing has to
be counted at start-up.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Meta:
    """The one row of ``meta``."""

    generation: int
    """Goes up with every purge."""
    tick: int
    """The logical clock of recency."""
    entries: int
    bytes: int
    links: int
    link_bytes: int

    def next_tick(self) -> int:
        """Return a tick later than all others."""
        self.tick += 1
        return self.tick


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[Meta]:
    """Run a write transaction; its sums are stored at the end, and all of it is undone if anything raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        row = connection.execute("SELECT generation, tick, entries, bytes, links, link_bytes FROM meta").fetchone()
        if row is None:
            raise sqlite3.DatabaseError("the running sums are missing")
        meta = Meta(*row)
        yield meta
        connection.execute(
            "UPDATE meta SET generation = ?, tick = ?, entries = ?, bytes = ?, links = ?, link_bytes = ?",
            (meta.generation, meta.tick, meta.entries, meta.bytes, meta.links, meta.link_bytes),
        )
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            rollback(connection)


def rollback(connection: sqlite3.Connection) -> None:
    """Undo the open transaction.  SQLite may have done so by itself; where even this fails, the error that led here counts."""
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error:
        return


def generation_of(connection: sqlite3.Connection) -> int:
    """Read the generation outside of a transaction."""
    row = connection.execute("SELECT generation FROM meta").fetchone()
    return int(row[0]) if row else -1
