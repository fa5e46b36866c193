"""The embedded store: SQLite under a private folder, behind a memory front.

Goals
    A hit in memory costs microseconds and no thread; a hit on the disk costs the event loop nothing but the wait.
    Nothing that happens to the disk reaches the proxy as an exception: the store then forgets, warns and goes on.
    Any number of proxies, and the command line, may use one folder at the same time.

Plan
    Three connections: one for the loop's thread that only notices purges (``watch``), one in a reading thread
    (``reads``), one in the writing thread (``writer``), which takes its work from a bounded queue (``inbox``).  An entry
    can be read from the moment it is put: from the front, else from the queue, else from the disk.

What it does not do: it decides nothing about what may be served or learned, apart from expiry.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from promptweir.layers.stores import ledger
from promptweir.layers.stores.files import Database
from promptweir.layers.stores.front import Front
from promptweir.layers.stores.inbox import Inbox, Link, Prove, Purge, Put, Record, Stamp, size_of_entry
from promptweir.layers.stores.reads import READ_WAIT_S, Reads
from promptweir.layers.stores.types import Entry, Selection, StoreBusy, Trip, is_fresh
from promptweir.layers.stores.watch import UNKNOWN_GENERATION, Watch
from promptweir.layers.stores.writer import Limits, Writer

MAX_WARNINGS = 32
MAX_LINK_STATE_BYTES = 1 << 20
LINK_FRONT_BYTES = 4 << 20
LINK_BYTES = 256  # what a link takes beside its state, roughly
CLOSE_WAIT_S = 5.0


class SqliteStore:
    """The store of one proxy.  Its methods belong to the thread of the event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_entries: int,
        front_max_bytes: int,
        max_trips: int,
        now_ns: Callable[[], int],
    ) -> None:
        self._now_ns = now_ns
        self._warnings: deque[str] = deque(maxlen=MAX_WARNINGS)
        self._inbox = Inbox()
        self._database = Database(folder, warn=self._warnings.append)
        limits = Limits(max_bytes=max_bytes, max_entries=max_entries, max_trips=max_trips)
        self._writer = Writer(self._database, self._inbox, limits, now_ns=now_ns, warn=self._warnings.append)
        self._reads = Reads(self._database, self._inbox, warn=self._warnings.append)
        self._watch = Watch(self._database)
        self._thread = threading.Thread(target=self._writer.run, name="promptweir-store-writer", daemon=True)
        self._stamp: Stamp = (0, UNKNOWN_GENERATION)
        self._front: Front[bytes, Entry] = Front(front_max_bytes)
        self._links: Front[tuple[bytes, str], bytes] = Front(LINK_FRONT_BYTES)
        self._proofs: dict[bytes, str] = {}
        self._puts = 0

    @property
    def warnings(self) -> list[str]:
        """The latest things that a user should know about the store."""
        return list(self._warnings)

    @property
    def dropped(self) -> int:
        """How many writes were given up, because the queue was full or the file could not be written."""
        return self._inbox.dropped

    @property
    def persistent(self) -> bool:
        """Whether there is a usable file; without one the store lives in memory."""
        return self._database.epoch > 0

    def open(self) -> None:
        """Open the files and start the threads.  Trouble with the files is a warning, never an exception."""
        if self._database.open():
            self._stamp = self._watch.stamp()
            try:
                with contextlib.closing(self._database.connect(wait_s=READ_WAIT_S)) as connection:
                    self._proofs = ledger.read_proofs(connection)
            except sqlite3.Error as error:
                self._warnings.append(f"the proofs of accounts could not be read ({error})")
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, as far as ``CLOSE_WAIT_S`` allows, and end the threads."""
        self._inbox.stop()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_WAIT_S)
        if self._thread.is_alive():
            self._warnings.append("the store was closed before everything was written")
        self._database.close()
        self._reads.close()
        self._watch.close()
        self._front.clear()
        self._links.clear()

    async def get(self, key: bytes) -> Entry | None:
        """Return the entry under *key* if it has not expired, and make it the most recently used."""
        self._notice_purges()
        entry = self._held(key)
        if entry is None:
            entry = await self._fetch(key)
        if entry is not None:
            self._inbox.touch(key, 0, self._now_ns())
        return entry

    def put(self, entry: Entry) -> None:
        """Take in *entry*: readable at once, on the disk soon."""
        self._notice_purges()
        self._puts += 1
        self._front.put(entry.key, entry, size_of_entry(entry))
        self._inbox.offer(Put(entry, self._stamp))

    def touch(self, key: bytes) -> None:
        """Count an answer given from the entry under *key*."""
        self._inbox.touch(key, 1, self._now_ns())

    def link(self, tenant: bytes, response_id: str, state: bytes) -> None:
        """Remember the *state* of the conversation that *response_id* stands for."""
        self._notice_purges()
        if len(state) > MAX_LINK_STATE_BYTES or not _storable(response_id):
            return
        name = (tenant, response_id)
        if self._inbox.offer(Link(name, state, self._stamp)):
            self._links.put(name, state, LINK_BYTES + len(state))

    async def linked(self, tenant: bytes, response_id: str) -> bytes | None:
        """Return the state behind *response_id*, which only the same tenant can see."""
        self._notice_purges()
        if not _storable(response_id):
            return None
        name = (tenant, response_id)
        state = self._links.get(name)
        if state is None:
            stamp = self._stamp
            state = await self._reads.link(name)
            self._notice_purges()
            if state is None or stamp != self._stamp:
                return None
            self._links.put(name, state, LINK_BYTES + len(state))
        self._inbox.touch_link(name)
        return state

    def prove(self, token_hash: bytes, account: str) -> None:
        """Remember that the token behind *token_hash* belongs to *account*."""
        if self._proofs.get(token_hash) == account or not _storable(account):
            return
        self._proofs.pop(token_hash, None)
        self._proofs[token_hash] = account
        if len(self._proofs) > ledger.MAX_PROOFS:
            del self._proofs[next(iter(self._proofs))]
        self._inbox.offer(Prove(token_hash, account))

    def proven(self, token_hash: bytes) -> str | None:
        """Return the account that the token is known to belong to."""
        return self._proofs.get(token_hash)

    def record(self, trip: Trip) -> None:
        """Take in what became of a call."""
        self._inbox.offer(Record(trip))

    async def flush(self) -> None:
        """Wait until everything taken in so far is on the disk, or given up."""
        await asyncio.wrap_future(self._inbox.barrier())

    async def purge(
        self,
        tenant: bytes | None = None,
        model: str | None = None,
        older_than_ns: int | None = None,
        all: bool = False,  # noqa: A002 - the word that users say
    ) -> int:
        """Delete the entries that fit every filter given, and return their number; ``StoreBusy`` when that failed."""
        selection = Selection(tenant=tenant, model=model, older_than_ns=older_than_ns, all=all)
        if selection.empty:
            return 0
        in_memory = sum(selection.fits(entry) for entry in self._front.values())
        self._forget()
        if not self.persistent:
            return in_memory
        done: Future[int] = Future()
        if not self._inbox.offer(Purge(selection, done)):
            raise StoreBusy(f"{self._database.path}: too much is waiting to be written")
        count = await asyncio.wrap_future(done)
        self._notice_purges()
        return count

    def _held(self, key: bytes) -> Entry | None:
        entry = self._front.get(key) or self._inbox.pending(key)
        if entry is None or is_fresh(entry, self._now_ns()):
            return entry
        self._front.drop(key)  # the disk may have a later one, put there by another proxy
        return None

    async def _fetch(self, key: bytes) -> Entry | None:
        stamp, puts = self._stamp, self._puts
        entry = await self._reads.entry(key)
        self._notice_purges()
        newer = self._held(key)
        if newer is not None:
            return newer
        if entry is None or stamp != self._stamp or not is_fresh(entry, self._now_ns()):
            return None
        if puts == self._puts:  # else it may be older than one that came, was stored and left the front meanwhile
            self._front.put(key, entry, size_of_entry(entry))
        return entry

    def _notice_purges(self) -> None:
        stamp = self._watch.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._forget()

    def _forget(self) -> None:
        self._front.clear()
        self._links.clear()
        self._inbox.forget()


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
