"""The rows of entries and links: put, used, evicted, purged.

Each function runs inside the caller's transaction and keeps its running sums in step with the rows.
"""

import sqlite3

from promptweir.layers.stores.codec import Packed
from promptweir.layers.stores.meta import Meta
from promptweir.layers.stores.types import Selection

MAX_EVICTED_ROWS = 2048  # in one transaction: a limit that was lowered is reached over several, none of them long
MAX_EXPIRED_ROWS = 64  # deleted with each batch, because they expired
MAX_LINKS = 200_000
MAX_LINK_BYTES = 64 << 20

_GET = "SELECT b.frame, b.fingerprint FROM entries e JOIN bodies b ON b.id = e.id WHERE e.key = ?"


def read_entry(connection: sqlite3.Connection, key: bytes) -> tuple[bytes, bytes] | None:
    """Return the frame and the fingerprint stored under *key*."""
    row = connection.execute(_GET, (key,)).fetchone()
    return None if row is None else (row[0], row[1])


def put_entry(connection: sqlite3.Connection, meta: Meta, packed: Packed, now_ns: int) -> None:
    """Store an entry in place of the one with its key."""
    entry = packed.entry
    _forget(connection, meta, connection.execute("SELECT id, size FROM entries WHERE key = ?", (entry.key,)).fetchall())
    row = connection.execute(
        """INSERT INTO entries(key, tenant, dialect, model, client, prompt_id, created_ns, expires_ns, used_ns, tick,
            hits, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?) RETURNING id""",
        (
            entry.key,
            entry.tenant,
            entry.dialect,
            entry.model,
            entry.client,
            entry.prompt_id,
            entry.created_ns,
            entry.expires_ns,
            now_ns,
            meta.next_tick(),
            packed.size_bytes,
        ),
    ).fetchone()
    connection.execute("INSERT INTO bodies VALUES (?, ?, ?)", (row[0], entry.fingerprint, packed.frame))
    meta.entries += 1
    meta.bytes += packed.size_bytes


def delete_entry(connection: sqlite3.Connection, meta: Meta, key: bytes) -> None:
    """Delete the entry under *key*, if there is one."""
    _forget(connection, meta, connection.execute("SELECT id, size FROM entries WHERE key = ?", (key,)).fetchall())


def touch_entry(connection: sqlite3.Connection, meta: Meta, key: bytes, hits: int, used_ns: int) -> None:
    """Make the entry under *key* the most recently used, and count the answers that it gave."""
    connection.execute(
        "UPDATE entries SET tick = ?, used_ns = ?, hits = hits + ? WHERE key = ?",
        (meta.next_tick(), used_ns, hits, key),
    )


def put_link(
    connection: sqlite3.Connection, meta: Meta, name: tuple[bytes, str], state: bytes, created_ns: int
) -> None:
    """Store the state behind a response id, in place of an earlier one."""
    _unlink(
        connection,
        meta,
        connection.execute("SELECT id, length(state) FROM links WHERE tenant = ? AND response_id = ?", name).fetchall(),
    )
    connection.execute(
        "INSERT INTO links(tenant, response_id, created_ns, tick, state) VALUES (?, ?, ?, ?, ?)",
        (*name, created_ns, meta.next_tick(), state),
    )
    meta.links += 1
    meta.link_bytes += len(state)


def read_link(connection: sqlite3.Connection, name: tuple[bytes, str]) -> bytes | None:
    """Return the state behind a response id."""
    row = connection.execute("SELECT state FROM links WHERE tenant = ? AND response_id = ?", name).fetchone()
    return None if row is None else bytes(row[0])


def touch_link(connection: sqlite3.Connection, meta: Meta, name: tuple[bytes, str]) -> None:
    """Make a link the most recently used."""
    connection.execute("UPDATE links SET tick = ? WHERE tenant = ? AND response_id = ?", (meta.next_tick(), *name))


def evict(connection: sqlite3.Connection, meta: Meta, *, max_entries: int, max_bytes: int, now_ns: int) -> bool:
    """Delete what expired, then what was least recently used; tell whether the limits are kept now."""
    expired = "SELECT id, size FROM entries WHERE expires_ns <= ? LIMIT ?"
    _forget(connection, meta, connection.execute(expired, (now_ns, MAX_EXPIRED_ROWS)).fetchall())
    if meta.entries > max_entries or meta.bytes > max_bytes:
        oldest = connection.execute("SELECT id, size FROM entries ORDER BY tick LIMIT ?", (MAX_EVICTED_ROWS,))
        _forget(connection, meta, _surplus(oldest, meta.entries - max_entries, meta.bytes - max_bytes))
    if meta.links > MAX_LINKS or meta.link_bytes > MAX_LINK_BYTES:
        oldest = connection.execute("SELECT id, length(state) FROM links ORDER BY tick LIMIT ?", (MAX_EVICTED_ROWS,))
        _unlink(connection, meta, _surplus(oldest, meta.links - MAX_LINKS, meta.link_bytes - MAX_LINK_BYTES))
    return meta.entries <= max_entries and meta.bytes <= max_bytes


def purge(connection: sqlite3.Connection, meta: Meta, selection: Selection) -> int:
    """Delete what *selection* names, links included, and begin a new generation; return the number of entries."""
    if selection.empty:
        return 0
    meta.generation += 1
    where, values = _condition(selection)
    connection.execute(f"DELETE FROM bodies WHERE id IN (SELECT id FROM entries WHERE {where})", values)
    sizes = connection.execute(f"DELETE FROM entries WHERE {where} RETURNING size", values).fetchall()
    meta.entries -= len(sizes)
    meta.bytes -= sum(size for (size,) in sizes)
    if selection.model is None:  # a link is of no model in particular
        gone = connection.execute(f"DELETE FROM links WHERE {where} RETURNING length(state)", values).fetchall()
        meta.links -= len(gone)
        meta.link_bytes -= sum(size for (size,) in gone)
    return len(sizes)


def _condition(selection: Selection) -> tuple[str, tuple[bytes | str | int, ...]]:
    filters: list[tuple[str, bytes | str | int | None]] = [
        ("tenant = ?", selection.tenant),
        ("model = ?", selection.model),
        ("created_ns < ?", selection.older_than_ns),
    ]
    used = [(text, value) for text, value in filters if value is not None]
    return " AND ".join(text for text, _ in used) or "1", tuple(value for _, value in used)


def _surplus(rows: sqlite3.Cursor, over_rows: int, over_bytes: int) -> list[tuple[int, int]]:
    taken: list[tuple[int, int]] = []
    for row_id, size in rows:
        if over_rows <= 0 and over_bytes <= 0:
            break
        taken.append((row_id, size))
        over_rows -= 1
        over_bytes -= size
    rows.close()  # a cursor left half-read would keep its table locked against the deletion
    return taken


def _forget(connection: sqlite3.Connection, meta: Meta, rows: list[tuple[int, int]]) -> None:
    ids = [(row_id,) for row_id, _ in rows]
    connection.executemany("DELETE FROM bodies WHERE id = ?", ids)
    connection.executemany("DELETE FROM entries WHERE id = ?", ids)
    meta.entries -= len(rows)
    meta.bytes -= sum(size for _, size in rows)


def _unlink(connection: sqlite3.Connection, meta: Meta, rows: list[tuple[int, int]]) -> None:
    connection.executemany("DELETE FROM links WHERE id = ?", [(row_id,) for row_id, _ in rows])
    meta.links -= len(rows)
    meta.link_bytes -= sum(size for _, size in rows)
