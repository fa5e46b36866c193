"""Where log lines go: standard error, or a bounded private file for a detached proxy.  One line each, no tracebacks."""

import logging
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path, PurePath

from promptweir.cli.state import State

MAX_LOG_BYTES = 5 << 20
OLD_LOGS = 1
MAX_LINE_CHARS = 4000
QUIET = ("mitmproxy", "asyncio", "hpack", "quic", "tornado", "h2")
"""They report each connection at INFO."""


class OneLine(logging.Formatter):
    """Time, level, message; of an exception its kind and place."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line of bounded length."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        line = " ".join(self.formatMessage(record).split())
        if record.exc_info and (error := record.exc_info[1]):
            frames = traceback.extract_tb(error.__traceback__)
            place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            line += f" ({type(error).__name__}{place})"
        return line[:MAX_LINE_CHARS]


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        Path(self.baseFilename).chmod(0o600)  # each new file after a rotation, and one left behind by other means
        return stream


def to_stderr() -> None:
    """Log to standard error."""
    _install(logging.StreamHandler())


def to_file(state: State) -> Callable[[], None]:
    """Return a function that starts logging to the state folder's file."""

    def install() -> None:
        _install(_PrivateFile(state.log, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8"))

    return install


def _install(handler: logging.Handler) -> None:
    handler.setFormatter(OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
