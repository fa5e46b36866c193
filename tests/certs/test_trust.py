import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from promptweir.certs import ca, leaf, trust

STORES = {store.name.split()[0]: store for store in trust.STORES}


class Machine:
    """Runs nothing; remembers the commands and answers the probes as a system would."""

    def __init__(self, holds: bool = False, fails: str = "") -> None:
        self.commands: list[list[str]] = []
        self.holds = holds
        self.fails = fails

    def __call__(self, argv: Sequence[str]) -> trust.Outcome:
        if self.fails and self.fails in argv:
            return trust.Outcome(5, "first line\nAccess is denied.\n")
        if "dump-trust-settings" in argv or "-store" in argv:
            return trust.Outcome(0, f"Cert 3: {self.name}\n") if self.holds else trust.Outcome(1, "none")
        self.commands.append(list(argv))
        self.holds = "add-trusted-cert" in argv or "-addstore" in argv
        return trust.Outcome(0, "")

    name = ""


def machine_for(authority: ca.Authority, **state: object) -> Machine:
    machine = Machine(**state)  # type: ignore[arg-type]
    machine.name = authority.name
    return machine


def test_macos_trusts_through_the_login_keychain_and_forgets_by_thumbprint(authority: ca.Authority) -> None:
    machine = machine_for(authority)
    keychain = str(Path.home() / "Library/Keychains/login.keychain-db")
    cert = str(authority.cert_path)

    assert trust.trust(authority, STORES["macOS"], machine)
    assert trust.untrust(authority, STORES["macOS"], machine)

    assert machine.commands == [
        ["security", "add-trusted-cert", "-r", "trustRoot", "-p", "ssl", "-k", keychain, cert],
        ["security", "remove-trusted-cert", cert],
        ["security", "delete-certificate", "-Z", authority.sha1.upper(), keychain],
    ]


def test_windows_trusts_through_the_users_root_store_and_forgets_by_thumbprint(authority: ca.Authority) -> None:
    machine = machine_for(authority)

    assert trust.trust(authority, STORES["Windows"], machine)
    assert trust.untrust(authority, STORES["Windows"], machine)

    assert machine.commands == [
        ["certutil", "-user", "-addstore", "Root", str(authority.cert_path)],
        ["certutil", "-user", "-delstore", "Root", authority.sha1.upper()],
    ]


@pytest.mark.parametrize("system", ["macOS", "Windows"])
def test_what_is_done_already_is_not_done_again(system: str, authority: ca.Authority) -> None:
    trusted, untrusted = machine_for(authority, holds=True), machine_for(authority)

    assert not trust.trust(authority, STORES[system], trusted)
    assert not trust.untrust(authority, STORES[system], untrusted)

    assert trusted.commands == untrusted.commands == []


@pytest.mark.parametrize(("system", "verb"), [("macOS", "add-trusted-cert"), ("Windows", "-addstore")])
def test_a_failing_program_is_named_with_its_last_word(system: str, verb: str, authority: ca.Authority) -> None:
    with pytest.raises(OSError, match=rf"{verb}.* failed \(5\): Access is denied\.$"):
        trust.trust(authority, STORES[system], machine_for(authority, fails=verb))


def test_another_ca_of_ours_in_the_store_does_not_count(authority: ca.Authority) -> None:
    machine = machine_for(authority, holds=True)
    machine.name = "Promptweir CA 00000000"

    assert not trust.is_trusted(authority, STORES["macOS"], machine)


@pytest.mark.parametrize(
    ("platform", "present", "name"),
    [
        ("darwin", {"security"}, "macOS"),
        ("win32", {"certutil"}, "Windows"),
        ("linux", {"update-ca-certificates", "/usr/local/share/ca-certificates/"}, "Debian"),
        ("linux", {"update-ca-trust", "trust", "/etc/pki/ca-trust/source/anchors/"}, "Fedora"),
        ("linux", {"update-ca-certificates", "trust", "/etc/pki/trust/anchors/"}, "openSUSE"),
        ("linux", {"update-ca-trust", "trust", "/etc/ca-certificates/trust-source/"}, "Arch"),
    ],
)
def test_each_system_is_told_by_its_tools_and_folders(platform: str, present: set[str], name: str) -> None:
    fitting = [s for s in trust.STORES if platform.startswith(s.platform) and set(s.needs) <= present]

    assert [store.name.split()[0] for store in fitting] == [name]


def test_a_system_of_no_known_kind_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(OSError, match="promptweir certs bundle"):
        trust.detect(platform="plan9")


