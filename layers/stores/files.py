"""The store's file on disk: private, made when missing, set aside when damaged.

Goals
    The folder is 0700 before a file is in it, and every file is made 0600, whatever the umask.  A damaged file never
    stops the proxy: it is renamed to ``store.db.corrupt-<n>`` together with its log, and an empty one takes its place.
    Two processes that find the same damage do not set aside each other's new file.

Plan
    Making and setting aside happen under an exclusive lock on a second, empty SQLite file, and only when a look at the
    first showed that they are needed.  ``epoch`` counts the openings: connections of other threads compare it with the
    one they were made for, and are renewed when it has changed.  Epoch 0 means that there is no usable file, and the
    store lives in memory alone.
"""

import contextlib
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from promptweir.layers.stores import schema
from promptweir.layers.stores.schema import State

FOLDER_MODE = 0o700
FILE_MODE = 0o600
LOOSE_BITS = 0o077
LOCK_WAIT_S = 2.0
MAX_SET_ASIDE = 3  # damaged files kept for a look; older ones are deleted, for each may be as large as the store
_PARTS = ("", "-wal", "-shm")


class Database:
    """The file as all threads of one process see it."""

    def __init__(self, folder: Path, *, warn: Callable[[str], None]) -> None:
        self.path = folder / schema.FILE_NAME
        self.epoch = 0
        self._folder = folder
        self._warn = warn
        self._openings = 0
        self._inode = 0

    def open(self) -> bool:
        """Make the file usable, and tell whether it is."""
        self.epoch = 0
        try:
            make_private_folder(self._folder, self._warn)
            self._make_file()
            if self._look()[0] is not State.OURS:
                with _exclusive(self._folder):
                    self._mend()
            self._inode = self.path.stat().st_ino
        except (OSError, sqlite3.Error, ValueError) as error:  # ValueError: a NUL in the folder's name
            self._warn(f"cannot use {self.path} ({error}); answers are kept in memory only")
            return False
        self._openings += 1
        self.epoch = self._openings
        return True

    def moved(self) -> bool:
        """Tell whether the path no longer leads to the file that was opened: it was deleted, or set aside by another."""
        try:
            return self.path.stat().st_ino != self._inode
        except OSError:
            return True

    def replace(self, why: str) -> bool:
        """Set the open file aside, unless another process already has, and open an empty one."""
        try:
            with _exclusive(self._folder):
                if not self.moved():
                    self._set_aside(why)
        except (OSError, sqlite3.Error) as error:
            self.epoch = 0
            self._warn(f"cannot replace {self.path} ({error}); answers are kept in memory only")
            return False
        return self.open()

    def close(self) -> None:
        """Let no new connection be made."""
        self.epoch = 0

    def connect(self, *, wait_s: float) -> sqlite3.Connection:
        """Open a connection to the file."""
        return schema.connect(self.path, wait_s=wait_s)

    def _make_file(self) -> None:
        if not self.path.exists():
            self.path.touch(mode=FILE_MODE)  # SQLite gives the log the mode of this file
        for part in _PARTS:
            _tighten(self.path.with_name(self.path.name + part))

    def _look(self) -> tuple[State, str]:
        try:
            with contextlib.closing(self.connect(wait_s=LOCK_WAIT_S)) as connection:
                return schema.state_of(connection)
        except sqlite3.DatabaseError as error:
            if schema.trouble_of(error) is not schema.Trouble.DAMAGED:
                raise
            return State.FOREIGN, str(error)

    def _mend(self) -> None:
        state, why = self._look()  # another process may have mended it before we had the lock
        if state is State.FOREIGN:
            self._set_aside(why)
            self._make_file()
            state = State.EMPTY
        if state is State.EMPTY:
            with contextlib.closing(self.connect(wait_s=LOCK_WAIT_S)) as connection:
                schema.create(connection)

    def _set_aside(self, why: str) -> None:
        name = self.path.name
        taken = sorted(_numbers(self._folder, name))
        number = taken[-1] + 1 if taken else 1
        target = self.path.with_name(f"{name}.corrupt-{number}")
        for part in reversed(
            _PARTS
        ):  # the log first: a file never stands under our name with a log that is not its own
            source = self.path.with_name(name + part)
            if source.exists():
                source.rename(target.with_name(target.name + part))
        for old in [*taken, number][:-MAX_SET_ASIDE]:
            for part in _PARTS:
                self.path.with_name(f"{name}.corrupt-{old}{part}").unlink(missing_ok=True)
        self._warn(
            f"{self.path} is damaged ({why}); it was set aside as {target.name}, and an empty store takes its place"
        )


def make_private_folder(folder: Path, warn: Callable[[str], None]) -> None:
    """Make *folder*, and the parents that are missing, with mode 0700.

    A folder that exists with a wider mode is narrowed if it is ours: empty, or already with a store in it.  Any other
    (somebody said ``--state /tmp``) is not ours to close to its other users; the files in it are 0600 all the same.
    """
    for parent in [*reversed(folder.parents), folder]:
        if not parent.exists():
            parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & LOOSE_BITS:
        return
    if (folder / schema.FILE_NAME).exists() or not any(folder.iterdir()):
        folder.chmod(FOLDER_MODE)
    else:
        warn(f"{folder} is open to others (mode {mode:03o}); it holds files of others, so its mode is left as it is")


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    path = folder / "store.lock"
    if not path.exists():
        path.touch(mode=FILE_MODE)
    lock = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=LOCK_WAIT_S, isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("BEGIN EXCLUSIVE")  # nothing is ever written to it; closing lets it go, and so does kill -9
        yield


def _tighten(path: Path) -> None:
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & LOOSE_BITS:
        path.chmod(FILE_MODE)


def _numbers(folder: Path, name: str) -> set[int]:
    endings = (path.name.removeprefix(f"{name}.corrupt-") for path in folder.glob(f"{name}.corrupt-*"))
    return {int(ending) for ending in endings if ending.isdecimal()}
