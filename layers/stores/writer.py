"""The one thread that writes: batches of jobs, each batch one transaction.

Goals
    Whatever happens to the file, the thread goes on.  A lock of another process is waited for, a bounded time; a full
    or broken disk costs the batch, is counted and said once, and the next batch tries again; a damaged file is set
    aside and the batch goes to the empty one.

    What was purged does not come back: a job carries the generation that was known when it was queued, and one that
    was queued before a purge in the same file is left out.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from promptweir.layers.stores import ledger, rows
from promptweir.layers.stores.codec import Packed, pack
from promptweir.layers.stores.files import Database
from promptweir.layers.stores.inbox import Batch, Inbox, Link, Prove, Purge, Put, Record, Stamp
from promptweir.layers.stores.meta import Meta, transaction
from promptweir.layers.stores.schema import Trouble, trouble_of
from promptweir.layers.stores.types import StoreBusy, Trip

BUSY_WAIT_S = 1.0  # for the lock of another process, each time
MAX_ATTEMPTS = 4
REOPEN_NS = 30 * 10**9  # how often a file that could not be used is tried again
VACUUM_PAGES = 1024  # given back to the file system at a time
MAX_VACUUM_ROUNDS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of what is stored."""

    max_bytes: int
    """Sum of the compressed entries."""
    max_entries: int
    max_trips: int


@dataclass(frozen=True, slots=True)
class _Compressed:
    """A ``Put`` made ready outside of the transaction."""

    packed: Packed
    stamp: Stamp


type _Ready = _Compressed | Link | Prove | Record | Purge


