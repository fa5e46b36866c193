"""The ``promptweir`` command.

Every command is thin and lives in a module of its own.  This one puts them together and is the one place where an error
becomes a line on standard error: exit code 2 for what the user can put right, no traceback for anything named here.
"""

import os
import sqlite3
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from promptweir.cli import cache, certs, demo, options, run, stats, status, up, why
from promptweir.cli.state import UserError
from promptweir.layers.stores.types import StoreBusy

USAGE_ERROR = 2
INTERRUPTED = 130

# Typer brings its own copy of click since 0.20 and does not export this class; older ones use click's.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="promptweir",
    help="A prompt firewall: answers redundant LLM API calls locally and passes the rest on untouched.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(status.stop)
app.command()(status.status)
# What follows the program's name is the program's, options included.
app.command(context_settings={"allow_interspersed_args": False})(run.run)
app.command()(demo.demo)
app.command()(stats.stats)
app.command()(why.why)
app.add_typer(cache.app, name="cache")
app.add_typer(certs.app, name="certs")
app.command()(options.options)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"promptweir {version('promptweir')}")
        raise typer.Exit


@app.callback()
def _top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(prog_name="promptweir", standalone_mode=False)
    except ClickException as error:
        format_message = getattr(error, "format_message", error.__str__)
        code = _complain(format_message())
    except (UserError, StoreBusy, ValueError) as error:
        code = _complain(str(error))
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except sqlite3.Error as error:
        code = _complain(f"the store cannot be used: {error}")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> int:
    line = " ".join(text.split())
    if line:  # a command without arguments has just printed its help
        typer.echo(f"promptweir: {line}", err=True)
    return USAGE_ERROR


if __name__ == "__main__":
    main()
