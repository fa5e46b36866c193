"""Real proxies for the tests: `promptweir up --detach`, stock `mitmdump -s`, and what both need to run.

The servers that stand for providers live on an event loop in a thread of their own, so that tests may block: the
official SDKs' plain clients do.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from promptweir.cli.state import State
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.types import Trip

ROOT = Path(__file__).resolve().parents[2]
START_WAIT_S = 90.0
STOP_WAIT_S = 20.0
LEARN_WAIT_S = 15.0
POLL_S = 0.01
CA_CERT = "mitmproxy-ca-cert.pem"
GATEWAY_MODE = "reverse:http://gateway.invalid:1"

STANDIN_HOSTS = ("api.anthropic.com", "api.openai.com", "generativelanguage.googleapis.com", "chatgpt.com")
PLAIN_HOST = "api.groq.com"
"""Served by the scripted provider: it says exactly what a test wants, over plain HTTP/1.1."""
TLS_HOST = "api.mistral.ai"
"""Served by the scripted provider that speaks HTTP/2 over TLS."""


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="providers", daemon=True)
        self._thread.start()

    def run[T](self, work: Coroutine[object, object, T], wait_s: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(wait_s)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


def bare_environment(**extra: str) -> dict[str, str]:
    """Return the tests' environment without anything that steers proxies or promptweir."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PROMPTWEIR_") and name.lower() not in {"https_proxy", "http_proxy", "all_proxy"}
    }
    return mine | {"NO_COLOR": "1", "COLUMNS": "200"} | extra


def promptweir(*words: str) -> str:
    """Run a command of ours to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "promptweir.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=START_WAIT_S,
        env=bare_environment(),
        check=False,
    )
    assert done.returncode == 0, f"promptweir {' '.join(words)}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@dataclass(slots=True, kw_only=True)
class Proxy:
    """A proxy that runs, of either kind."""

    name: str
    state: Path
    port: int
    ca: Path
    """The certificate that clients have to trust."""
    gateway_port: int | None = None
    pid: int = 0
    marks: Path | None = None
    """Stock mitmdump only: what mitmproxy's own tools would show of each flow, a JSON line each."""
    output: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def rows(self) -> int:
        """Return how many calls are in the record."""
        return Reader(self.state / "cache").totals().calls

    def recent(self, count: int) -> list[Trip]:
        """Return the latest rows of the record, the newest first."""
        return Reader(self.state / "cache").recent(count)

    @contextlib.contextmanager
    def learning(self, calls: int = 1) -> Iterator[None]:
        """Wait, at the end, until *calls* made meanwhile are learned: a row is written after that."""
        wanted = self.rows() + calls
        yield
        self.settle(wanted)

    def settle(self, rows: int) -> None:
        """Wait until the record holds *rows* calls."""
        deadline = time.monotonic() + LEARN_WAIT_S
        while (seen := self.rows()) < rows:
            assert time.monotonic() < deadline, f"{rows - seen} calls are not in the record"
            time.sleep(POLL_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_of(options: Mapping[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


@contextlib.contextmanager
def own(
    state: Path,
    options: Mapping[str, str],
    *,
    ca: Path | None = None,
    words: tuple[str, ...] = ("--gateway-port", "0"),
) -> Iterator[Proxy]:
    """Run `promptweir up --detach`; *ca* is a folder with a certificate authority that another proxy has made."""
    if ca is not None and not (state / "ca").exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(ca, state / "ca")
    promptweir("up", "--detach", "--port", "0", "--state", str(state), *words, *settings_of(options))
    try:
        running = State(state).running()
        assert running is not None
        yield Proxy(
            name="own",
            state=state,
            port=running.port or 0,
            gateway_port=running.gateway_port,
            ca=state / "ca" / CA_CERT,
            pid=running.pid,
        )
    finally:
        promptweir("stop", "--now", "--state", str(state))


@contextlib.contextmanager
def stock(folder: Path, options: Mapping[str, str], *, mode: str = "regular") -> Iterator[Proxy]:
    """Run `mitmdump -s addons/promptweir.py` with the certificate authority that mitmproxy makes for itself.

    The gateway is a second mode of it, as the README tells users of mitmproxy.
    """
    gateway_port = free_port()
    marks, confdir, state = folder / "marks.jsonl", folder / "conf", folder / "state"
    words = ["-s", str(ROOT / "addons/promptweir.py"), "-s", str(Path(__file__).with_name("marks_addon.py"))]
    words += ["--mode", mode, "--mode", f"{GATEWAY_MODE}@{gateway_port}"]
    options = {"promptweir_state": str(state), **options}
    with mitmdump(confdir, *words, *settings_of(options), E2E_MARKS=str(marks)) as (port, output):
        yield Proxy(
            name="stock",
            state=state,
            port=port,
            gateway_port=gateway_port,
            ca=confdir / CA_CERT,
            marks=marks,
            output=output,
        )


@contextlib.contextmanager
def mitmdump(confdir: Path, *words: str, **extra: str) -> Iterator[tuple[int, list[str]]]:
    """Run mitmdump; yield its port and the lines that it prints, which keep coming."""
    entry = "from mitmproxy.tools.main import mitmdump; mitmdump()"
    child = subprocess.Popen(
        [
            *(sys.executable, "-P", "-c", entry, "--set", f"confdir={confdir}"),
            *("--listen-host", "127.0.0.1", "--listen-port", "0", *words),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=bare_environment(PYTHONUNBUFFERED="1", **extra),
    )
    output: list[str] = []
    ready = threading.Event()
    modes = max(1, words.count("--mode"))

    def drain() -> None:
        assert child.stdout is not None
        listening = 0
        for line in child.stdout:
            output.append(line.rstrip())
            listening += "listening at" in line
            if listening == modes:
                ready.set()
        ready.set()

    reader = threading.Thread(target=drain, name="mitmdump", daemon=True)
    reader.start()
    try:
        assert ready.wait(START_WAIT_S), output
        # "HTTP(S) proxy listening at 127.0.0.1:8080.", and the like for other modes and the gateway
        line = next((line for line in output if "listening at" in line and "gateway.invalid" not in line), None)
        assert line is not None, output
        yield int(line.rpartition(":")[2].strip(" .")), output
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        reader.join(5)
