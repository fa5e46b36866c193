"""Hatch build hook: an editable build gets ``.dev/promptweir`` whose entries link to the four source folders.

The repository keeps its packages at the top level (``addons/``, ``layers/`` ...) and imports them as ``promptweir.addons``
and so on.  A wheel does that by path rewriting; an editable install cannot, so it points Python at a folder of links.
Links, unlike import hooks, are also followed by type checkers.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PARTS = ("addons", "layers", "certs", "cli")


class EditableLinks(BuildHookInterface):  # type: ignore[type-arg]
    """Make the links when, and only when, the build is editable."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Do nothing for a wheel or an sdist; hatch calls this before every build."""
        if version != "editable":
            return
        root = Path(self.root)
        package = root / ".dev" / "promptweir"
        package.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            link = package / part
            if os.name == "nt":
                import _winapi

                if not link.exists():
                    _winapi.CreateJunction(str(root / part), str(link))
            elif not link.is_symlink():
                link.symlink_to(Path("..", "..", part), target_is_directory=True)
