"""Options: where their values come from, and what is said about wrong ones."""

from pathlib import Path

import platformdirs
import pytest

from promptweir.cli.settings import collect, strangers
from promptweir.cli.state import UserError

TTL = "promptweir_l1a_ttl_s"


@pytest.fixture(autouse=True)
def no_user_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "configuration"
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: folder)
    return folder


def test_set_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "promptweir.toml").write_text("l1a_ttl_s = 1\nheaders = false\nl1a_uuids = 'all'\n")
    environ = {"PROMPTWEIR_L1A_TTL_S": "2", "PROMPTWEIR_HEADERS": "true"}

    settings = collect([f"{TTL}=3"], tmp_path, environ)

    assert settings.values == {TTL: 3, "promptweir_headers": True, "promptweir_l1a_uuids": "all"}
    assert settings.sources == {
        TTL: "--set",
        "promptweir_headers": "PROMPTWEIR_HEADERS",
        "promptweir_l1a_uuids": str(tmp_path / "promptweir.toml"),
    }


def test_the_users_configuration_folder_counts_where_the_state_folder_has_no_file(
    tmp_path: Path, no_user_configuration: Path
) -> None:
    no_user_configuration.mkdir()
    (no_user_configuration / "promptweir.toml").write_text("promptweir_l1a_ttl_s = 5")

    assert collect([], tmp_path, {}).values == {TTL: 5}
    (tmp_path / "promptweir.toml").write_text("")
    assert collect([], tmp_path, {}).values == {}


def test_a_list_in_the_file_is_the_comma_separated_option(tmp_path: Path) -> None:
    (tmp_path / "promptweir.toml").write_text('hosts = ["a.example.com", "*.b.example.com"]')

    assert collect([], tmp_path, {}).values == {"promptweir_hosts": "a.example.com,*.b.example.com"}


def test_an_equals_sign_in_a_value_stays() -> None:
    assignment = "promptweir_upstream=api.openai.com=http://127.0.0.1:1"

    assert collect([assignment], None, {}).values == {"promptweir_upstream": "api.openai.com=http://127.0.0.1:1"}


def test_options_of_mitmproxy_are_kept_as_given() -> None:
    settings = collect(["ssl_insecure=true", "ignore_hosts=a", "ignore_hosts=b"], None, {})

    assert settings.all == {"ssl_insecure": "true", "ignore_hosts": ["a", "b"]}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "promptweir_l1a_tll_s=1",
            "--set: no option is called promptweir_l1a_tll_s; did you mean promptweir_l1a_ttl_s?",
        ),
        (f"{TTL}=soon", f"--set: {TTL} must be a whole number, not 'soon'"),
        (f"{TTL}=-1", f"--set: {TTL} must not be negative, not -1"),
        ("promptweir_headers=maybe", "--set: promptweir_headers must be true or false, not 'maybe'"),
        ("promptweir_l1a_uuids=some", "promptweir_l1a_uuids must be one of paths, all, none, not 'some'"),
        ("promptweir_upstream=x", "promptweir_upstream takes host=origin"),
        ("promptweir_headers", "--set takes option=value, not 'promptweir_headers'"),
    ],
)
def test_a_wrong_assignment_is_refused_in_one_sentence(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        collect([assignment], None, {})

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l1a_ttl_s = 'x'", f"{TTL} must be of type int"),
        ("nonsense = 1", "no option is called promptweir_nonsense"),
        ("= 1", "cannot read"),
        ("headers = {}", "promptweir_headers must be of type bool"),
    ],
)
def test_a_wrong_file_is_named_in_the_refusal(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "promptweir.toml"
    path.write_text(text)

    with pytest.raises(UserError) as caught:
        collect([], tmp_path, {})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_wrong_variable_is_named_in_the_refusal() -> None:
    with pytest.raises(UserError, match=r"^PROMPTWEIR_HEADERS: "):
        collect([], None, {"PROMPTWEIR_HEADERS": "7"})


def test_misspelt_variables_are_found() -> None:
    assert strangers({"PROMPTWEIR_HEADRES": "1", "PROMPTWEIR_HEADERS": "1", "PROMPTWEIR_STATE": "x", "PATH": ""}) == [
        "PROMPTWEIR_HEADRES"
    ]
