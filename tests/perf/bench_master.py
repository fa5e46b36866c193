"""What a hit costs on our own Master, compared with stock ``mitmdump`` running the same addon.

Both proxies hold the same answer and serve it over one kept-alive connection (CONNECT and TLS), each call from a session
of its own.  The figure is CPU time of the proxy's process per hit, which other work on the machine disturbs least; the
two take turns, and the median of the rounds counts.
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
from tests.perf.harness import Args, Result

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

    def __init__(self, argv: list[str], port: int, state: Path) -> None:
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=state)
        self._number = 1
        deadline = time.monotonic() + START_WAIT_S
        ca = state / "ca" / "mitmproxy-ca-cert.pem"
        while not (ca.exists() and (state / "cache").is_dir() and _accepts(port)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv} did not start")
            time.sleep(0.1)
        time.sleep(1)  # mitmdump listens before its scripts are loaded
        self._connection = Connection(port, str(ca))

    def ask(self, layer: str) -> None:
        head, _, _ = self._connection.ask(bodies.request(SIZE, self._number))
        self._number += 1
        if f"x-promptweir-layer: {layer}".encode() not in head:
            raise RuntimeError(f"expected an answer by {layer}, got {head.decode('latin-1')}")

    def cpu_ms_per_hit(self) -> float:
        before_s = self._cpu_s()
        for _ in range(HITS):
            self.ask("l1a")
        return (self._cpu_s() - before_s) * 1000 / HITS

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(STOP_WAIT_S)


def run(args: Args) -> Result:
    """Measure."""
    if not Path("/proc/self/stat").exists():
        raise SystemExit(f"scripts/bench {args.name}: needs Linux, where /proc tells a process's CPU time")
    with _provider() as port, _folder() as folder:
        setting = f"promptweir_upstream={bodies.HOST}=http://127.0.0.1:{port}"
        sides = {}
        try:
            sides["ours"] = _ours(folder / "ours", setting)
            sides["stock"] = _stock(folder / "stock", setting)
            for side in sides.values():
                side.ask("l3")
                time.sleep(1)  # it is learned after the answer is out
                for _ in range(WARM_UP):
                    side.ask("l1a")
            figures: dict[str, list[float]] = {"ours": [], "stock": []}
            for _ in range(ROUNDS):
                for name, side in sides.items():
                    figures[name].append(side.cpu_ms_per_hit())
        finally:
            for side in sides.values():
                side.close()
    ours, stock = statistics.median(figures["ours"]), statistics.median(figures["stock"])
    parts = {"ours_cpu_ms": ours, "stock_cpu_ms": stock, "hits": ROUNDS * HITS, "request_bytes": SIZE}
    return Result(name=NAME, baseline=f"stock mitmdump, {stock:.3f} CPU-ms a hit", ratio=ours / stock, parts=parts)


def _ours(state: Path, setting: str) -> _Side:
    state.mkdir()
    port = _free_port()
    argv = [sys.executable, "-P", "-m", "promptweir.cli.main", "up", "--port", str(port), "--state", str(state)]
    return _Side([*argv, "--set", setting], port, state)


def _stock(state: Path, setting: str) -> _Side:
    state.mkdir()
    port = _free_port()
    code = "import sys; from mitmproxy.tools.main import mitmdump; mitmdump(sys.argv[1:])"
    argv = [sys.executable, "-P", "-c", code, "-q", "-p", str(port), "--listen-host", "127.0.0.1"]
    argv += ["-s", str(ROOT / "addons" / "promptweir.py"), "--set", f"confdir={state / 'ca'}"]
    return _Side([*argv, "--set", f"promptweir_state={state}", "--set", setting], port, state)


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
