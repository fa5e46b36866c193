"""The system's store of trusted roots: put our CA in, take it out, ask whether it is there.

Goals: for programs whose environment cannot be set (desktop applications, services). What is done to the machine can be
read off a table, and ``untrust`` undoes all of it.

Plan: a ``Store`` per kind of system, its steps as data: copy a file, remove a file, run a program. Programs run without
a shell, through a runner that can be handed in. Where we lack the rights, nothing is changed and the message is the
commands to run with ``sudo``.

What it does not do: Firefox and Java bring stores of their own. ``certs bundle`` and each program's settings serve them.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptweir.certs import bundle, files
from promptweir.certs.ca import Authority

RUN_TIMEOUT_S = 120
"""macOS asks for a password in a window meanwhile; Debian's hooks take some seconds."""
_SYSTEM_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where Linux keeps the tools of administrators; not on everybody's PATH."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the CA's certificate to *target*."""

    target: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove *target* if it is there."""

    target: str


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program; a failure is an error."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileHolds:
    """Trusted if the PEM file at *path* holds the certificate."""

    path: str


@dataclass(frozen=True, slots=True)
class OutputHolds:
    """Trusted if the program succeeds and its output has *text* in it, upper and lower case alike."""

    argv: tuple[str, ...]
    text: str


type Step = Copy | Remove | Run
type Probe = FileHolds | OutputHolds


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """One kind of system store. In the texts {cert}, {file}, {name}, {sha1} and {home} are filled in."""

    name: str
    platform: str
    """Beginning of ``sys.platform``."""
    needs: tuple[str, ...]
    """Programs and folders (with a slash at the end) that must be there: how the kinds of Linux are told apart."""
    trust: tuple[Step, ...]
    untrust: tuple[Step, ...]
    probe: Probe
    as_root: bool = False
    """Only root may change it."""


_KEYCHAIN = "{home}/Library/Keychains/login.keychain-db"

