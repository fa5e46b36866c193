"""`mitmdump -s addons/promptweir.py`: the entry that mitmproxy loads.

mitmproxy puts this folder first on ``sys.path`` while it runs this file, and the file has the package's name: the
package would be hidden by it.  So the folder is taken off the path, and in a bare checkout, where nothing is installed,
the package is made from the folder above.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_here = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != _here]
try:
    # Not the root: an uninstall may leave its empty folder behind, and that would do for a namespace package.
    _installed = importlib.util.find_spec("promptweir.layers") is not None
except ModuleNotFoundError:
    _installed = False
if not _installed:
    _package = ModuleType("promptweir")
    _package.__path__ = [str(_here.parent)]
    sys.modules["promptweir"] = _package

from promptweir.addons._promptweir import Promptweir  # noqa: E402

addons = [Promptweir()]
