"""The state folder: where it is, who runs in it, and how others find out.

Layout::

    promptweir.toml   the user's options (optional)
    ca/               the certificate authority
    cache/            the store
    proxy.json        where the running proxy listens
    proxy.lock        held while a proxy runs
    promptweir.log    what a detached proxy has to say

Goals: one proxy per folder; whoever asks whether one runs gets the truth, also after a kill -9, a reboot or a recycled
process id; nobody but the owner can look inside.

Plan: the truth is the lock, which the kernel takes back when its holder ends.  ``proxy.json`` only says where; before a
signal is sent, the start time written there must be that of the process which has the id now.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import platformdirs

from promptweir.certs import files

ENVIRONMENT = "PROMPTWEIR_STATE"
RECORD_FILE = "proxy.json"
LOCK_FILE = "proxy.lock"
LOG_FILE = "promptweir.log"
CA_FOLDER = "ca"
CACHE_FOLDER = "cache"

RECORD_MODE = 0o600
RECORD_WAIT_S = 20.0
"""A proxy that has taken the lock writes its record within this; the first start makes a CA, which may take seconds."""
HOLD_WAIT_S = 2.0
POLL_S = 0.05
PS_WAIT_S = 5.0


class UserError(Exception):
    """Something the user can put right.  The text is one sentence."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What a running proxy says about itself."""

    pid: int
    process_start: str
    """When that process began, in the system's own words; empty where the system does not tell."""
    version: str
    host: str
    port: int | None
    gateway_port: int | None
    modes: tuple[str, ...]
    started_at_s: float

    @property
    def proxy_url(self) -> str:
        """Return the value for HTTPS_PROXY."""
        return _url(self.host, self.port)

    @property
    def gateway_url(self) -> str | None:
        """Return the gateway's origin."""
        return None if self.gateway_port is None else _url(self.host, self.gateway_port)


class State:
    """One state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / CA_FOLDER
        self.cache = folder / CACHE_FOLDER
        self.log = folder / LOG_FILE

    def make(self) -> None:
        """Make the folder, private; ``UserError`` if it cannot be used."""
        try:
            files.private_folder(self.folder)
        except OSError as error:
            reason = error.strerror if error.filename is not None else str(error)
            raise UserError(f"cannot use {self.folder} as state folder: {reason}") from error

    def need(self) -> None:
        """Raise ``UserError`` if there is no such folder."""
        if not self.folder.is_dir():
            raise UserError(f"no state folder at {self.folder}; `promptweir up` or `promptweir run` makes one")

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one proxy of this folder; ``UserError`` if another one is."""
        descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, RECORD_MODE)
        try:
            deadline = time.monotonic() + HOLD_WAIT_S
            while not (held := _try_lock(descriptor)) and self._read() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)  # somebody who only looked whether it is free, or a proxy in its last moments
            if not held:
                other = self.running()
                where = f"process {other.pid}, port {other.port}" if other else "it is just starting or stopping"
                raise UserError(f"a proxy already runs in {self.folder} ({where}); `promptweir stop` stops it")
            with contextlib.suppress(FileNotFoundError):
                (self.folder / RECORD_FILE).unlink()  # left behind by one that was killed
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    (self.folder / RECORD_FILE).unlink()
        finally:
            os.close(descriptor)

    def write(self, running: Running) -> None:
        """Say where the proxy listens."""
        files.replace(self.folder / RECORD_FILE, msgspec.json.encode(running), RECORD_MODE)

    def locked(self) -> bool:
        """Tell whether a proxy runs, starts or stops here."""
        try:
            descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def running(self, wait_s: float = 0.0) -> Running | None:
        """Return where the proxy of this folder listens, or None if none runs.

        One that is just starting has no record yet; wait up to *wait_s* for it.
        """
        deadline = time.monotonic() + wait_s
        while self.locked():
            record = self._read()
            if record is not None:
                return record
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)
        return None

    def _read(self) -> Running | None:
        try:
            record = msgspec.json.decode((self.folder / RECORD_FILE).read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        # The lock may already be a successor's, who has not yet replaced the record.
        return record if process_start(record.pid) == record.process_start else None


def resolve(option: Path | None, settings_state: str = "") -> State:
    """Return the state folder: ``--state``, else the option ``promptweir_state``, else the user's own."""
    if option is None and not settings_state:
        settings_state = os.environ.get(ENVIRONMENT, "")
    folder = option or (Path(settings_state) if settings_state else platformdirs.user_state_path("promptweir"))
    return State(folder.expanduser().absolute())


def process_start(pid: int) -> str | None:
    """Return when process *pid* began, in whatever unit the system has; "" if it does not tell, None if there is none."""
    if sys.platform == "win32":
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _process_start_by_ps(pid)
    # The second field is the program's name in parentheses and may hold spaces; the start time is the 22nd.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _process_start_by_ps(pid: int) -> str | None:
    try:
        ps = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            timeout=PS_WAIT_S,
            check=False,
            env={"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ps.stdout.strip() or None


def _url(host: str, port: int | None) -> str:
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _try_lock(descriptor: int) -> bool:
    """Take the lock if it is free.  It is released with the last descriptor, however its holder ends."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
