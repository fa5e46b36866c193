"""The processes of a bench: proxies, a provider, a client; started, asked for their CPU time, stopped.

``Stage`` owns them all.  CPU time is the figure to trust on a busy machine; it counts all threads of a process.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from promptweir.certs import ca
from promptweir.cli.state import State
from promptweir.layers.providers import DOMAINS
from tests.perf import bodies
from tests.perf.client import Order, Timings

ROOT = Path(__file__).resolve().parents[2]
START_WAIT_S = 60.0
LEARN_WAIT_S = 10.0
STOP_WAIT_S = 10.0
POLL_S = 0.005


class BenchError(Exception):
    """What was measured is not what was meant to be measured."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy process that listens."""

    name: str
    pid: int
    port: int
    ca: Path
    started_s: float
    """From its start until it listened."""
    layer: str
    """What its answers must say in ``x-promptweir-layer``."""

    def cpu_ns(self) -> int:
        """Return the CPU time that the process has used so far."""
        return cpu_ns(self.pid)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process, all threads and the kernel's part included."""
    if not sys.platform.startswith("linux"):
        raise BenchError("CPU time of another process is only measured on Linux")
    # clock_getcpuclockid(3): the process id's complement above three bits of clock type.
    return time.clock_gettime_ns((~pid << 3) | 2)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Stage:
    """Everything that a bench starts; gone when the ``with`` block ends."""

    folder: Path = field(init=False)
    _exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _client: "subprocess.Popen[bytes] | None" = None
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _numbers: int = 1

    def __enter__(self) -> Self:
        """Make a folder."""
        self.folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="promptweir-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all processes and remove the folder."""
        self._exits.close()

    # --- processes

    def origin(self) -> int:
        """Start a provider; return its port."""
        process = self._start([sys.executable, "-m", "tests.perf.origin"], subprocess.PIPE)
        return _port_of(process)

    def plain(self, name: str, origin: int | None = None) -> Proxy:
        """Start our Master with an addon that answers a constant, or with one that does nothing before *origin*."""
        extra = {} if origin is None else {"PROMPTWEIR_BENCH_ORIGIN": str(origin)}
        state = self._folder(name)
        begin = time.monotonic()
        process = self._start([sys.executable, "-m", "tests.perf.plain_proxy", str(state)], subprocess.PIPE, extra)
        port = _port_of(process)
        return Proxy(name, process.pid, port, state / "ca" / ca.CERT_FILE, time.monotonic() - begin, "")

    def promptweir(self, name: str, origin: int, *, state: Path | None = None, **options: str) -> Proxy:
        """Start ``promptweir up``."""
        state = state or self._folder(name)
        argv = [sys.executable, "-P", "-m", "promptweir.cli.main", "up", "--hand-over"]
        argv += ["--state", str(state), "--port", "0"]
        for setting in _settings(origin, options):
            argv += ["--set", setting]
        begin = time.monotonic()
        process = self._start(argv, subprocess.DEVNULL)
        at = State(state)
        while (running := at.running()) is None or running.pid != process.pid or running.port is None:
            if process.poll() is not None or time.monotonic() - begin > START_WAIT_S:
                raise BenchError(f"promptweir up did not start in {state}")
            time.sleep(POLL_S)
        return Proxy(name, process.pid, running.port, at.ca / ca.CERT_FILE, time.monotonic() - begin, "l1a")

    def mitmdump(self, name: str, origin: int | None = None, **options: str) -> Proxy:
        """Start stock ``mitmdump``: with the same addon, or without *origin* with one that answers a constant.

        Quiet and with lazy connections, which makes it cheaper than it is by default.
        """
        state = self._folder(name)
        authority = ca.ensure(state / "ca", DOMAINS)
        port = free_port()
        settings = [f"confdir={authority.folder}", "connection_strategy=lazy"]
        if origin is None:
            script = ROOT / "tests" / "perf" / "plain_script.py"
        else:
            script = ROOT / "addons" / "promptweir.py"
            settings += [f"promptweir_state={state}", *_settings(origin, options)]
        argv = [str(Path(sys.executable).with_name("mitmdump")), "--quiet", "-s", str(script)]
        argv += ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
        for setting in settings:
            argv += ["--set", setting]
        begin = time.monotonic()
        process = self._start(argv, subprocess.DEVNULL)
        while not _listens(port):
            if process.poll() is not None or time.monotonic() - begin > START_WAIT_S:
                raise BenchError("mitmdump did not start")
            time.sleep(POLL_S)
        time.sleep(1.0)  # a script is loaded after the sockets are bound
        layer = "" if origin is None else "l1a"
        return Proxy(name, process.pid, port, authority.cert_path, time.monotonic() - begin, layer)

    def stop(self, proxy: Proxy) -> None:
        """Stop *proxy* before the end of the bench."""
        for process in self._processes:
            if process.pid == proxy.pid:
                _stop(process)

    def _start(
        self, argv: Sequence[str], stdout: int, extra: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTWEIR_")}
        environment |= {"PYTHONPATH": _path(), **(extra or {})}
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, env=environment, cwd=self.folder)
        self._processes.append(process)
        self._exits.callback(_stop, process)
        return process

    def _folder(self, name: str) -> Path:
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    # --- requests

    def ask(
        self,
        proxy: Proxy,
        size: int,
        questions: Sequence[int],
        *,
        layer: str | None = None,
        salted: bool = False,
        pause_s: float = 0.0,
        anew: bool = False,
    ) -> Timings:
        """Send one request for each of *questions* through *proxy*, each in a session of its own."""
        if self._client is None:
            self._client = self._start_client()
        order = Order(
            port=proxy.port,
            ca=str(proxy.ca),
            size=size,
            questions=list(questions),
            first_number=self._numbers,
            layer=proxy.layer if layer is None else layer,
            salted=salted,
            pause_s=pause_s,
            anew=anew,
        )
        self._numbers += len(questions)
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(msgspec.json.encode(order) + b"\n")
        self._client.stdin.flush()
        timings = msgspec.json.decode(self._client.stdout.readline(), type=Timings)
        if timings.problem:
            raise BenchError(f"{proxy.name}: {timings.problem}")
        return timings

    def teach(self, proxy: Proxy, size: int, question: int = 0) -> None:
        """Ask once, and wait until the answer comes from the cache."""
        self.ask(proxy, size, [question], layer="any")
        deadline = time.monotonic() + LEARN_WAIT_S
        while True:
            try:
                self.ask(proxy, size, [question])
                return
            except BenchError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _start_client(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.perf.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _path()},
        )
        self._exits.callback(_stop, process)
        return process


def _path() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def _settings(origin: int, options: Mapping[str, str]) -> Iterator[str]:
    yield f"promptweir_upstream={bodies.HOST}=http://127.0.0.1:{origin}"
    for name, value in options.items():
        yield f"promptweir_{name}={value}"


def _port_of(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("a process of the bench did not start")
    return int(line)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
