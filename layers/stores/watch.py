"""Connections that follow the file, and the eye on what other processes do to it.

A purge in another process has to empty this one's memory.  ``PRAGMA data_version`` changes with every commit of
another connection, and costs some microseconds; only then is the generation read, which only a purge changes.
"""

import sqlite3

from promptweir.layers.stores.files import Database
from promptweir.layers.stores.inbox import Stamp
from promptweir.layers.stores.meta import generation_of

UNKNOWN_GENERATION = -1


class Renewed:
    """A connection of one thread, made anew when the file was replaced."""

    def __init__(self, database: Database, *, wait_s: float) -> None:
        self._database = database
        self._wait_s = wait_s
        self._connection: sqlite3.Connection | None = None
        self.epoch = 0

    def get(self) -> sqlite3.Connection | None:
        """Return the connection; None while there is no usable file."""
        epoch = self._database.epoch
        if epoch != self.epoch:
            self.close()
            if epoch:
                self._connection = self._database.connect(wait_s=self._wait_s)
            self.epoch = epoch
        return self._connection

    def close(self) -> None:
        """Close the connection; the next ``get`` opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.epoch = 0


class Watch:
    """Tells when something was purged.  Only for the thread of the event loop, so it never waits for a lock."""

    def __init__(self, database: Database) -> None:
        self._connection = Renewed(database, wait_s=0)
        self._stamp: Stamp = (0, UNKNOWN_GENERATION)
        self._version = 0

    def stamp(self) -> Stamp:
        """Return what identifies the present contents; a different stamp means: forget what is in memory."""
        try:
            connection = self._connection.get()
            if connection is None:
                return (0, UNKNOWN_GENERATION)
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version or self._stamp[0] != self._connection.epoch:
                self._stamp = (self._connection.epoch, generation_of(connection))
                self._version = version
        except sqlite3.Error:
            # Unable to rule out a purge.  What the writer finds out about the file decides how it goes on.
            self._stamp = (self._connection.epoch, UNKNOWN_GENERATION)
            self._version = 0
        return self._stamp

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
