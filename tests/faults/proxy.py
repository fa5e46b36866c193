"""A real proxy process, and what can be seen of it from outside."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cli.harness import command, environment
from tests.faults.client import OPENAI, WAIT_S, Client

START_WAIT_S = 60.0
authority: list[Path] = []
"""The folder of the CA that the first proxy made."""
HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com")


@dataclass(slots=True)
class Proxy:
    """A running proxy."""

    pid: int
    port: int
    ca: Path
    state: Path
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    gateway_port: int = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def connect(self, host: str = OPENAI, wait_s: float = WAIT_S) -> Client:
        return Client(self.port, host, ca=self.ca, wait_s=wait_s)

    def rss_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """The largest resident size since ``reset_peak``."""
        return self._status("VmHWM")

    def reset_peak(self) -> int:
        """Forget the peak so far; return the present size."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.rss_bytes()

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stats(self) -> dict[str, int]:
        done = subprocess.run(
            command("stats", "--json", "--state", str(self.state)),
            capture_output=True, text=True, env=environment(), timeout=60, check=True,
        )  # fmt: skip
        found: dict[str, int] = json.loads(done.stdout)
        return found

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
        elif self.alive:
            os.kill(self.pid, signal.SIGTERM)
            wait_for(lambda: not self.alive, "the proxy ends", 20)

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)


def wait_for(condition: Callable[[], object], what: str, wait_s: float = 10.0) -> None:
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def healthy(proxy: Proxy, said: str) -> None:
    """The proxy lives, and has not said that anything of its own broke."""
    assert proxy.alive
    for word in ("Traceback", "Addon error", "has crashed", "Layer "):
        assert word not in said, said[-4000:]


def settings(provider_port: int, options: tuple[str, ...] = ()) -> list[str]:
    upstream = ",".join(f"{host}=http://127.0.0.1:{provider_port}" for host in HOSTS)
    words: list[str] = []
    for option in (f"promptweir_upstream={upstream}", *options):
        words += ["--set", option]
    return words


def up(state: Path, provider_port: int, *options: str, gateway: bool = False) -> Proxy:
    """Start ``promptweir up --detach``."""
    if authority and not (state / "ca").exists():
        # Making one takes as long as everything else together.
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(authority[0], state / "ca")
    more = ["--gateway-port", "0"] if gateway else []
    done = subprocess.run(
        command("up", "--detach", "--port", "0", "--state", str(state), *more, *settings(provider_port, options)),
        capture_output=True, text=True, env=environment(), timeout=START_WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"listens on http://[\d.]+:(\d+) \(process (\d+)\)", done.stdout)
    assert found, done.stdout
    entrance = re.search(r"gateway: http://[\d.]+:(\d+)", done.stdout)
    return Proxy(
        pid=int(found[2]),
        port=int(found[1]),
        ca=state / "ca" / "mitmproxy-ca-cert.pem",
        state=state,
        log_file=state / "promptweir.log",
        gateway_port=int(entrance[1]) if entrance else 0,
    )


def stock(state: Path, provider_port: int, *options: str) -> Proxy:
    """Start a plain ``mitmdump -s addons/promptweir.py``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = Path(__file__).parents[2] / "addons" / "promptweir.py"
    log_file = state / "mitmdump.log"
    words = [str(Path(sys.executable).with_name("mitmdump")), "-s", str(script), "-p", str(port)]
    words += ["--listen-host", "127.0.0.1", "--set", f"confdir={state / 'confdir'}"]
    words += settings(provider_port, (f"promptweir_state={state}", *options))
    with log_file.open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment())
    certificate = state / "confdir" / "mitmproxy-ca-cert.pem"
    proxy = Proxy(process.pid, port, certificate, state, log_file, process)
    wait_for(lambda: "listening" in proxy.log and certificate.exists(), "mitmdump listens", START_WAIT_S)
    return proxy