@pytest.mark.parametrize("system", ["Debian", "Fedora", "openSUSE", "Arch"])
def test_without_the_rights_nothing_is_changed_and_the_commands_are_shown(
    system: str, authority: ca.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine = machine_for(authority)

    with pytest.raises(PermissionError, match=r"only root may change the .* store; run: sudo ") as caught:
        trust.trust(authority, STORES[system], machine)

    assert str(authority.cert_path) in str(caught.value)
    assert machine.commands == []


def debian(folder: Path) -> trust.Store:
    """Debian's store in *folder*: the real program, told to work elsewhere."""
    anchors, store, hooks = folder / "local", folder / "certs", folder / "hooks"
    for path in (anchors, store, hooks):
        path.mkdir(parents=True)
    (folder / "conf").touch()
    # Any store has other roots; without a single one the program leaves its last bundle as it is.
    other = ca.ensure(folder / "other", ["other.example"])
    (anchors / "other.crt").write_bytes(other.cert_pem)
    where = ("--certsconf", folder / "conf", "--localcertsdir", anchors, "--etccertsdir", store, "--hooksdir", hooks)
    update = trust.Run(("update-ca-certificates", *map(str, where)))
    target = f"{anchors}/{{file}}.crt"
    return trust.Store(
        name="Debian store",
        platform="linux",
        needs=("update-ca-certificates",),
        trust=(trust.Copy(target), update),
        untrust=(trust.Remove(target), update),
        probe=trust.FileHolds(str(store / "ca-certificates.crt")),
    )


needs_debian = pytest.mark.skipif(
    not Path("/usr/sbin/update-ca-certificates").exists(), reason="update-ca-certificates is not installed"
)


@needs_debian
def test_debians_own_program_takes_the_ca_in_and_out(authority: ca.Authority, tmp_path: Path) -> None:
    store = debian(tmp_path / "system")

    steps = [trust.is_trusted(authority, store)]
    for action in (trust.trust, trust.trust, trust.untrust, trust.untrust):
        steps += [action(authority, store), trust.is_trusted(authority, store)]

    assert steps == [False, True, True, False, True, True, False, False, False]
    assert os.listdir(tmp_path / "system" / "local") == ["other.crt"]


@needs_debian
def test_an_old_and_a_new_ca_do_not_take_each_others_place(authority: ca.Authority, tmp_path: Path) -> None:
    store = debian(tmp_path / "system")
    second = ca.ensure(tmp_path / "second", ["anthropic.com"])

    trust.trust(authority, store)
    trust.trust(second, store)
    trust.untrust(authority, store)

    assert trust.is_trusted(second, store)
    assert not trust.is_trusted(authority, store)


def test_a_failing_update_leaves_no_file_behind(authority: ca.Authority, tmp_path: Path) -> None:
    store = debian(tmp_path / "system")

    with pytest.raises(OSError, match="failed"):
        trust.trust(authority, store, Machine(fails="update-ca-certificates"))

    assert os.listdir(tmp_path / "system" / "local") == ["other.crt"]


def test_a_store_that_says_yes_and_does_nothing_is_found_out(authority: ca.Authority, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="although its tools reported no error"):
        trust.trust(authority, debian(tmp_path / "system"), Machine())


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="no program no-such-program here"):
        trust.run(["no-such-program"])


IN_A_NAMESPACE = """
set -e
cp -a /etc/ssl/certs "$1/certs"
cp -a /usr/local/share/ca-certificates "$1/local"
mount --bind "$1/certs" /etc/ssl/certs
mount --bind "$1/local" /usr/local/share/ca-certificates
verify() { openssl verify -CApath /etc/ssl/certs -no-CAfile -no-CAstore "$1/leaf.pem" > "$1/verify.log" 2>&1; }
certs() { "$2" -c 'from promptweir.cli.certs import app; app()' "$3" --state "$1/state"; }
verify "$1" && exit 11
certs "$1" "$2" trust
verify "$1" || exit 12
certs "$1" "$2" show | grep 'system trust: yes'
certs "$1" "$2" renew && exit 13
certs "$1" "$2" untrust
verify "$1" && exit 14
ls -A /usr/local/share/ca-certificates > "$1/after"
"""


@pytest.mark.slow
@needs_debian
@pytest.mark.skipif(
    os.name == "nt"
    or os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs root and mount namespaces",
)
def test_the_commands_work_on_the_real_store_of_debian(tmp_path: Path) -> None:
    """At its real paths, in a mount namespace whose store is a copy: this machine's own store is not touched."""
    authority = ca.ensure(tmp_path / "state" / "ca", ["anthropic.com"])
    cert = leaf.mint(authority, ["api.anthropic.com"], datetime.now(UTC))
    (tmp_path / "leaf.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    before = sorted(os.listdir("/usr/local/share/ca-certificates"))

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", IN_A_NAMESPACE, "sh", tmp_path, sys.executable],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "is now in the Debian store" in done.stdout
    assert "is no longer in the Debian store" in done.stdout
    assert "run first: promptweir certs untrust" in done.stderr
    assert sorted((tmp_path / "after").read_text().split()) == before
    assert sorted(os.listdir("/usr/local/share/ca-certificates")) == before
