import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from promptweir.certs import ca, files

posix = pytest.mark.skipif(os.name == "nt", reason="modes mean nothing on Windows")

RECORD_OPENS = """
import os, stat, sys
from pathlib import Path
os.umask(0)
folder = Path(sys.argv[1])
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT and "mitmproxy-ca.pem" in str(args[0]):
        seen.append(("open", bool(args[2] & os.O_EXCL), oct(stat.S_IMODE(os.stat(folder).st_mode))))
    if event == "os.link":
        seen.append(("link", oct(stat.S_IMODE(os.stat(args[0]).st_mode)), os.path.getsize(args[0]) > 1000))
    if event == "os.chmod" and "mitmproxy-ca.pem" in str(args[0]):
        seen.append(("chmod",))
from promptweir.certs import ca
sys.addaudithook(hook)
ca.ensure(folder, ["anthropic.com"])
print(seen)
"""

ENSURE_AT = """
import sys, time
from pathlib import Path
from promptweir.certs import ca
time.sleep(max(0, float(sys.argv[2]) - time.time()))
print(ca.ensure(Path(sys.argv[1]), ["anthropic.com"]).sha256)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_the_folder_is_private_before_the_key_exists_and_the_key_is_so_from_its_first_byte(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "ca"

    done = subprocess.run(
        [sys.executable, "-c", RECORD_OPENS, folder], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == str([("open", True, "0o700"), ("link", "0o600", True)])
    assert mode(folder) == mode(folder.parent) == 0o700
    assert mode(folder / "mitmproxy-ca.pem") == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["mitmproxy-ca-cert.pem", "mitmproxy-ca.pem"]


def test_processes_that_start_at_once_agree_on_one_ca(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    start = str(datetime.now(UTC).timestamp() + 1.5)
    running = [
        subprocess.Popen([sys.executable, "-c", ENSURE_AT, folder, start], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    fingerprints = {process.communicate(timeout=60)[0].strip() for process in running}

    assert fingerprints == {ca.load(folder).sha256}
    assert not list(folder.glob(".*"))


def test_the_ca_is_constrained_to_the_given_domains_and_to_no_address(authority: ca.Authority) -> None:
    extensions = authority.cert.extensions

    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    names = extensions.get_extension_for_class(x509.NameConstraints)

    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert names.critical
    assert [name.value for name in names.value.permitted_subtrees or ()] == ["anthropic.com", "api.openai.com"]
    assert [str(name.value) for name in names.value.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert authority.key.key_size == 2048
    assert authority.cert.subject.rfc4514_string().startswith("O=Promptweir,CN=Promptweir CA ")


def test_the_ca_is_valid_since_two_days_ago_and_for_five_years(authority: ca.Authority) -> None:
    now = datetime.now(UTC)

    assert now - authority.cert.not_valid_before_utc > timedelta(days=1, hours=23)
    assert authority.cert.not_valid_after_utc - now > timedelta(days=5 * 364)
    assert not authority.expired(now)


def test_two_cas_bear_different_names(tmp_path: Path) -> None:
    first, second = (ca.ensure(tmp_path / name, ["anthropic.com"]) for name in "ab")

    assert first.name != second.name


def test_the_second_start_finds_the_ca_of_the_first(authority: ca.Authority) -> None:
    again = ca.ensure(authority.folder, ["another.example"])

    assert again.sha256 == authority.sha256
    assert again.permitted == ("anthropic.com", "api.openai.com")


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("anthropic.com", True),
        ("api.anthropic.com", True),
        ("API.Anthropic.com.", True),
        ("*.anthropic.com", True),
        ("notanthropic.com", False),
        ("openai.com", False),
        ("api.openai.com", True),
        ("api.openai.com.evil.example", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("", False),
        ("a b.anthropic.com", False),
        ("*", False),
        ("com", False),
    ],
)
def test_covers_tells_what_clients_will_accept(authority: ca.Authority, host: str, covered: bool) -> None:
    assert authority.covers(host) is covered


@pytest.mark.parametrize("permitted", [[], ["com"], ["*"], [""], ["127.0.0.1"], ["a..b"], ["exa mple.com"]])
def test_no_ca_is_made_that_would_be_constrained_by_nothing(tmp_path: Path, permitted: list[str]) -> None:
    with pytest.raises(ValueError, match="certificate authority needs"):
        ca.ensure(tmp_path / "ca", permitted)

    assert not (tmp_path / "ca" / "mitmproxy-ca.pem").exists()


def test_names_beyond_ascii_are_written_as_certificates_have_them(tmp_path: Path) -> None:
    authority = ca.ensure(tmp_path / "ca", ["bücher.example"])

    assert authority.permitted == ("xn--bcher-kva.example",)
    assert authority.covers("api.bücher.example")


@posix
def test_a_folder_and_a_key_that_are_open_to_others_are_tightened(authority: ca.Authority) -> None:
    authority.folder.chmod(0o755)
    (authority.folder / "mitmproxy-ca.pem").chmod(0o644)

    ca.ensure(authority.folder, ["anthropic.com"])

    assert mode(authority.folder) == 0o700
    assert mode(authority.folder / "mitmproxy-ca.pem") == 0o600


@posix
def test_permissions_are_only_ever_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o400)

    files.tighten(path, 0o600)

    assert mode(path) == 0o400


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in (folder, *folder.parents):
        if path.is_relative_to(tmp_path.parent.parent):
            path.chmod(0o755)
    folder.chmod(0o777)

    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            ca.ensure(folder, ["anthropic.com"])
        except PermissionError as error:
            os._exit(42 if "another user" in str(error) else 1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert not list(folder.iterdir())


def broken(kind: str, authority: ca.Authority) -> bytes:
    key = authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    match kind:
        case "empty":
            return b""
        case "text":
            return b"not a key\n"
        case "binary":
            return os.urandom(500)
        case "half":
            return (authority.folder / "mitmproxy-ca.pem").read_bytes()[:2000]
        case "key only":
            return key
        case "certificate only":
            return authority.cert_pem
        case "passphrase":
            return authority.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        case "another key":
            other = ca.ensure(authority.folder.parent / "other", ["anthropic.com"])
            return key + other.cert_pem
        case "elliptic":
            return (
                ec.generate_private_key(ec.SECP256R1()).private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
                + authority.cert_pem
            )
        case _:
            return b"x" * (2 << 20)


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "text", "binary", "half", "key only", "certificate only", "passphrase", "another key", "elliptic",
        "huge",
    ],
)  # fmt: skip
def test_a_file_that_is_no_ca_gives_an_error_that_names_it_and_stays_as_it_is(
    authority: ca.Authority, kind: str
) -> None:
    path = authority.folder / "mitmproxy-ca.pem"
    content = broken(kind, authority)
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"mitmproxy-ca\.pem") as caught:
        ca.ensure(authority.folder, ["anthropic.com"])

    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_folder_that_is_a_file_gives_an_os_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("")

    with pytest.raises(OSError, match=str(tmp_path / "ca")):
        ca.ensure(tmp_path / "ca", ["anthropic.com"])


def test_a_certificate_file_that_differs_from_the_key_file_is_written_anew(authority: ca.Authority) -> None:
    authority.cert_path.write_text("old")

    ca.load(authority.folder)

    assert authority.cert_path.read_bytes() == authority.cert_pem


def test_an_expired_ca_stays_until_it_is_renewed(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=3000)
    old = ca.ensure(tmp_path / "ca", ["anthropic.com"], now=long_ago)

    found = ca.ensure(tmp_path / "ca", ["anthropic.com"])
    new = ca.renew(tmp_path / "ca", ["anthropic.com", "api.x.ai"])

    assert found.sha256 == old.sha256
    assert found.expired()
    assert not new.expired()
    assert new.covers("api.x.ai")
    assert ca.load(tmp_path / "ca").sha256 == new.sha256
    assert new.cert_path.read_bytes() == new.cert_pem


def test_load_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no certificate authority at"):
        ca.load(tmp_path / "ca")

    assert not (tmp_path / "ca").exists()


def test_a_file_system_without_hard_links_gets_a_whole_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)

    first = ca.ensure(tmp_path / "ca", ["anthropic.com"])

    assert ca.ensure(tmp_path / "ca", ["anthropic.com"]).sha256 == first.sha256
    assert not files.write_new(tmp_path / "ca" / "mitmproxy-ca.pem", b"", 0o600)
    assert not list((tmp_path / "ca").glob(".*"))
