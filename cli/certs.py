"""``promptweir certs``: look at the CA, hand it out, have the system trust it or not.

Plan: thin. Each command is a few calls into ``promptweir.certs``; what goes wrong there (ValueError, OSError) becomes
one line on stderr and exit code 2. Paths are printed bare, so that ``$(promptweir certs bundle)`` works.

What it does not do: nothing here is needed for ``promptweir run``, which sets the environment of its child only.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptweir.certs import bundle as bundles
from promptweir.certs import ca
from promptweir.certs import trust as system
from promptweir.layers.providers import DOMAINS

CA_FOLDER = "ca"
USAGE_ERROR = 2
SHOWN_DOMAINS = 6

app = typer.Typer(no_args_is_help=True, help="The certificate authority: show, bundle, trust, untrust, path, renew.")

State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="State folder.", show_default="the user's state folder")
]


def _one_line_errors[**P](command: Callable[P, None]) -> Callable[P, None]:
    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            typer.echo(f"promptweir certs: {_sentence(error)}", err=True)
            raise typer.Exit(USAGE_ERROR) from None

    return guarded


@app.command()
@_one_line_errors
def show(
    state: State = None,
    everything: Annotated[bool, typer.Option("--all", help="List every domain that the CA may sign for.")] = False,
) -> None:
    """Show the CA: what it may sign for, until when, and whether the system trusts it."""
    authority = _authority(state)
    until = f"{authority.cert.not_valid_after_utc:%Y-%m-%d}"
    _print_rows(
        {
            "name": authority.name,
            "certificate": str(authority.cert_path),
            "sha-256": authority.sha256,
            "valid until": f"{until} (expired; run: promptweir certs renew)" if authority.expired() else until,
            "signs for": _signs_for(authority, everything),
            "lacks": ", ".join(domain for domain in DOMAINS if not authority.covers(domain)) or "nothing",
            "system trust": _trust_state(authority),
        }
    )


@app.command()
@_one_line_errors
def bundle(state: State = None) -> None:
    """Print the path of a PEM file with the public roots, the system's, and ours."""
    typer.echo(bundles.bundle(_authority(state).folder))


@app.command()
@_one_line_errors
def path(state: State = None) -> None:
    """Print the path of the CA's certificate alone."""
    typer.echo(_authority(state).cert_path)


@app.command()
@_one_line_errors
def trust(state: State = None) -> None:
    """Have the system trust the CA."""
    authority = _authority(state)
    store = system.detect()
    done = system.trust(authority, store)
    typer.echo(f"{authority.name} is {'now' if done else 'already'} in the {store.name}")


@app.command()
@_one_line_errors
def untrust(state: State = None) -> None:
    """Have the system trust the CA no more."""
    authority = ca.load(_folder(state))
    store = system.detect()
    done = system.untrust(authority, store)
    typer.echo(f"{authority.name} {'is no longer' if done else 'was not'} in the {store.name}")


@app.command()
@_one_line_errors
def renew(
    state: State = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", help="Sign for this domain too; may be given several times.")
    ] = None,
) -> None:
    """Make a new CA in the place of the old one, for the domains that are known now."""
    folder = _folder(state)
    # Gone from our folder, the old certificate could no longer be taken out of the stores that go by its thumbprint.
    if (folder / ca.KEY_FILE).exists() and _trusted(ca.load(folder)):
        raise ValueError("the system still trusts the present CA; run first: promptweir certs untrust")
    authority = ca.renew(folder, (*DOMAINS, *(domain or ())))
    bundles.bundle(folder)
    typer.echo(f"{authority.name} takes the old one's place; restart promptweir and the programs that use it")


def _print_rows(rows: dict[str, str]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        # In a pipe nothing is padded or wrapped, so that paths and hashes can be cut out whole.
        for label, value in rows.items():
            typer.echo(f"{label}: {value}")
        return
    table = Table.grid(padding=(0, 2))
    for label, value in rows.items():
        table.add_row(label, Text(value))
    console.print(table)


def _folder(state: Path | None) -> Path:
    return (state or Path(platformdirs.user_state_dir("promptweir"))).expanduser().absolute() / CA_FOLDER


def _authority(state: Path | None) -> ca.Authority:
    return ca.ensure(_folder(state), DOMAINS)


def _signs_for(authority: ca.Authority, everything: bool) -> str:
    if authority.permitted is None:
        return "any host: this CA has no name constraints"
    names = authority.permitted
    if everything or len(names) <= SHOWN_DOMAINS:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN_DOMAINS])} and {len(names) - SHOWN_DOMAINS} more (--all lists them)"


def _trust_state(authority: ca.Authority) -> str:
    try:
        store = system.detect()
        return f"{'yes' if system.is_trusted(authority, store) else 'no'} ({store.name})"
    except OSError as error:
        return f"unknown: {_sentence(error)}"


def _trusted(authority: ca.Authority) -> bool:
    try:
        return system.is_trusted(authority)
    except OSError:  # a system without a store of a known kind: we cannot have put it there
        return False


def _sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
