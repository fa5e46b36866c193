"""Write the generated parts of README.md, or with ``--check`` tell whether they are current.

A part stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``, each on a line of its own.  ``options`` is the table of
options; ``commands`` is what every command says to ``--help``.  A README without a pair of marks simply lacks that part.
"""

import difflib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from promptweir.cli.options import shown
from promptweir.layers.config import OPTIONS

README = Path(__file__).resolve().parent.parent / "README.md"
WIDTH = 100
COMMANDS = ("up", "stop", "status", "run", "demo", "stats", "why", "cache list", "cache purge", "certs", "options")
HELP_WAIT_S = 60


def options() -> str:
    """Return the options as a Markdown table."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in OPTIONS:
        text = option.help.replace("|", "\\|")
        rows.append(f"| `{option.name}` | {shown(option, option.default)} | {text} |")
    return "\n".join(rows)


def commands() -> str:
    """Return the help of every command."""
    return "\n\n".join(f"```\n$ promptweir {name} --help\n{_help(name)}\n```" for name in COMMANDS)


def _help(name: str) -> str:
    # In a process of its own, with a fixed width and without colours, so that every machine writes the same.
    fixed = {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb", "TZ": "UTC"}
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PROMPTWEIR_")} | fixed
    for forcing in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        environ.pop(forcing, None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "promptweir.cli.main", *name.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=HELP_WAIT_S,
        check=True,
        env=environ,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


PARTS: dict[str, Callable[[], str]] = {"options": options, "commands": commands}


def rewritten(text: str) -> str:
    """Return *text* with every part made anew."""
    for name, make in PARTS.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        if not found:
            continue
        _, found, after = rest.partition(closing)
        if not found:
            raise ValueError(f"README.md has {opening} but no {closing}")
        text = f"{before}{opening}\n{make()}\n{closing}{after}"
    return text


def main() -> int:
    """Write or check; 1 when the check finds a difference."""
    current = README.read_text(encoding="utf-8")
    wanted = rewritten(current)
    if sys.argv[1:] == ["--check"]:
        if current == wanted:
            return 0
        diff = difflib.unified_diff(
            current.splitlines(), wanted.splitlines(), "README.md", "generated", lineterm="", n=0
        )
        sys.stderr.write("\n".join([*diff, "README.md is not current; scripts/readme writes it", ""]))
        return 1
    if sys.argv[1:]:
        sys.stderr.write("scripts/readme takes --check or nothing\n")
        return 2
    if current != wanted:
        README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
