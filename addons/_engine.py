"""Everything that lives as long as the proxy: the state folder, the store, the stack of layers."""

import logging
import os
import secrets
import string
import time
from operator import itemgetter
from pathlib import Path

from platformdirs import user_state_path

from promptweir.layers.atoms import Rules
from promptweir.layers.config import Config
from promptweir.layers.contract import Layer
from promptweir.layers.dialects.registry import CODECS
from promptweir.layers.exact import ExactCache, Policy
from promptweir.layers.providers import NATIVE, PROVIDERS, Registry
from promptweir.layers.sessions import SessionLog
from promptweir.layers.stores.sqlite import SqliteStore

logger = logging.getLogger("promptweir")

PEPPER_BYTES = 32
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
_ALPHABET = (string.ascii_letters + string.digits).encode()
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
"""From random bytes to letters and digits.  Some come up more often than others, which is no matter for ids."""


def state_folder(config: Config) -> Path:
    """Return the folder for everything that is kept."""
    return Path(config.state).expanduser() if config.state else user_state_path("promptweir")


def now_ns() -> int:
    """Return the wall clock: entries outlive the process."""
    return time.time_ns()


def token(chars: int) -> str:
    """Return random letters and digits for ids."""
    return secrets.token_bytes(chars).translate(_LETTERS).decode("ascii")


def pepper(folder: Path) -> bytes:
    """Return the secret that keys all hashes of credentials; made on first use.

    Without a writable folder it is made anew in each run, and the cache starts empty.
    """
    path = folder / "pepper"
    fresh = secrets.token_bytes(PEPPER_BYTES)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        # Written whole under another name first, so that two proxies that start at once agree on one.
        partial = folder / f".pepper-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        try:
            os.write(descriptor, fresh)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
        known = path.read_bytes()
    except OSError as error:
        logger.warning(
            "The state folder %s is not usable (%s); nothing is kept beyond this run.", folder, error.strerror
        )
        return fresh
    if len(known) != PEPPER_BYTES:
        logger.warning("%s is damaged; delete it to start with an empty cache. Nothing is kept beyond this run.", path)
        return fresh
    return known


class Engine:
    """The stack and what it stands on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = state_folder(config)
        self.pepper = pepper(self.folder)
        self.registry = Registry(config.hosts, config.paths)
        self.store = SqliteStore(
            self.folder / "cache",
            max_bytes=config.l1a_max_bytes,
            max_entries=config.l1a_max_entries,
            front_max_bytes=config.l1a_front_max_bytes,
            max_trips=config.trips_max,
            now_ns=now_ns,
        )
        self.exact = self._exact(config)
        self.layers: tuple[Layer, ...] = (self.exact,) if config.l1a_enabled else ()

    def open(self) -> None:
        """Open the store; trouble with it is a warning."""
        self.store.open()
        for warning in self.store.warnings:
            logger.warning("%s", warning)

    def close(self) -> None:
        """Write out what is pending."""
        self.store.close()

    def _exact(self, config: Config) -> ExactCache:
        searching = {provider.name for provider in PROVIDERS if provider.searches}

        def origin_of(host: str) -> str:
            if host == NATIVE.hosts[0]:
                # A native call may leave its model, and with it the provider, to the options.
                return f"{config.native_model} {sorted(config.upstream.items(), key=itemgetter(0))}"
            origin = config.upstream.get(host)
            return f"{origin.scheme}://{origin.host}:{origin.port}" if origin else ""

        return ExactCache(
            store=self.store,
            codecs=CODECS,
            rules=Rules(clock=config.l1a_clock, uuids=config.l1a_uuids, relocate=config.l1a_relocate),
            policy=Policy(
                ttl_ns=config.l1a_ttl_s * 10**9,
                remote_ttl_ns=config.l1a_remote_ttl_s * 10**9,
                max_temperature=config.l1a_max_temperature,
                read_only=config.l1a_read_only,
                mutating=config.l1a_mutating,
                provider_tools=config.l1a_provider_tools,
            ),
            sessions=SessionLog(
                retry_window_ns=config.l1a_retry_window_s * 10**9, loop_repeats=config.l1a_loop_repeats
            ),
            origin_of=origin_of,
            searches=searching.__contains__,
            token=token,
            now_ns=now_ns,
        )


def report(layer: str, error: BaseException) -> None:
    """Log that *layer* failed.  The text of an error may quote a prompt, so only its type and place are told."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
    logger.warning("Layer %s failed (%s at %s); the call went to the provider.", layer, type(error).__name__, where)
