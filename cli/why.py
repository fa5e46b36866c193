"""``why``: why a call was not answered from the cache.

The nearest stored call is found, and the first JSON path named in which the two differ.  Only keyed digests of values are
stored, so the path is all that can be shown; it is usually enough (``$.tools[3]``, ``$.messages[0].content``).
"""

from typing import Annotated

import typer

from promptweir.cli import args
from promptweir.cli.state import UserError, resolve
from promptweir.layers.fingerprint import first_difference, nearest
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.types import EntrySummary, Trip

MAX_CANDIDATES = 2000


def why(
    call: Annotated[str, typer.Argument(metavar="[ID]", help="The call's id; the latest miss when left out.")] = "",
    state: args.State = None,
) -> None:
    """Say in which JSON path a missed call differs from the nearest stored one."""
    found = resolve(state)
    found.need()
    reader = Reader(found.cache)
    trip = _wanted(reader, call)
    outcome = "answered here" if trip.deflected else "went to the provider"
    typer.echo(f"{trip.id}: {trip.dialect} {trip.model} {outcome}, layer {trip.layer}, reason {trip.reason or '-'}")
    if trip.deflected:
        return
    if not trip.fingerprint:
        typer.echo("nothing is known of its content: it was not looked at, or too large")
        return
    candidates = [entry for entry in reader.entries(MAX_CANDIDATES) if entry.fingerprint and entry.prompt_id != trip.id]
    for line in explain(trip, candidates):
        typer.echo(line)


def explain(trip: Trip, candidates: list[EntrySummary]) -> list[str]:
    """Return what to say about *trip*, given the stored calls."""
    same_dialect = [entry for entry in candidates if entry.dialect == trip.dialect]
    own = [entry for entry in same_dialect if entry.tenant == trip.tenant]
    pool = own or same_dialect
    index = nearest(trip.fingerprint, [entry.fingerprint for entry in pool])
    if index is None:
        return ["no other call of this kind is stored"]
    entry = pool[index]
    lines = [f"nearest stored call: {entry.prompt_id or entry.key.hex()[:12]} ({entry.model}, {entry.hits} hits)"]
    if entry.tenant != trip.tenant:
        lines.append("it belongs to another credential, and answers are never shared between credentials")
    path = first_difference(trip.fingerprint, entry.fingerprint)
    if path:
        return [*lines, f"first difference: {path}"]
    if entry.tenant == trip.tenant:
        lines.append("no difference in content: it was stored later, has expired, or a policy kept it from serving")
    return lines


def _wanted(reader: Reader, call: str) -> Trip:
    if call:
        trip = reader.trip(call)
        if trip is None:
            raise UserError(f"no call {call} is on record; `promptweir stats --recent 20` lists the latest")
        return trip
    misses = reader.recent(1, deflected=False)
    if not misses:
        raise UserError("no missed call is on record")
    return misses[0]
