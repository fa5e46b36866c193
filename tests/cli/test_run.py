"""`run` and what the store tells afterwards: real programs through a real proxy to a provider on loopback."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.harness import ASK, Cli, Done, Provider, command, environment


@dataclass(frozen=True, slots=True)
class Proxy:
    """A state folder whose proxy was started by `run`."""

    cli: Cli
    state: Path
    first: Done
    second: Done
    other: Done
    asked: int


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, cli: Cli, provider: Provider) -> Iterator[Proxy]:
    """One question asked twice and another one once, each by a program of its own."""
    state = tmp_path_factory.mktemp("run") / "state"
    ask = ["--", sys.executable, "-c", ASK]
    at = ["--state", str(state)]
    first = cli("run", *at, "--set", provider.setting, *ask, "What colour is the sky?")
    second = cli("run", *at, *ask, "What colour is the sky?")
    other = cli("run", *at, *ask, "What colour is grass?")
    yield Proxy(cli, state, first, second, other, len(provider.asked))
    cli("stop", "--now", *at)


def test_the_second_run_is_answered_here_and_the_lines_at_the_end_say_so(proxy: Proxy) -> None:
    assert (proxy.first.returncode, proxy.first.stdout) == (0, "Blue. l3\n"), proxy.first.stderr
    assert (proxy.second.returncode, proxy.second.stdout) == (0, "Blue. l1a\n"), proxy.second.stderr
    assert proxy.asked == 2

    assert proxy.first.stderr.splitlines() == [
        "promptweir: 1 calls, 0 deflected (0 %): l3 1",
        "promptweir: saved 0.0 s and 0 tokens (0 in, 0 out)",
    ]
    line, savings = proxy.second.stderr.splitlines()
    assert line == "promptweir: 1 calls, 1 deflected (100 %): l1a 1"
    assert re.fullmatch(r"promptweir: saved \d+\.\d s and 13 tokens \(11 in, 2 out\)", savings)


def test_stats_counts_calls_in_json_and_in_words(proxy: Proxy, here: Cli) -> None:
    found = json.loads(here("stats", "--json", "--recent", "2", "--state", str(proxy.state)).stdout)

    assert {name: found[name] for name in ("calls", "deflected", "layers", "provider_calls", "entries")} == {
        "calls": 3,
        "deflected": 1,
        "layers": {"l1a": 1, "l3": 2},
        "provider_calls": 2,
        "entries": 2,
    }
    assert found["saved"]["input_tokens"] == 11
    assert [row["layer"] for row in found["recent"]] == ["l3", "l1a"]
    assert "1 (33 %)" in here("stats", "--recent", "3", "--state", str(proxy.state)).stdout


def test_why_names_the_first_path_that_differs(proxy: Proxy, here: Cli) -> None:
    done = here("why", "--state", str(proxy.state))

    assert "went to the provider" in done.stdout
    assert "first difference: $.messages[0].content" in done.stdout


def test_why_takes_an_id_and_refuses_one_that_nobody_knows(proxy: Proxy, here: Cli) -> None:
    recent = json.loads(here("stats", "--json", "--recent", "2", "--state", str(proxy.state)).stdout)["recent"]
    hit = here("why", recent[1]["id"], "--state", str(proxy.state))
    assert "answered here, layer l1a" in hit.stdout

    unknown = here("why", "no-such-call", "--state", str(proxy.state))
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)


def test_the_cache_is_listed_without_text(proxy: Proxy, here: Cli) -> None:
    rows = json.loads(here("cache", "list", "--json", "--state", str(proxy.state)).stdout)

    assert [(row["dialect"], row["model"]) for row in rows] == [("openai-chat", "gpt-4o-mini")] * 2
    assert "Blue" not in here("cache", "list", "--state", str(proxy.state)).stdout


def test_exit_code_output_and_arguments_are_the_programs_own(proxy: Proxy, here: Cli) -> None:
    program = "import sys; print(sys.argv[1:], end=''); sys.stderr.write('mine'); sys.exit(7)"
    done = proxy.cli(
        "run",
        "--quiet",
        "--state",
        str(proxy.state),
        sys.executable,
        "-c",
        program,
        "--state",
        "x",
        "--json",
        "--",
        "-h",
    )

    assert (done.returncode, done.stdout, done.stderr) == (7, "['--state', 'x', '--json', '--', '-h']", "mine")


def test_the_environment_points_to_the_proxy_and_keeps_the_rest(proxy: Proxy, here: Cli) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = here(
        "run", "--quiet", "--state", str(proxy.state), sys.executable, "-c", program, MINE="kept", NO_PROXY="intranet"
    )

    found = json.loads(done.stdout)
    port = json.loads(here("status", "--json", "--state", str(proxy.state)).stdout)["running"]["port"]
    assert found["HTTPS_PROXY"] == f"http://127.0.0.1:{port}"
    assert found["NODE_EXTRA_CA_CERTS"].startswith(str(proxy.state))
    assert Path(found["SSL_CERT_FILE"]).read_text().count("BEGIN CERTIFICATE") > 50
    assert found["MINE"] == "kept"
    assert "intranet" in found["NO_PROXY"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_program_and_its_end_is_ours(proxy: Proxy, number: signal.Signals) -> None:
    program = "import time; print('ready', flush=True); time.sleep(60)"
    run = subprocess.Popen(
        command("run", "--quiet", "--state", str(proxy.state), sys.executable, "-c", program),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,  # no terminal: nobody but us sends signals
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(number)
    run.communicate(timeout=30)

    # Python's own answer to SIGINT is an exception and then the signal again.
    assert run.returncode == 128 + number


def test_a_program_that_is_not_there_is_127_and_one_that_cannot_run_is_126(
    proxy: Proxy, here: Cli, tmp_path: Path
) -> None:
    missing = here("run", "--state", str(proxy.state), "no-such-program-anywhere")
    assert (missing.returncode, missing.stderr) == (127, "promptweir: no such program: no-such-program-anywhere\n")

    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    done = here("run", "--state", str(proxy.state), str(broken))
    assert done.returncode == 126
    assert done.stderr.startswith(f"promptweir: cannot run {broken}: ")


def test_options_for_a_proxy_that_already_runs_are_refused(proxy: Proxy, here: Cli) -> None:
    done = here("run", "--state", str(proxy.state), "--set", "promptweir_headers=false", "true")

    assert done.returncode == 2
    assert "already running with its own options" in done.stderr


def test_two_first_runs_at_once_share_one_proxy(cli: Cli, state: Path) -> None:
    runs = [
        subprocess.Popen(
            command(
                "run",
                "--quiet",
                "--state",
                str(state),
                sys.executable,
                "-c",
                "import os; print(os.environ['HTTPS_PROXY'])",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=90) for run in runs]

    assert [run.returncode for run in runs] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""


def test_purge_takes_effect_while_the_proxy_runs(cli: Cli, here: Cli, state: Path, provider: Provider) -> None:
    def ask() -> str:
        words = ["--quiet", "--state", str(state), "--", sys.executable, "-c", ASK, "To be purged?"]
        return here("run", *words).stdout

    assert cli("up", "--detach", "--port", "0", "--state", str(state), "--set", provider.setting).returncode == 0
    before = len(provider.asked)
    answers = [ask(), ask()]
    purge = here("cache", "purge", "--model", "gpt-4o-mini", "--state", str(state))
    answers.append(ask())

    assert purge.stdout == "deleted 1 answers\n"
    assert answers == ["Blue. l3\n", "Blue. l1a\n", "Blue. l3\n"]
    assert len(provider.asked) == before + 2
