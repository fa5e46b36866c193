"""`demo`: the whole thing as a real process, and proof that its judgement can fail."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from promptweir.cli import demo_real, demo_world
from promptweir.cli.demo_calls import Exchange, Trace
from promptweir.cli.demo_score import Judge, complaint_of, complaints_of, difference, percentile, score
from promptweir.cli.standin import StandIn
from promptweir.cli.standin_answers import answer_text
from promptweir.cli.standin_asks import Json
from promptweir.cli.state import UserError
from tests.cli.harness import Cli, command, environment

DEMO_WAIT_S = 220  # ten seconds on an idle machine with two cores; the SDKs alone take most of it
ASK: Json = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
OTHER: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
HOSTILE = {
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    "NO_PROXY": "*",
    "OPENAI_BASE_URL": "https://127.0.0.1:9",
    "ANTHROPIC_BASE_URL": "https://127.0.0.1:9",
    "ANTHROPIC_AUTH_TOKEN": "nobody",
    "OPENAI_ORG_ID": "org-nobody",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GEMINI_API_KEY": "nobody",
    "SSL_CERT_FILE": os.devnull,
    "PROMPTWEIR_L1A_ENABLED": "false",
    "PROMPTWEIR_HEADERS": "false",
}


def exchange(
    ask: Json, text: str, *, id_: str = "chatcmpl-1", layer: str = "l3", name: str = "chat", probe: bool = False
) -> Exchange:
    """A chat completion as an SDK would hand it over."""
    trace = Trace(
        path="/v1/chat/completions", asked=json.dumps(ask).encode(), layer=layer, deflected=layer.startswith("l1")
    )
    doc: Json = {
        "id": id_,
        "created": 1,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    return Exchange(name=name, probe=probe, trace=trace, elapsed_ms=1.0, doc=doc)


def run_demo(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command("demo", *words),
        capture_output=True,
        text=True,
        timeout=DEMO_WAIT_S,
        env=bare() | extra,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def bare() -> dict[str, str]:
    return {name: value for name, value in environment().items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}


def processes_that_name(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if bytes(folder) in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, which the demo has to leave empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    assert processes_that_name(folder) == []


@pytest.mark.slow
@pytest.mark.timeout(DEMO_WAIT_S + 20)
def test_without_a_key_every_repeat_is_deflected_and_no_answer_is_wrong_whatever_the_environment(
    temporary: Path,
) -> None:
    done = run_demo("--json", **HOSTILE, TMPDIR=str(temporary))

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == 0
    assert found["deflected"] > 30
    assert found["layers"] == {"l1a": found["deflected"], "l3": found["calls"] - found["deflected"]}
    assert 0 < found["hit_ms_p50"] <= found["hit_ms_p99"]
    assert 0 < found["miss_ms_p50"] <= found["miss_ms_p99"]
    assert set(found) == {
        *("calls", "deflected", "wrong", "layers", "hit_ms_p50", "hit_ms_p99", "miss_ms_p50", "miss_ms_p99"),
    }


@pytest.mark.slow
@pytest.mark.timeout(2 * DEMO_WAIT_S)
def test_with_the_cache_off_the_demo_fails_and_says_what_was_not_deflected(temporary: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "promptweir.toml").write_text("l1a_enabled = false\n")

    done = run_demo("--state", str(state), TMPDIR=str(temporary))

    assert done.returncode == 1
    assert "not deflected: openai chat" in done.stderr
    assert "wrong answers: 0" in done.stdout
    assert state.is_dir()


@pytest.mark.slow
@pytest.mark.timeout(DEMO_WAIT_S + 20)
def test_ended_by_a_signal_it_leaves_no_process_and_no_file(temporary: Path) -> None:
    running = subprocess.Popen(
        command("demo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=bare() | {"TMPDIR": str(temporary)}
    )
    deadline = time.monotonic() + DEMO_WAIT_S
    while not list(temporary.glob("*/state/proxy.json")) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    assert processes_that_name(temporary)
    running.send_signal(signal.SIGTERM)
    _, complaints = running.communicate(timeout=DEMO_WAIT_S)

    assert running.returncode == 130
    assert b"Traceback" not in complaints


@pytest.fixture
def openai_like() -> Iterator[StandIn]:
    """A provider in a thread, which takes any key."""
    provider, loop, ready = StandIn(), asyncio.new_event_loop(), threading.Event()

    def serve() -> None:
        loop.run_until_complete(provider.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(provider.stop())

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    yield provider
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.slow
@pytest.mark.timeout(DEMO_WAIT_S + 20)
def test_with_keys_it_says_what_it_costs_and_asks_the_provider_as_often_as_it_said(
    openai_like: StandIn, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    hosts = ("api.openai.com", "api.anthropic.com")
    upstream = ",".join(f"{host}={openai_like.origin}" for host in hosts)
    (state / "promptweir.toml").write_text(f'upstream = "{upstream}"\n')

    done = run_demo("--json", "--state", str(state), OPENAI_API_KEY="sk-one", ANTHROPIC_API_KEY="sk-ant-two")

    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "real provider: 7 calls to api.openai.com (gpt-4o-mini) and 7 calls to api.anthropic.com"
    )
    assert len(openai_like.llm_calls) == 14
    found = json.loads(done.stdout)
    assert (found["wrong"], found["deflected"], found["layers"]) == (0, 10, {"l1a": 10, "l3": 14})
    for call in openai_like.llm_calls:
        key = "sk-ant-two" if "/messages" in call.path else "sk-one"
        assert key in str(call.headers), call.path


@pytest.mark.slow
@pytest.mark.timeout(DEMO_WAIT_S + 20)
def test_a_provider_that_refuses_the_key_is_one_line_and_exit_code_2(openai_like: StandIn, tmp_path: Path) -> None:
    openai_like.mode = "401"
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "promptweir.toml").write_text(f'upstream = "api.openai.com={openai_like.origin}"\n')

    done = run_demo("--state", str(state), OPENAI_API_KEY="sk-wrong")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("promptweir: openai chat: AuthenticationError: ")
    assert len(done.stderr.splitlines()) == 2


def test_a_missing_sdk_is_one_line_and_exit_code_2() -> None:
    blocked = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in ("openai", "google.genai"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
sys.argv = ["promptweir", "demo"]
from promptweir.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", blocked], capture_output=True, text=True, timeout=60, env=bare(), check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("promptweir: the demo needs what is not installed: openai, google-genai; install it:")
    assert done.stderr.count("\n") == 1


def test_mistakes_in_the_environment_are_one_line_and_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    mistakes = (
        ({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "OPENAI_BASE_URL does not point to"),
        ({"OPENAI_API_KEY": "sk-1", "HTTPS_PROXY": "socks5://127.0.0.1:9"}, "SOCKS, or a password"),
    )
    for extra, message in mistakes:
        done = cli("demo", **extra)

        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr.splitlines()[-1]


def test_the_right_answer_is_not_wrong_and_every_tampered_one_is() -> None:
    right = exchange(ASK, answer_text(ASK))
    assert complaint_of(right, Judge()) == ""

    tampered = (
        exchange(ASK, answer_text(ASK).replace("Answer", "answer")),
        exchange(ASK, answer_text(OTHER)),  # another request's answer, which is what a bad key would serve
        exchange(ASK, ""),
        exchange(ASK, answer_text(ASK), layer=""),  # did not come through the proxy
        exchange(ASK, answer_text(ASK), layer="l1a", probe=True),
        replace(right, failure="APIError: cut off"),
    )
    for one in tampered:
        assert complaint_of(one, Judge()), one


def test_a_wrong_tool_call_token_count_or_vector_is_seen() -> None:
    tool = {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]}}
    ask: Json = {
        "model": "m",
        "messages": [{"role": "user", "content": "The weather in Paris?"}],
        "tools": [{"type": "function", "function": tool}],
    }

    def calling(city: str) -> Exchange:
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        doc: Json = {"choices": [{"message": {"tool_calls": [{"id": "call_1", "function": function}]}}]}
        return replace(exchange(ask, ""), doc=doc)

    assert complaint_of(calling("Paris"), Judge()) == ""
    assert "Rome" in complaint_of(calling("Rome"), Judge())

    counting = Trace(path="/v1/messages/count_tokens", asked=json.dumps(ASK).encode(), layer="l3")
    assert "instead of" in complaint_of(replace(exchange(ASK, ""), trace=counting, doc={"input_tokens": 1}), Judge())
    asked = json.dumps({"model": "m", "input": "A weir."}).encode()
    embedding = Trace(path="/v1/embeddings", asked=asked, layer="l3")
    vectors: Json = {"data": [{"embedding": [0.5] * 256}]}
    assert "vectors" in complaint_of(replace(exchange(ASK, ""), trace=embedding, doc=vectors), Judge())


def test_a_follow_up_is_judged_with_the_conversation_that_it_goes_on_from() -> None:
    def asking(body: dict[str, Json], id_: str, history: list[Json]) -> Exchange:
        text = answer_text({**body, "input": [*history, {"role": "user", "content": body["input"]}]})
        output: Json = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]
        answer: dict[str, Json] = {"id": id_, "output": output}
        trace = Trace(
            path="/v1/responses", asked=json.dumps(body).encode(), answered=json.dumps(answer).encode(), layer="l3"
        )
        return Exchange(name=id_, probe=False, trace=trace, elapsed_ms=1.0, doc=answer)

    judge = Judge()
    first = asking({"model": "m", "input": "One?"}, "resp_1", [])
    said = first.doc["output"] if isinstance(first.doc, dict) else None
    assert isinstance(said, list)
    history: list[Json] = [{"role": "user", "content": "One?"}, *said]
    second: dict[str, Json] = {"model": "m", "input": "And two?", "previous_response_id": "resp_1"}

    assert complaint_of(first, judge) == ""
    assert complaint_of(asking(second, "resp_2", history), judge) == ""
    assert "said" in complaint_of(asking(second, "resp_3", []), judge)  # as if nothing had gone before
    assert "never gave" in complaint_of(asking({**second, "previous_response_id": "resp_9"}, "resp_4", []), judge)


def test_a_warm_answer_may_differ_in_fresh_ids_and_in_nothing_else() -> None:
    text = answer_text(ASK)
    cold, warm = exchange(ASK, text), exchange(ASK, text, id_="chatcmpl-2", layer="l1a")
    assert complaints_of([cold], [warm], Judge()) == []

    doc = warm.doc
    assert isinstance(doc, dict)
    longer = replace(warm, doc={**doc, "usage": {"total_tokens": 3}})
    assert complaints_of([cold], [longer], Judge()) == ["chat (warm) differs from the cold answer at $.usage"]
    again = replace(longer, trace=cold.trace)  # it went out once more
    assert complaints_of([cold], [again], Judge()) == []
    assert complaints_of([cold], [], Judge()) == ["chat (warm) was not asked: a call before it failed"]


def test_an_id_that_stands_for_two_others_is_a_difference() -> None:
    assert difference({"id": "a", "call_id": "b"}, {"id": "c", "call_id": "d"}) == ""
    assert difference({"id": "a", "call_id": "b"}, {"id": "c", "call_id": "c"})
    assert difference([1], [1, 1])
    assert difference({"n": 1}, {"n": True})


def test_the_sums_count_every_call_once_and_leave_failures_out_of_the_latencies() -> None:
    text = answer_text(ASK)
    calls = [
        replace(exchange(ASK, text), elapsed_ms=8.0),
        replace(exchange(ASK, text, layer="l1a"), elapsed_ms=2.0),
        replace(exchange(ASK, text, layer=""), failure="cut", elapsed_ms=900.0),
    ]

    total = score(calls, wrong=1)
    assert (total.calls, total.deflected, total.wrong) == (3, 1, 1)
    assert total.layers == {"l1a": 1, "l3": 1, "none": 1}
    assert (total.hit_ms_p50, total.hit_ms_p99, total.miss_ms_p50, total.miss_ms_p99) == (2.0, 2.0, 8.0, 8.0)
    assert percentile([], 50) is None
    assert percentile([3, 1, 2, 4], 50) == 2


def test_the_environment_is_bare_for_a_while_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)

    with demo_world.bare_environment(keep_sdks=False):
        assert not HOSTILE.keys() & os.environ.keys()
        os.environ["HTTPS_PROXY"] = "http://127.0.0.1:1"
    assert dict(os.environ) == before
    with demo_world.bare_environment(keep_sdks=True):
        assert os.environ["OPENAI_ORG_ID"] == "org-nobody"
        assert "HTTPS_PROXY" not in os.environ


def test_a_company_proxy_is_gone_through_unless_it_wants_a_password() -> None:
    assert demo_world.company_proxy({}) is None
    assert demo_world.company_proxy({"HTTPS_PROXY": "http://proxy.example.com:3128"}) == "http://proxy.example.com:3128"
    assert demo_world.company_proxy({"https_proxy": "proxy.example.com"}) == "http://proxy.example.com:80"
    for bad in ("http://me:secret@proxy.example.com", "http://[::1", "socks5://localhost"):
        with pytest.raises(UserError):
            demo_world.company_proxy({"HTTPS_PROXY": bad})


def test_an_empty_key_is_no_key() -> None:
    assert demo_real.keys_of({"OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": "k"}) == {"anthropic": "k"}
