"""Purging from outside the proxy: what ``promptweir cache purge`` calls, whether or not proxies run."""

import contextlib
import sqlite3
from pathlib import Path

from promptweir.layers.stores import rows, schema
from promptweir.layers.stores.meta import transaction
from promptweir.layers.stores.types import Selection, StoreBusy
from promptweir.layers.stores.writer import reclaim

PURGE_WAIT_S = 10.0


def purge(
    folder: Path,
    *,
    tenant: bytes | None = None,
    model: str | None = None,
    older_than_ns: int | None = None,
    all: bool = False,  # noqa: A002 - the word that users say
) -> int:
    """Delete the entries that fit every filter given, from outside the proxy, and return their number.

    ``older_than_ns`` is an instant, not an age.  Running proxies notice at their next look-up.  ``StoreBusy`` says that
    the file could not be changed.
    """
    selection = Selection(tenant=tenant, model=model, older_than_ns=older_than_ns, all=all)
    path = folder / schema.FILE_NAME
    if selection.empty:
        return 0
    try:
        if not path.is_file():
            return 0
        with contextlib.closing(schema.connect(path, wait_s=PURGE_WAIT_S)) as connection:
            state, why = schema.state_of(connection)
            if state is schema.State.FOREIGN:
                raise StoreBusy(f"{path} cannot be read ({why})")
            if state is schema.State.EMPTY:
                return 0
            with transaction(connection) as meta:
                count = rows.purge(connection, meta, selection)
            reclaim(connection)
            return count
    except (OSError, sqlite3.Error) as error:
        raise StoreBusy(f"{path} cannot be changed ({error})") from error
