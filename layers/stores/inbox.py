"""What waits to be written: a bounded queue between the event loop and the writer's thread.

Goals
    The loop's side never waits and never grows without bound: what does not fit is dropped and counted.  An entry that
    is queued can already be read, even when the memory front has no room for it.

What it does not do: it knows neither SQL nor files.
"""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from promptweir.layers.stores.types import Entry, Selection, Trip

MAX_JOBS = 8192
MAX_JOB_BYTES = 64 << 20
MAX_BATCH_JOBS = 256
MAX_TOUCHES = 4096
LINGER_S = 0.02  # how long a job waits for company, so that a burst shares one commit
PAUSE_S = 0.15  # between two batches: each statement of a commit wrests the interpreter from the event loop
IDLE_S = 2.0  # how long touches wait for a batch to go with
JOB_BYTES = 512  # what a job takes beside its payload, roughly

type Stamp = tuple[int, int]
"""The opening of the file and the generation in it, as known when a job was queued."""


@dataclass(frozen=True, slots=True)
class Put:
    """Store an entry."""

    entry: Entry
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Link:
    """Store the state behind a response id."""

    name: tuple[bytes, str]
    state: bytes
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Prove:
    """Store the account that a token belongs to."""

    token_hash: bytes
    account: str


@dataclass(frozen=True, slots=True)
class Record:
    """Store a trip."""

    trip: Trip


@dataclass(frozen=True, slots=True)
class Purge:
    """Delete entries, and say how many."""

    selection: Selection
    done: Future[int]


type Job = Put | Link | Prove | Record | Purge


@dataclass(slots=True)
class Touch:
    """The uses of an entry since they were last written."""

    hits: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What the writer takes at a time."""

    jobs: list[Job]
    touches: dict[bytes, Touch]
    link_touches: set[tuple[bytes, str]]
    suspect_epoch: int
    """The opening in which a reader found damage; 0: none."""


class Inbox:
    """The queue.  Every method may be called from any thread."""

    def __init__(self) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._bytes = 0
        self._pending: dict[bytes, Entry] = {}
        self._touches: dict[bytes, Touch] = {}
        self._link_touches: set[tuple[bytes, str]] = set()
        self._barriers: list[tuple[int, Future[None]]] = []
        self._offered = 0
        self._written = 0
        self._suspect_epoch = 0
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Nothing more is taken in."""
        return self._stopping

    def offer(self, job: Job) -> bool:
        """Queue *job*, or drop it and return False."""
        size = size_of(job)
        with self._changed:
            if self._stopping or len(self._jobs) >= MAX_JOBS or self._bytes + size > MAX_JOB_BYTES:
                self.dropped += 1
                return False
            self._jobs.append(job)
            self._bytes += size
            self._offered += 1
            if isinstance(job, Put):
                self._pending[job.entry.key] = job.entry
            # While the writer waits for company it need not hear of each newcomer: a thread that wakes up for nothing
            # takes the interpreter away from the event loop.
            if len(self._jobs) == 1 or self._hurried():
                self._changed.notify()
            return True

    def pending(self, key: bytes) -> Entry | None:
        """Return the entry that waits to be stored under *key*."""
        with self._changed:
            return self._pending.get(key)

    def forget(self) -> None:
        """Make queued entries unreadable; the writer finds out by itself that they were purged."""
        with self._changed:
            self._pending.clear()

    def touch(self, key: bytes, hits: int, used_ns: int) -> None:
        """Note a use of an entry; best effort."""
        with self._changed:
            touch = self._touches.get(key)
            if touch is not None:
                touch.hits += hits
                touch.used_ns = used_ns
            elif len(self._touches) < MAX_TOUCHES:
                self._touches[key] = Touch(hits, used_ns)

    def touch_link(self, name: tuple[bytes, str]) -> None:
        """Note a use of a link; best effort."""
        with self._changed:
            if len(self._link_touches) < MAX_TOUCHES:
                self._link_touches.add(name)

    def suspect(self, epoch: int) -> None:
        """Report damage that was found while reading."""
        with self._changed:
            self._suspect_epoch = epoch
            self._changed.notify()

    def barrier(self) -> Future[None]:
        """Return a future that is done when everything queued so far has been written or dropped."""
        future: Future[None] = Future()
        with self._changed:
            self._barriers.append((self._offered, future))
            if self._stopping and not self._jobs:
                self._release()
            self._changed.notify()
        return future

    def take(self, *, wait: bool) -> Batch | None:
        """Wait for work, when *wait* is set, and return it; None when all is done and nothing more will come."""
        with self._changed:
            if wait:
                if self._written:
                    self._changed.wait_for(self._hurried, timeout=PAUSE_S)
                self._changed.wait_for(self._urgent, timeout=IDLE_S)
                if not self._hurried():
                    self._changed.wait_for(self._hurried, timeout=LINGER_S if self._jobs else 0)
            if self._stopping and not (self._jobs or self._touches or self._link_touches or self._barriers):
                return None
            jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_BATCH_JOBS))]
            batch = Batch(jobs, self._touches, self._link_touches, self._suspect_epoch)
            self._touches, self._link_touches, self._suspect_epoch = {}, set(), 0
            return batch

    def finish(self, batch: Batch, *, dropped: int) -> None:
        """Let go of what was taken, and count what of it could not be written."""
        with self._changed:
            self.dropped += dropped
            self._written += len(batch.jobs)
            for job in batch.jobs:
                self._bytes -= size_of(job)
                if isinstance(job, Put) and self._pending.get(job.entry.key) is job.entry:
                    del self._pending[job.entry.key]
            self._release()

    def stop(self) -> None:
        """Take in nothing more; what is queued is still written."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def abandon(self) -> None:
        """Drop what is left, now that nobody will write it."""
        with self._changed:
            self._stopping = True
            self.dropped += len(self._jobs)
            for job in self._jobs:
                if isinstance(job, Purge):
                    job.done.cancel()
            self._jobs.clear()
            self._pending.clear()
            self._written = self._offered
            self._release()

    def _urgent(self) -> bool:
        return bool(self._jobs or self._barriers or self._stopping or self._suspect_epoch)

    def _hurried(self) -> bool:
        return bool(self._barriers or self._stopping or self._suspect_epoch or len(self._jobs) >= MAX_BATCH_JOBS)

    def _release(self) -> None:
        waiting = self._barriers
        self._barriers = [barrier for barrier in waiting if barrier[0] > self._written]
        for number, future in waiting:
            if number <= self._written and future.set_running_or_notify_cancel():
                future.set_result(None)


def size_of(job: Job) -> int:
    """Return what *job* takes of the queue's bytes."""
    match job:
        case Put(entry=entry):
            return JOB_BYTES + size_of_entry(entry)
        case Link(state=state):
            return JOB_BYTES + len(state)
        case Record(trip=trip):
            return JOB_BYTES + len(trip.fingerprint)
        case Prove() | Purge():
            return JOB_BYTES


def size_of_entry(entry: Entry) -> int:
    """Return what *entry* takes in memory, roughly."""
    return JOB_BYTES + len(entry.body) + len(entry.fingerprint) + sum(128 + len(value) for _, value in entry.atoms)
