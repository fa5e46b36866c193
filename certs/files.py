"""Files that must be whole and private from the first moment on.

Goals: a reader never sees half a file; a secret is never readable by others, not even for the time between two system
calls; two processes that write the same file at once end with one of the two versions.

Plan: every file is written under a random name in its own folder, opened with ``O_EXCL`` and its final mode, synced to
disk, and only then given its real name.

What it does not do: on Windows, modes other than read-only mean nothing; there the user's profile folder is what keeps
the files private.
"""

import os
import secrets
from pathlib import Path

PRIVATE_FOLDER_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
PUBLIC_FILE_MODE = 0o644


def private_folder(folder: Path) -> None:
    """Make *folder* and its missing parents, for its owner only; tighten it where it is there but open to others."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir(mode=PRIVATE_FOLDER_MODE)
        except FileExistsError:
            if not path.is_dir():
                raise NotADirectoryError(f"{path} is in the way: it must be a folder") from None
    tighten(folder, PRIVATE_FOLDER_MODE)


def tighten(path: Path, mode: int) -> None:
    """Take away every permission on *path* beyond *mode*; refuse what belongs to another user."""
    if os.name == "nt":
        return
    status = path.stat()
    user = os.geteuid()
    # A folder that someone else owns is one that someone else can replace the key in. Root may use its users' folders.
    if user not in (0, status.st_uid):
        raise PermissionError(f"{path} belongs to another user (uid {status.st_uid}); choose a folder of your own")
    excess = status.st_mode & 0o777 & ~mode
    if excess:
        path.chmod(status.st_mode & 0o777 & mode)


def write_new(path: Path, content: bytes, mode: int) -> bool:
    """Give *content* the name *path* unless there is such a file; return whether this call made it."""
    draft = _draft(path, content, mode)
    try:
        # A hard link is the one way to take a name atomically and only if it is free.
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:
        # Some file systems (exFAT, a few network mounts) have no hard links. Two processes that come within this
        # window end with the later one's file, whole in any case; the caller reads back what is there.
        if path.exists():
            return False
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return True


def replace(path: Path, content: bytes, mode: int) -> None:
    """Give *content* the name *path*, whatever was there before."""
    draft = _draft(path, content, mode)
    try:
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path, content: bytes, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    # O_BINARY exists on Windows only, where its absence would turn every line end into two bytes.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(draft, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode == PUBLIC_FILE_MODE and os.name != "nt":
                os.fchmod(file.fileno(), mode)  # a strict umask must not hide a file that is meant to be read
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)  # also on Ctrl-C: a draft of a key must not stay behind
        raise
    return draft
