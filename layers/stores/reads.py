"""Reading from the disk, off the event loop: one thread, one connection, a bounded number of calls waiting for it."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from promptweir.layers.stores import rows
from promptweir.layers.stores.codec import unpack
from promptweir.layers.stores.files import Database
from promptweir.layers.stores.inbox import Inbox
from promptweir.layers.stores.schema import Trouble, trouble_of
from promptweir.layers.stores.types import Entry
from promptweir.layers.stores.watch import Renewed

MAX_WAITING_READS = 256  # beyond this a look-up is a miss
READ_WAIT_S = 0.2  # readers of a write-ahead log hardly ever wait


class Reads:
    """The reading thread, seen from the event loop.  Every failure is a miss."""

    def __init__(self, database: Database, inbox: Inbox, *, warn: Callable[[str], None]) -> None:
        self._database = database
        self._inbox = inbox
        self._warn = warn
        self._connection = Renewed(database, wait_s=READ_WAIT_S)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="promptweir-store-reader")
        self._waiting = 0
        self._closed = False

    async def entry(self, key: bytes) -> Entry | None:
        """Return the stored entry."""
        return await self._run(self._read_entry, key)

    async def link(self, name: tuple[bytes, str]) -> bytes | None:
        """Return the stored state behind a response id."""
        return await self._run(self._read_link, name)

    def close(self) -> None:
        """Wait for the read under way, and end the thread."""
        if not self._closed:
            self._closed = True
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._connection.close()

    async def _run[K, V](self, read: Callable[[sqlite3.Connection, K], V | None], key: K) -> V | None:
        if self._closed or not self._database.epoch or self._waiting >= MAX_WAITING_READS:
            return None
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, read, key)
        finally:
            self._waiting -= 1

    def _guarded[K, V](self, read: Callable[[sqlite3.Connection, K], V | None], key: K) -> V | None:
        try:
            connection = self._connection.get()
            return None if connection is None else read(connection, key)
        except sqlite3.Error as error:
            if trouble_of(error) is Trouble.DAMAGED:
                self._inbox.suspect(self._connection.epoch)
            return None

    def _read_entry(self, connection: sqlite3.Connection, key: bytes) -> Entry | None:
        row = rows.read_entry(connection, key)
        if row is None:
            return None
        try:
            entry = unpack(*row)
        except ValueError as error:
            self._warn(str(error))
            return None
        return entry if entry.key == key else None

    def _read_link(self, connection: sqlite3.Connection, name: tuple[bytes, str]) -> bytes | None:
        return rows.read_link(connection, name)
