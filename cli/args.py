"""The arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="State folder.", show_default="the user's state folder"),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Set an option (see `promptweir options`); repeatable."),
]
Mode = Annotated[
    list[str] | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="regular, transparent, upstream:URL, or any other mode of mitmproxy; repeatable.",
        show_default="regular",
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print JSON.")]
