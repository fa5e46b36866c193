"""What a hit costs on our own Master, compared with stock ``mitmdump`` running the same addon.

Both proxies hold the same answer and serve it over one kept-alive connection (CONNECT and TLS), each call from a session
of its own.  The figure is CPU time of the proxy's process per hit, which other work on the machine disturbs least; the
sides take turns, and the median of the rounds counts.  A second pair runs an addon that answers a constant: it tells the
Masters' own share from the work of the cache, which costs the same on both.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.perf import bodies
from tests.perf.client import Connection
from tests.perf.harness import Args, Part, Result

NAME = "master"
DESCRIPTION = "CPU per hit: our own Master against stock mitmdump with the same addon (at most 0.5)"

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 5
HITS = 200  # a round then takes about 0.2 s of CPU, twenty ticks of its clock
WARM_UP = 50
SIZE = 2_000
START_WAIT_S = 120.0
STOP_WAIT_S = 30.0


class _Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        answer = bodies.answer()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Side:
    """One proxy and a connection to it."""

    def __init__(self, argv: list[str], port: int, state: Path, layer: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=state, env=env)
        self._layer = layer
        self._number = 1
        deadline = time.monotonic() + START_WAIT_S
        ca = state / "ca" / "mitmproxy-ca-cert.pem"
        while not (ca.exists() and _accepts(port)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv} did not start")
            time.sleep(0.1)
        time.sleep(1)  # mitmdump listens before its scripts are loaded
        self._connection = Connection(port, str(ca))

    def ask(self, layer: str) -> None:
        head, _, _ = self._connection.ask(bodies.request(SIZE, self._number))
        self._number += 1
        if layer and f"x-promptweir-layer: {layer}".encode() not in head:
            raise RuntimeError(f"expected an answer by {layer}, got {head.decode('latin-1')}")

    def cpu_ms_per_hit(self) -> float:
        before_s = self._cpu_s()
        for _ in range(HITS):
            self.ask(self._layer)
        return (self._cpu_s() - before_s) * 1000 / HITS

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def warm_up(self) -> None:
        self.ask("l3" if self._layer else "")
        time.sleep(1)  # it is learned after the answer is out
        for _ in range(WARM_UP):
            self.ask(self._layer)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(STOP_WAIT_S)


def run(args: Args) -> Result:
    """Measure."""
    if not Path("/proc/self/stat").exists():
        raise SystemExit(f"scripts/bench {args.name}: needs Linux, where /proc tells a process's CPU time")
    with _provider() as port, _folder() as folder:
        setting = f"promptweir_upstream={bodies.HOST}=http://127.0.0.1:{port}"
        sides: dict[str, _Side] = {}
        figures: dict[str, list[float]] = {}
        try:
            sides["ours"] = _ours(folder / "ours", setting)
            sides["stock"] = _stock(folder / "stock", ROOT / "addons" / "promptweir.py", setting)
            sides["ours_constant"] = _ours_constant(folder / "ours-constant")
            sides["stock_constant"] = _stock_constant(folder / "stock-constant")
            for side in sides.values():
                side.warm_up()
            for _ in range(ROUNDS):
                for name, side in sides.items():
                    figures.setdefault(name, []).append(side.cpu_ms_per_hit())
        finally:
            for side in sides.values():
                side.close()
    median = {name: statistics.median(values) for name, values in figures.items()}
    parts: dict[str, Part] = {f"{name}_cpu_ms": value for name, value in median.items()}
    parts |= {
        "constant_ratio": median["ours_constant"] / median["stock_constant"],
        "hits": ROUNDS * HITS,
        "request_bytes": SIZE,
    }
    baseline = f"stock mitmdump, {median['stock']:.3f} CPU-ms a hit"
    return Result(name=NAME, baseline=baseline, ratio=median["ours"] / median["stock"], parts=parts)


def _ours(state: Path, setting: str) -> _Side:
    state.mkdir()
    port = _free_port()
    argv = [sys.executable, "-P", "-m", "promptweir.cli.main", "up", "--port", str(port), "--state", str(state)]
    return _Side([*argv, "--set", setting], port, state, "l1a")


def _ours_constant(state: Path) -> _Side:
    state.mkdir()
    port = _free_port()
    code = """
import sys
from pathlib import Path
from promptweir.addons import _master
from tests.perf.plain_addons import Constant
sockets = _master.Sockets(host="127.0.0.1", port=int(sys.argv[1]), gateway_port=None)
ready = lambda listening: None
_master.run(_master.serve([Constant()], sockets, confdir=Path(sys.argv[2]), settings={}, on_ready=ready))
"""
    (state / "ca").mkdir()
    return _Side([sys.executable, "-P", "-c", code, str(port), str(state / "ca")], port, state, "")


def _stock(state: Path, script: Path, *settings: str) -> _Side:
    state.mkdir(exist_ok=True)
    port = _free_port()
    code = "import sys; from mitmproxy.tools.main import mitmdump; mitmdump(sys.argv[1:])"
    argv = [sys.executable, "-P", "-c", code, "-q", "-p", str(port), "--listen-host", "127.0.0.1", "-s", str(script)]
    for setting in (f"confdir={state / 'ca'}", "connection_strategy=lazy", *settings):
        argv += ["--set", setting]
    if settings:
        argv += ["--set", f"promptweir_state={state}"]
    return _Side(argv, port, state, "l1a" if settings else "")


def _stock_constant(state: Path) -> _Side:
    state.mkdir()
    script = state / "script.py"
    script.write_text("from tests.perf.plain_addons import Constant\n\naddons = [Constant()]\n")
    return _stock(state, script)


@contextmanager
def _provider() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="promptweir-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