STORES = (
    Store(
        name="macOS login keychain",
        platform="darwin",
        needs=("security",),
        trust=(Run(("security", "add-trusted-cert", "-r", "trustRoot", "-p", "ssl", "-k", _KEYCHAIN, "{cert}")),),
        untrust=(
            Run(("security", "remove-trusted-cert", "{cert}")),
            Run(("security", "delete-certificate", "-Z", "{sha1}", _KEYCHAIN)),
        ),
        probe=OutputHolds(("security", "dump-trust-settings"), "{name}"),
    ),
    Store(
        name="Windows user store",
        platform="win32",
        needs=("certutil",),
        trust=(Run(("certutil", "-user", "-addstore", "Root", "{cert}")),),
        untrust=(Run(("certutil", "-user", "-delstore", "Root", "{sha1}")),),
        probe=OutputHolds(("certutil", "-user", "-store", "Root", "{sha1}"), "{name}"),
    ),
    Store(
        name="Debian store",  # Ubuntu and Alpine too
        platform="linux",
        needs=("update-ca-certificates", "/usr/local/share/ca-certificates/"),
        trust=(Copy("/usr/local/share/ca-certificates/{file}.crt"), Run(("update-ca-certificates",))),
        untrust=(Remove("/usr/local/share/ca-certificates/{file}.crt"), Run(("update-ca-certificates",))),
        probe=FileHolds("/etc/ssl/certs/ca-certificates.crt"),
        as_root=True,
    ),
    Store(
        name="Fedora store",  # RHEL and its kin too
        platform="linux",
        needs=("update-ca-trust", "/etc/pki/ca-trust/source/anchors/"),
        trust=(Copy("/etc/pki/ca-trust/source/anchors/{file}.pem"), Run(("update-ca-trust", "extract"))),
        untrust=(Remove("/etc/pki/ca-trust/source/anchors/{file}.pem"), Run(("update-ca-trust", "extract"))),
        probe=FileHolds("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
        as_root=True,
    ),
    Store(
        name="openSUSE store",
        platform="linux",
        needs=("update-ca-certificates", "/etc/pki/trust/anchors/"),
        trust=(Copy("/etc/pki/trust/anchors/{file}.pem"), Run(("update-ca-certificates",))),
        untrust=(Remove("/etc/pki/trust/anchors/{file}.pem"), Run(("update-ca-certificates",))),
        probe=FileHolds("/etc/ssl/ca-bundle.pem"),
        as_root=True,
    ),
    Store(
        name="Arch store",
        platform="linux",
        needs=("trust", "/etc/ca-certificates/trust-source/"),
        trust=(Run(("trust", "anchor", "--store", "{cert}")),),
        untrust=(Run(("trust", "anchor", "--remove", "{cert}")),),
        probe=FileHolds("/etc/ssl/certs/ca-certificates.crt"),
        as_root=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended and what it said."""

    code: int
    output: str


type Runner = Callable[[Sequence[str]], Outcome]


def run(argv: Sequence[str]) -> Outcome:
    """Run a program and wait for its end; OSError when it cannot be run or does not end."""
    program = _find(argv[0])
    if program is None:
        raise FileNotFoundError(f"there is no program {argv[0]} here")
    try:
        # Inherited stdin: `security` and friends may ask for a password.
        done = subprocess.run(
            [program, *argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{shlex.join(argv)} did not end within {RUN_TIMEOUT_S} s") from None
    return Outcome(done.returncode, done.stdout.decode(errors="replace"))


def detect(stores: Sequence[Store] = STORES, platform: str = sys.platform) -> Store:
    """Return this system's store; OSError when it is of no known kind."""
    for store in stores:
        if platform.startswith(store.platform) and all(_present(need) for need in store.needs):
            return store
    raise OSError(
        "this system has no trust store that is known here (on a slim Linux: install ca-certificates); "
        "use `promptweir certs bundle` with SSL_CERT_FILE instead"
    )


def is_trusted(authority: Authority, store: Store | None = None, runner: Runner = run) -> bool:
    """Return whether the system trusts *authority*."""
    words = _words(authority)
    match (store or detect()).probe:
        case FileHolds(path):
            return authority.sha256 in bundle.certificates(Path(path.format_map(words)))
        case OutputHolds(argv, text):
            outcome = runner(_filled(argv, words))
            return outcome.code == 0 and text.format_map(words).lower() in outcome.output.lower()


def trust(authority: Authority, store: Store | None = None, runner: Runner = run) -> bool:
    """Make the system trust *authority*; return False where it does already."""
    chosen = store or detect()
    if is_trusted(authority, chosen, runner):
        return False
    _check_rights(chosen, chosen.trust, authority)
    try:
        _perform(chosen.trust, authority, runner)
    except OSError:
        # Half done is worse than not done: the next update of the store, at any time, would take the file in.
        _perform([Remove(s.target) for s in chosen.trust if isinstance(s, Copy)], authority, runner)
        raise
    if not is_trusted(authority, chosen, runner):
        raise OSError(f"the {chosen.name} does not hold {authority.name} although its tools reported no error")
    return True


def untrust(authority: Authority, store: Store | None = None, runner: Runner = run) -> bool:
    """Make the system trust *authority* no more; return False where it did not."""
    chosen = store or detect()
    words = _words(authority)
    leftover = any(isinstance(s, Remove) and Path(s.target.format_map(words)).exists() for s in chosen.untrust)
    if not leftover and not is_trusted(authority, chosen, runner):
        return False
    _check_rights(chosen, chosen.untrust, authority)
    _perform(chosen.untrust, authority, runner)
    if is_trusted(authority, chosen, runner):
        raise OSError(f"the {chosen.name} still holds {authority.name} although its tools reported no error")
    return True


def _check_rights(store: Store, steps: Sequence[Step], authority: Authority) -> None:
    if store.as_root and os.name != "nt" and os.geteuid() != 0:
        raise PermissionError(f"only root may change the {store.name}; run: {as_shell(steps, authority)}")


def _perform(steps: Sequence[Step], authority: Authority, runner: Runner) -> None:
    words = _words(authority)
    for step in steps:
        _perform_one(step, authority, words, runner)


def _perform_one(step: Step, authority: Authority, words: Mapping[str, str], runner: Runner) -> None:
    match step:
        case Copy(target):
            files.replace(Path(target.format_map(words)), authority.cert_pem, files.PUBLIC_FILE_MODE)
        case Remove(target):
            Path(target.format_map(words)).unlink(missing_ok=True)
        case Run(argv):
            command = _filled(argv, words)
            outcome = runner(command)
            if outcome.code != 0:
                said = outcome.output.strip().splitlines()
                raise OSError(
                    f"{shlex.join(command)} failed ({outcome.code}): {said[-1] if said else 'it said nothing'}"
                )


def as_shell(steps: Sequence[Step], authority: Authority) -> str:
    """Return *steps* as one line for an administrator's shell."""
    words = _words(authority)
    commands: list[Sequence[str]] = []
    for step in steps:
        match step:
            case Copy(target):
                commands.append(("cp", str(authority.cert_path.absolute()), target.format_map(words)))
            case Remove(target):
                commands.append(("rm", "-f", target.format_map(words)))
            case Run(argv):
                commands.append(_filled(argv, words))
    return " && ".join(shlex.join(("sudo", *command)) for command in commands)


def _words(authority: Authority) -> dict[str, str]:
    return {
        "cert": str(authority.cert_path.absolute()),
        # By fingerprint, so that the files of an old CA and of a new one do not take each other's place.
        "file": f"promptweir-{authority.sha256[:8]}",
        "name": authority.name,
        "sha1": authority.sha1.upper(),
        "home": str(Path.home()),
    }


def _filled(argv: Sequence[str], words: Mapping[str, str]) -> list[str]:
    return [part.format_map(words) for part in argv]


def _present(need: str) -> bool:
    return Path(need).is_dir() if need.endswith("/") else _find(need) is not None


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS)))
