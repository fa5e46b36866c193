"""``cache list`` and ``cache purge``."""

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from promptweir.cli import args
from promptweir.cli.state import UserError, resolve
from promptweir.layers.stores import purge as store
from promptweir.layers.stores.reader import Reader

MAX_LISTED = 10_000
SECONDS_PER_HOUR = 3600

app = typer.Typer(no_args_is_help=True, help="The stored answers: list, purge.")


@app.command("list")
def list_entries(
    state: args.State = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="How many, the latest used first.")] = 20,
    as_json: args.JsonOutput = False,
) -> None:
    """List stored answers, without their text."""
    found = resolve(state)
    found.need()
    reader = Reader(found.cache)
    entries = reader.entries(limit)
    for warning in reader.warnings:
        typer.echo(f"promptweir: {warning}", err=True)
    if as_json:
        rows = [
            {
                "call": entry.prompt_id,
                "key": entry.key.hex(),
                "tenant": entry.tenant.hex(),
                "dialect": entry.dialect,
                "model": entry.model,
                "client": entry.client,
                "created_ns": entry.created_ns,
                "expires_ns": entry.expires_ns,
                "bytes": entry.bytes,
                "hits": entry.hits,
            }
            for entry in entries
        ]
        typer.echo(msgspec.json.encode(rows))
        return
    table = Table("call", "made", "dialect", "model", "client", "bytes", "hits", "tenant", box=None, padding=(0, 1))
    for entry in entries:
        made = datetime.fromtimestamp(entry.created_ns / 1e9).astimezone()
        size, hits, tenant = f"{entry.bytes:,}", str(entry.hits), entry.tenant.hex()[:8]
        table.add_row(
            entry.prompt_id, f"{made:%m-%d %H:%M}", entry.dialect, entry.model, entry.client, size, hits, tenant
        )
    Console(highlight=False).print(table)


@app.command()
def purge(
    state: args.State = None,
    everything: Annotated[bool, typer.Option("--all", help="Every answer.")] = False,
    model: Annotated[str | None, typer.Option(help="Those of this model.")] = None,
    older_than_h: Annotated[float | None, typer.Option(min=0, metavar="HOURS", help="Those older than this.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="HEX", help="Those of this tenant (see cache list).")] = None,
) -> None:
    """Delete stored answers; several filters delete what fits all of them."""
    found = resolve(state)
    found.need()
    if not everything and model is None and older_than_h is None and tenant is None:
        raise UserError("say which answers to delete: --all, --model, --older-than-h or --tenant")
    before_ns = None if older_than_h is None else time.time_ns() - int(older_than_h * SECONDS_PER_HOUR * 1e9)
    count = store.purge(
        found.cache,
        tenant=None if tenant is None else _tenant(found.cache, tenant),
        model=model,
        older_than_ns=before_ns,
        all=everything,
    )
    typer.echo(f"deleted {count:,} answers")


def _tenant(folder: Path, prefix: str) -> bytes:
    """Return the one tenant whose hexadecimal form begins with *prefix*."""
    tenants = {entry.tenant for entry in Reader(folder).entries(MAX_LISTED)}
    fitting = [tenant for tenant in tenants if tenant.hex().startswith(prefix.lower())]
    if len(fitting) != 1:
        raise UserError(f"{len(fitting) or 'no'} tenants begin with {prefix!r}; `promptweir cache list` shows them")
    return fitting[0]
