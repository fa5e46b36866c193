"""Where log lines go: standard error, or a bounded private file for a detached proxy.  One line each, no tracebacks."""

import logging
import os
import traceback
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


class StderrLog:
    """Log to standard error.

    Until ``started``, errors are left out: the first of them stops the start, and is then the one line that is printed.
    """

    def __init__(self) -> None:
        self._handler = logging.StreamHandler()
        self._handler.addFilter(_below_error)

    def install(self) -> None:
        """Begin."""
        _install(self._handler)

    def started(self) -> None:
        """Say everything from now on."""
        self._handler.removeFilter(_below_error)


class FileLog:
    """Log to the state folder's file."""

    def __init__(self, state: State) -> None:
        self._path = state.log

    def install(self) -> None:
        """Begin."""
        _install(_PrivateFile(self._path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8"))

    def started(self) -> None:
        """Let go of standard error, a pipe to the parent: whoever waits at its other end goes on."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _install(handler: logging.Handler) -> None:
    handler.setFormatter(OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
