"""`up`, `stop`, `status`: real processes."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.cli.harness import Cli, command, environment


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status_of(here: Cli, state: Path) -> dict[str, object]:
    document = json.loads(here("status", "--json", "--state", str(state)).stdout)
    running = document["running"]
    assert isinstance(running, dict)
    return running


def test_a_proxy_starts_detached_is_seen_refuses_a_second_one_and_stops(cli: Cli, here: Cli, state: Path) -> None:
    up = cli("up", "--detach", "--state", str(state), "--port", "0", "--gateway-port", "0")
    assert up.returncode == 0, up.stderr
    running = status_of(here, state)
    port, gateway = running["port"], running["gateway_port"]
    assert isinstance(port, int)
    assert isinstance(gateway, int)
    assert is_listening(port)
    assert is_listening(gateway)
    assert f"export HTTPS_PROXY=http://127.0.0.1:{port}" in up.stdout
    assert f"promptweir run --state {state} -- claude" in up.stdout

    again = here("up", "--state", str(state), "--port", "0")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        f"promptweir: a proxy already runs in {state} (process {running['pid']}, port {port}); "
        "`promptweir stop` stops it\n"
    )

    stop = here("stop", "--state", str(state))
    assert (stop.returncode, stop.stdout) == (0, f"stopped (process {running['pid']})\n")
    assert not is_listening(port)
    assert here("status", "--state", str(state)).returncode == 1
    assert {path.name for path in state.iterdir()} >= {"ca", "cache", "promptweir.log"}
    assert not [
        path for path in state.rglob("*") if path.is_file() and path.suffix == ".log" and path.stat().st_mode & 0o077
    ]


def test_a_killed_proxy_is_not_running_and_another_one_can_start(cli: Cli, here: Cli, state: Path) -> None:
    assert cli("up", "--detach", "--state", str(state), "--port", "0").returncode == 0
    first = status_of(here, state)
    assert isinstance(first["pid"], int)
    os.kill(first["pid"], signal.SIGKILL)

    stop = here("stop", "--state", str(state))
    assert stop.stdout == f"no proxy runs in {state}\n"
    assert cli("up", "--detach", "--state", str(state), "--port", "0").returncode == 0
    assert status_of(here, state)["pid"] != first["pid"]


def test_a_busy_port_is_one_line_and_exit_code_2_here_and_detached(cli: Cli, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for how in ([], ["--detach"]):
            done = cli("up", *how, "--state", str(state), "--port", str(port))

            assert done.returncode == 2
            assert done.stderr == (
                f"promptweir: port in use: another program listens on 127.0.0.1:{port}; "
                "choose another with --port or --gateway-port\n"
            )


def test_in_the_foreground_it_says_where_it_listens_and_sigterm_ends_it_cleanly(state: Path) -> None:
    proxy = subprocess.Popen(
        command("up", "--state", str(state), "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PROMPTWEIR_HEADRES="1"),
    )
    assert proxy.stdout is not None
    first = proxy.stdout.readline()
    proxy.send_signal(signal.SIGTERM)
    _, complaints = proxy.communicate(timeout=60)

    assert "listens on http://127.0.0.1:" in first
    assert proxy.returncode == 0
    assert complaints == "promptweir: PROMPTWEIR_HEADRES is set, but there is no such option\n"


def test_mistakes_are_one_line_and_exit_code_2(cli: Cli, here: Cli, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    (tmp_path / "file").write_text("")
    mistakes = {
        ("up", "--set", "promptweir_l1a_tll_s=1"): "did you mean promptweir_l1a_ttl_s?",
        ("up", "--set", "no_such_option=1", "--port", "0"): "unknown option no_such_option",
        ("up", "--mode", "sideways", "--port", "0"): "sideways",
        ("up", "--port=70000"): "--port",
        ("up", "--nope"): "--nope",
        ("up", "--detach", "--state", str(tmp_path / "file" / "state")): "cannot use",
        ("stats", "--state", str(missing)): f"no state folder at {missing}",
        ("why", "--state", str(missing)): f"no state folder at {missing}",
        ("cache", "list", "--state", str(missing)): f"no state folder at {missing}",
        ("cache", "purge", "--state", str(tmp_path)): "say which answers to delete",
        ("nonsense",): "nonsense",
        ("run",): "COMMAND",
    }
    for words, message in mistakes.items():
        state = [] if "--state" in words or words[0] in ("nonsense", "run") else ["--state", str(tmp_path / "state")]
        done = (cli if "--port" in words else here)(*words, *state)

        assert done.returncode == 2, words
        assert message in done.stderr, words
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == "", words
    assert not missing.exists()


def test_options_shows_values_and_sources(here: Cli, tmp_path: Path) -> None:
    done = here(
        "options", "--json", "--state", str(tmp_path), "--set", "promptweir_l1a_ttl_s=60", PROMPTWEIR_HEADERS="false"
    )

    found = {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert found["promptweir_l1a_ttl_s"] == (60, "--set")
    assert found["promptweir_headers"] == (False, "PROMPTWEIR_HEADERS")
    assert found["promptweir_hosts"] == ("", "default")
