"""The tables of the store, how a connection is set up, and whether a file is one of ours.

Plan
    ``entries`` holds the small columns by which entries are found, evicted, listed and purged, so that scans of it are
    short; ``bodies`` holds what a hit needs, one compressed frame per entry with a checksum over all of it (a flipped
    bit on the disk must not become a wrong answer).  ``meta`` has one row with the running sums, changed in the same
    transaction as the rows they describe: nothing is ever counted at start-up.  Recency is a logical ``tick`` and not
    a time, so that a clock that jumped does not turn the order of eviction upside down.

What it does not do: it does not look for damage inside a file.  That is found when it is read, by SQLite or by the
checksum.
"""

import sqlite3
from enum import Enum
from pathlib import Path

VERSION = 1
FILE_NAME = "store.db"

WAL_LIMIT_BYTES = 16 << 20  # a burst may grow the log past this; it is cut back at the next checkpoint
CACHE_KIB = 4096  # page cache of one connection; the operating system's cache holds the rest

TABLES = (
    "CREATE TABLE schema(version INTEGER NOT NULL)",
    """CREATE TABLE meta(
        id INTEGER PRIMARY KEY CHECK(id = 1), generation INTEGER NOT NULL, tick INTEGER NOT NULL,
        entries INTEGER NOT NULL, bytes INTEGER NOT NULL, links INTEGER NOT NULL, link_bytes INTEGER NOT NULL)""",
    """CREATE TABLE entries(
        id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, tenant BLOB NOT NULL, dialect TEXT NOT NULL,
        model TEXT NOT NULL, client TEXT NOT NULL, prompt_id TEXT NOT NULL, created_ns INTEGER NOT NULL,
        expires_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL, tick INTEGER NOT NULL, hits INTEGER NOT NULL,
        size INTEGER NOT NULL)""",
    "CREATE INDEX entries_tick ON entries(tick)",
    "CREATE INDEX entries_expires ON entries(expires_ns)",
    "CREATE TABLE bodies(id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL, frame BLOB NOT NULL)",
    """CREATE TABLE links(
        id INTEGER PRIMARY KEY, tenant BLOB NOT NULL, response_id TEXT NOT NULL, created_ns INTEGER NOT NULL,
        tick INTEGER NOT NULL, state BLOB NOT NULL, UNIQUE(tenant, response_id))""",
    "CREATE INDEX links_tick ON links(tick)",
    "CREATE TABLE proofs(seq INTEGER PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, account TEXT NOT NULL)",
    """CREATE TABLE trips(
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL, at_ns INTEGER NOT NULL, tenant BLOB NOT NULL, client TEXT NOT NULL,
        session TEXT NOT NULL, dialect TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
        layer TEXT NOT NULL, reason TEXT NOT NULL, status INTEGER NOT NULL, deflected INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
        elapsed_ns INTEGER NOT NULL, upstream INTEGER NOT NULL, fingerprint BLOB NOT NULL, key BLOB NOT NULL)""",
    "CREATE INDEX trips_id ON trips(id)",
    "CREATE INDEX trips_at ON trips(at_ns)",
    """CREATE TABLE totals(
        layer TEXT NOT NULL, deflected INTEGER NOT NULL, upstream INTEGER NOT NULL, calls INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
        elapsed_ns INTEGER NOT NULL, PRIMARY KEY(layer, deflected, upstream))""",
)
_NAMES = frozenset({"schema", "meta", "entries", "bodies", "links", "proofs", "trips", "totals"})


class State(Enum):
    """What a file turned out to be."""

    OURS = "ours"
    EMPTY = "empty"
    FOREIGN = "foreign"
    """Damaged, of a newer version, or not ours at all."""


class Trouble(Enum):
    """What an error of SQLite asks for."""

    BUSY = "busy"
    """Try again."""
    DAMAGED = "damaged"
    """Set the file aside."""
    BLOCKED = "blocked"
    """The disk is full, broken or read-only: do without, and look again later."""


_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


def trouble_of(error: sqlite3.Error) -> Trouble:
    """Classify *error*.  A plain ``SQLITE_ERROR`` means that our tables are not what they were made as."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR)  # absent on errors of the Python module
    primary = code & 0xFF
    if primary in _BUSY:
        return Trouble.BUSY
    if primary in _DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return Trouble.DAMAGED
    return Trouble.BLOCKED


def connect(path: Path, *, wait_s: float) -> sqlite3.Connection:
    """Open *path*, which has to exist, waiting at most *wait_s* for locks of others."""
    connection = sqlite3.connect(
        path.absolute().as_uri() + "?mode=rw", uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    # Closing would otherwise unlink the log by name, and after a file was set aside that name belongs to another file.
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
    connection.execute("PRAGMA secure_delete=FAST")  # what was purged should not stay readable in free pages


def state_of(connection: sqlite3.Connection) -> tuple[State, str]:
    """Tell what the file behind *connection* is, and why it is foreign.  Errors that pass by themselves are raised."""
    try:
        names = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not names:
            return State.EMPTY, ""
        if not names >= _NAMES:
            return State.FOREIGN, "it holds other tables than ours"
        version = connection.execute("SELECT version FROM schema").fetchone()
        if version != (VERSION,):
            seen = version[0] if version else "none"
            return State.FOREIGN, f"its schema version is {seen}, not {VERSION}"
        if connection.execute("SELECT count(*) FROM meta").fetchone() != (1,):
            return State.FOREIGN, "its running sums are missing"
    except sqlite3.DatabaseError as error:
        if trouble_of(error) is not Trouble.DAMAGED:
            raise
        return State.FOREIGN, str(error)
    return State.OURS, ""


def create(connection: sqlite3.Connection) -> None:
    """Make our tables in an empty file."""
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only possible before the first table is made
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO schema(version) VALUES (?)", (VERSION,))
    connection.execute("INSERT INTO meta VALUES (1, 0, 0, 0, 0, 0, 0)")
    connection.execute("COMMIT")
    connection.execute(
        "PRAGMA wal_checkpoint(TRUNCATE)"
    ).fetchall()  # a log that holds the first page hides damage to it
