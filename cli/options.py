"""``options``: the table of options, with the values in force and where they come from."""

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from promptweir.cli import args
from promptweir.cli import settings as sources
from promptweir.cli.state import resolve
from promptweir.layers.config import OPTIONS, Option, Value


def options(state: args.State = None, assignments: args.Set = None, as_json: args.JsonOutput = False) -> None:
    """List the options, their values and where these come from."""
    settings = sources.collect(assignments or (), resolve(state).folder)
    rows = [(option, settings.values.get(option.name, option.default)) for option in OPTIONS]
    if as_json:
        document = [
            {
                "name": option.name,
                "value": value,
                "default": option.default,
                "unit": option.unit,
                "choices": option.choices,
                "help": option.help,
                "source": settings.sources.get(option.name, "default"),
            }
            for option, value in rows
        ]
        typer.echo(msgspec.json.encode(document))
        return
    table = Table("option", "value", "from", "meaning", box=None, padding=(0, 1))
    for option, value in rows:
        table.add_row(option.name, shown(option, value), settings.sources.get(option.name, "default"), option.help)
    Console(highlight=False, markup=False).print(table)


def shown(option: Option, value: Value) -> str:
    """Return *value* as a person writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value} {option.unit}".rstrip()
        case str():
            return value or "(empty)"
