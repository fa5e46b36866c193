import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from promptweir.certs import bundle as bundles
from promptweir.certs import ca
from promptweir.cli.certs import app
from promptweir.layers.providers import DOMAINS


def certs(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_bundle_prints_the_path_and_nothing_else(state: Path) -> None:
    result = certs("bundle", "--state", str(state))

    path = state / "ca" / "bundle.pem"
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}\n", "")
    assert ca.load(state / "ca").sha256 in bundles.certificates(path)


def test_path_prints_where_the_certificate_is(state: Path) -> None:
    result = certs("path", "--state", str(state))

    assert result.stdout == f"{state / 'ca' / 'mitmproxy-ca-cert.pem'}\n"
    assert b"PRIVATE" not in Path(result.stdout.strip()).read_bytes()


def test_a_relative_state_folder_gives_an_absolute_path(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(state.parent)

    assert certs("path", "--state", "state").stdout == f"{state / 'ca' / 'mitmproxy-ca-cert.pem'}\n"


def test_without_a_state_option_the_users_state_folder_is_taken(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("HOME", str(state))

    result = certs("path")

    assert result.exit_code == 0
    assert Path(result.stdout.strip()).is_relative_to(state)


def test_show_tells_what_there_is_to_know(state: Path) -> None:
    result = certs("show", "--state", str(state))

    authority = ca.load(state / "ca")
    rows = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert rows["name"] == authority.name
    assert rows["sha-256"] == authority.sha256
    assert rows["certificate"] == str(authority.cert_path)
    assert rows["valid until"] == f"{authority.cert.not_valid_after_utc:%Y-%m-%d}"
    assert rows["signs for"].startswith("api.anthropic.com, api.openai.com")
    assert rows["lacks"] == "nothing"
    assert rows["system trust"].split()[0] in ("no", "unknown:")


def test_show_all_lists_every_domain(state: Path) -> None:
    result = certs("show", "--all", "--state", str(state))

    assert f"signs for: {', '.join(DOMAINS)}\n" in result.stdout


def test_show_names_the_domains_that_an_older_ca_lacks(state: Path) -> None:
    ca.ensure(state / "ca", [domain for domain in DOMAINS if domain != "api.openai.com"])

    assert "lacks: api.openai.com\n" in certs("show", "--state", str(state)).stdout


def test_show_says_that_a_ca_has_expired_and_renew_makes_a_new_one(state: Path) -> None:
    old = ca.ensure(state / "ca", DOMAINS, now=datetime.now(UTC) - timedelta(days=4000))

    before = certs("show", "--state", str(state)).stdout
    renewed = certs("renew", "--domain", "llm.example.com", "--state", str(state))
    new = ca.load(state / "ca")

    assert "(expired; run: promptweir certs renew)" in before
    assert renewed.exit_code == 0
    assert new.sha256 != old.sha256
    assert not new.expired()
    assert new.covers("llm.example.com")
    assert new.covers("api.openai.com")
    assert new.sha256 in bundles.certificates(state / "ca" / "bundle.pem")


def test_untrust_makes_no_ca_just_to_take_it_out(state: Path) -> None:
    result = certs("untrust", "--state", str(state))

    assert result.exit_code == 2
    assert "no certificate authority at" in result.stderr
    assert not state.exists()


@pytest.mark.parametrize("command", ["show", "bundle", "path", "trust", "untrust"])
def test_a_broken_key_file_is_one_line_and_exit_code_2(command: str, state: Path) -> None:
    ca.ensure(state / "ca", DOMAINS)
    (state / "ca" / "mitmproxy-ca.pem").write_text("broken")

    result = certs(command, "--state", str(state))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert str(state / "ca" / "mitmproxy-ca.pem") in result.stderr


@pytest.mark.parametrize("command", ["show", "bundle", "path", "trust", "untrust", "renew"])
def test_a_state_folder_that_cannot_be_one_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = certs(command, "--state", str(tmp_path / "file"))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "file") in result.stderr


def test_a_domain_that_would_constrain_nothing_is_refused_and_the_ca_stays(state: Path) -> None:
    authority = ca.ensure(state / "ca", DOMAINS)

    result = certs("renew", "--domain", "com", "--state", str(state))

    assert result.exit_code == 2
    assert "'com'" in result.stderr
    assert ca.load(state / "ca").sha256 == authority.sha256


@pytest.mark.skipif(os.name == "nt", reason="modes mean nothing on Windows")
def test_the_state_folder_is_made_for_its_owner_only(state: Path) -> None:
    certs("path", "--state", str(state))

    assert stat.S_IMODE(state.stat().st_mode) == stat.S_IMODE((state / "ca").stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "ca" / "mitmproxy-ca.pem").stat().st_mode) == 0o600
