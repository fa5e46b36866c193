"""Log lines: one each, bounded, private, without tracebacks."""

import logging
import re
import sys
from pathlib import Path

import pytest

from promptweir.cli import logs
from promptweir.cli.state import State


def line_of(message: str, error: Exception | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    return logs.OneLine().format(logging.LogRecord("x", logging.ERROR, __file__, 1, message, (), info))


def test_an_exception_is_its_kind_and_place_on_the_same_line() -> None:
    try:
        sys.intern(None)  # type: ignore[arg-type]
    except TypeError as error:
        line = line_of("it\nbroke", error)

    assert re.search(r" ERROR it broke \(TypeError at test_logs\.py:\d+\)$", line)
    assert "\n" not in line


def test_a_line_is_bounded() -> None:
    assert len(line_of("x" * 100_000)) == logs.MAX_LINE_CHARS


def test_the_file_is_private_and_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 2000)
    state = State(tmp_path)
    state.log.write_text("an old line, readable for all\n")
    state.log.chmod(0o644)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in logs.QUIET}
    try:
        logs.FileLog(state).install()
        for number in range(100):
            logging.getLogger("promptweir.test").info("line %d", number)
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        for name, old in quiet.items():
            logging.getLogger(name).setLevel(old)

    assert state.log.stat().st_mode & 0o077 == 0
    assert "line 99" in state.log.read_text()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 2000