class Writer:
    """The body of the thread: ``run`` returns when the inbox was stopped and is empty."""

    def __init__(
        self,
        database: Database,
        inbox: Inbox,
        limits: Limits,
        *,
        now_ns: Callable[[], int],
        warn: Callable[[str], None],
    ) -> None:
        self._database = database
        self._inbox = inbox
        self._limits = limits
        self._now_ns = now_ns
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._tried_ns = now_ns()
        self._within_limits = True
        self._blocked = False

    def run(self) -> None:
        """Write until there is nothing left to write."""
        try:
            while (batch := self._inbox.take(wait=self._within_limits)) is not None:
                dropped = len(batch.jobs)
                try:
                    dropped = self._write(batch)
                finally:
                    self._inbox.finish(batch, dropped=dropped)
        finally:
            self._close(checkpoint=True)
            self._inbox.abandon()

    def _write(self, batch: Batch) -> int:
        """Return how many jobs were dropped."""
        self._within_limits = True  # unless the transaction finds otherwise: a failure must not make the thread spin
        if batch.suspect_epoch and batch.suspect_epoch == self._database.epoch:
            self._replace("damage was found while reading")
        ready = [one for job in batch.jobs if (one := self._prepare(job)) is not None]
        for _ in range(MAX_ATTEMPTS):
            try:
                connection = self._connect()
                if connection is None:
                    break
                purged, unfit = self._commit(connection, ready, batch)
            except sqlite3.Error as error:
                if not self._recovers(error) or self._inbox.stopping:
                    break
                continue
            self._blocked = False
            for purge, count in purged:
                _resolve(purge, count)
            if purged:
                reclaim(connection)
            return len(batch.jobs) - len(ready) + unfit
        self._warn_once("new answers and trips cannot be written to the store; they are kept in memory, or lost")
        for job in ready:
            if isinstance(job, Purge) and job.done.set_running_or_notify_cancel():
                job.done.set_exception(StoreBusy(f"{self._database.path} cannot be written to"))
        return len(batch.jobs)

    def _commit(
        self, connection: sqlite3.Connection, ready: list[_Ready], batch: Batch
    ) -> tuple[list[tuple[Purge, int]], int]:
        """Return what each purge deleted, and how many jobs did not fit."""
        now_ns = self._now_ns()
        purged: list[tuple[Purge, int]] = []
        trips: list[Trip] = []
        unfit = 0
        with transaction(connection) as meta:
            for job in ready:
                match job:
                    case _Compressed(packed=packed) if packed.size_bytes > self._limits.max_bytes:
                        rows.delete_entry(connection, meta, packed.entry.key)
                        unfit += 1
                    case _Compressed(packed=packed, stamp=stamp) if not self._outdated(stamp, meta):
                        rows.put_entry(connection, meta, packed, now_ns)
                    case Link(name=name, state=state, stamp=stamp) if not self._outdated(stamp, meta):
                        rows.put_link(connection, meta, name, state, now_ns)
                    case Prove(token_hash=token_hash, account=account):
                        ledger.add_proof(connection, token_hash, account)
                    case Record(trip=trip):
                        trips.append(trip)
                    case Purge(selection=selection):
                        purged.append((job, rows.purge(connection, meta, selection)))
                    case _Compressed() | Link():
                        pass  # purged while it was queued
            ledger.add_trips(connection, trips)
            # After the jobs, for an entry may have been put and used within one batch.
            for key, touch in batch.touches.items():
                rows.touch_entry(connection, meta, key, touch.hits, touch.used_ns)
            for name in batch.link_touches:
                rows.touch_link(connection, meta, name)
            limits = self._limits
            within = rows.evict(
                connection, meta, max_entries=limits.max_entries, max_bytes=limits.max_bytes, now_ns=now_ns
            )
            ledger.trim_trips(connection, limits.max_trips)
        self._within_limits = within
        return purged, unfit

    def _prepare(self, job: Put | Link | Prove | Record | Purge) -> _Ready | None:
        if not isinstance(job, Put):
            return job
        try:
            return _Compressed(pack(job.entry), job.stamp)
        except ValueError:  # the text of a request that no encoding takes, or a number that no column holds
            return None

    def _outdated(self, stamp: Stamp, meta: Meta) -> bool:
        epoch, generation = stamp
        return epoch == self._database.epoch and generation != meta.generation

    def _connect(self) -> sqlite3.Connection | None:
        if self._database.epoch and self._database.moved():
            self._close(checkpoint=False)
            self._database.open()
        elif not self._database.epoch:
            now_ns = self._now_ns()
            if abs(now_ns - self._tried_ns) < REOPEN_NS:  # either way: the clock may have been set back
                return None
            self._tried_ns = now_ns
            self._database.open()
        if self._connection is None and self._database.epoch:
            self._connection = self._database.connect(wait_s=BUSY_WAIT_S)
        return self._connection

    def _recovers(self, error: sqlite3.Error) -> bool:
        """Tell whether another attempt makes sense, after doing what it needs."""
        match trouble_of(error):
            case Trouble.BUSY:
                return True
            case Trouble.DAMAGED:
                return self._replace(str(error))
            case Trouble.BLOCKED:
                self._warn_once(f"the store cannot be written ({error}); answers are kept in memory only")
                self._close(checkpoint=False)  # a connection that met an I/O error may hold on to it
                return False

    def _replace(self, why: str) -> bool:
        self._close(checkpoint=False)
        self._tried_ns = self._now_ns()
        return self._database.replace(why)

    def _warn_once(self, text: str) -> None:
        if not self._blocked:
            self._warn(text)
        self._blocked = True

    def _close(self, *, checkpoint: bool) -> None:
        if self._connection is None:
            return
        try:
            if checkpoint:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self._warn_once(f"the log of the store was not folded in ({error}); it is at the next start")
        finally:
            self._connection.close()
            self._connection = None


def reclaim(connection: sqlite3.Connection) -> None:
    """Give the space of deleted rows back to the file system, as far as nobody is in the way."""
    try:
        for _ in range(MAX_VACUUM_ROUNDS):
            if connection.execute("PRAGMA freelist_count").fetchone() == (0,):
                break
            connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error:
        return  # the space is used again by later entries


def _resolve(purge: Purge, count: int) -> None:
    if purge.done.set_running_or_notify_cancel():
        purge.done.set_result(count)
