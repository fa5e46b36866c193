"""Run real coding agents behind the real proxy, against the provider stand-in, and never against the Internet.

Plan: ``CLIENTS`` says for each program where it comes from (a pinned version, installed once into a cache folder) and
how it is asked one question.  ``Lab`` holds what one program's tests share: the stand-in, the proxy as a process of its
own, and a gate in front of it that lets LLM hosts through and refuses all others, so that no telemetry leaves the
machine and no test depends on what a remote host says.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from promptweir.certs import ca
from promptweir.certs.environment import for_child
from promptweir.cli.standin import Call, StandIn

LLM_HOSTS = ("api.anthropic.com", "api.openai.com", "chatgpt.com", "generativelanguage.googleapis.com")
RUN_WAIT_S = 120.0  # a run takes 3 to 15 s on an idle machine with two cores
INSTALL_WAIT_S = 900.0
START_WAIT_S = 60.0
STOP_WAIT_S = 10.0
LEARN_WAIT_S = 1.0  # learning happens behind the client's back
MAX_HEAD_BYTES = 1 << 16

PROMPT = "What does greet in hello.py do?"
OTHER_PROMPT = "What does README.md say?"
FILES = {
    "hello.py": 'def greet(name):\n    return f"Hello, {name}!"\n',
    "README.md": "# Demo\n\nA tiny repository.\n",
}
COMMIT = {
    "GIT_AUTHOR_NAME": "Dev",
    "GIT_AUTHOR_EMAIL": "dev@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "Dev",
    "GIT_COMMITTER_EMAIL": "dev@example.com",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


class Missing(Exception):  # noqa: N818 - a reason to skip, not an error
    """A program that these tests need is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A coding agent: where it comes from and how it is asked."""

    name: str
    package: str
    """On npm; aider's on PyPI."""
    version: str
    command: Callable[[str, str], list[str]]
    """From prompt and model to arguments."""
    environ: Callable[[str, str], dict[str, str]]
    """From API key and model to variables."""
    model: str
    other_model: str
    key: str = "sk-fake-one-aaaaaaaaaaaaaaaaaaaa"
    other_key: str = "sk-fake-two-bbbbbbbbbbbbbbbbbbbb"
    python: bool = False
    volatile: tuple[str, ...] = ()
    """Lines of the output that begin with one of these may differ in any two runs."""

    def stable(self, text: str) -> str:
        """Return *text* without its volatile lines."""
        lines = [line for line in text.splitlines() if not line.strip().startswith(self.volatile or ("\0",))]
        return "\n".join(lines)


CLIENTS = (
    Client(
        name="claude",
        package="@anthropic-ai/claude-code",
        version="2.1.197",
        command=lambda prompt, model: ["claude", "-p", prompt, "--model", model, "--allowedTools", "Read", "Bash"],
        environ=lambda key, _: {"ANTHROPIC_API_KEY": key},
        model="claude-opus-4-8",
        other_model="claude-sonnet-4-5",
        key="sk-ant-api03-fake-one-aaaaaaaaaa",
        other_key="sk-ant-api03-fake-two-bbbbbbbbbb",
    ),
    Client(
        name="codex",
        package="@openai/codex",
        version="0.169.0",
        command=lambda prompt, model: ["codex", "exec", "--sandbox", "danger-full-access", "-m", model, prompt],
        environ=lambda key, _: {"CODEX_API_KEY": key},
        model="gpt-6.1-sol",
        other_model="gpt-5.4",
    ),
    Client(
        name="gemini",
        package="@google/gemini-cli",
        version="0.61.0",
        # Without a model it asks its router which one to take; that call has to be deflected too.
        command=lambda prompt, model: ["gemini", *(["-m", model] if model else []), "-p", prompt],
        environ=lambda key, _: {"GEMINI_API_KEY": key, "GEMINI_CLI_TRUST_WORKSPACE": "true"},
        model="",
        other_model="gemini-2.5-flash",
        key="AIzaFakeOne",
        other_key="AIzaFakeTwo",
    ),
    Client(
        name="opencode",
        package="opencode-ai",
        version="1.18.33",
        command=lambda prompt, model: ["opencode", "run", "-m", model, prompt],
        environ=lambda key, _: {"ANTHROPIC_API_KEY": key},
        model="anthropic/claude-sonnet-4-5",
        other_model="anthropic/claude-opus-4-5",
        key="sk-ant-api03-fake-one-aaaaaaaaaa",
        other_key="sk-ant-api03-fake-two-bbbbbbbbbb",
    ),
    Client(
        name="copilot",
        package="@github/copilot",
        version="1.0.102",
        command=lambda prompt, _: ["copilot", "-p", prompt, "--allow-all-tools", "--allow-all-paths"],
        environ=lambda key, model: {
            "COPILOT_PROVIDER_BASE_URL": "https://api.openai.com/v1",
            "COPILOT_PROVIDER_API_KEY": key,
            "COPILOT_MODEL": model,
            "COPILOT_AUTO_UPDATE": "false",
        },
        model="gpt-5",
        other_model="gpt-5-mini",
    ),
    Client(
        name="aider",
        package="aider-chat",
        version="0.86.2",
        command=lambda prompt, model: [
            *("aider", "--model", model, "--no-git", "--yes-always", "--no-show-model-warnings", "--no-check-update"),
            # One file: it keeps several in a set, and lists them in another order in every process.
            *("--no-pretty", "--no-show-release-notes", "--message", prompt, "hello.py"),
        ],
        environ=lambda key, _: {"OPENAI_API_KEY": key, "AIDER_ANALYTICS": "false"},
        model="openai/gpt-4o",
        other_model="openai/gpt-4o-mini",
        python=True,
        volatile=("HTTPSConnectionPool",),  # it could not fetch a price list
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run left behind."""

    code: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...]
    """The LLM calls that reached the provider meanwhile."""
    elapsed_s: float


def cache_folder() -> Path:
    return Path(os.environ.get("PROMPTWEIR_TEST_CACHE") or Path.home() / ".cache" / "promptweir-tests")


def install(client: Client) -> Path:
    """Return the folder that holds the program, in the pinned version, installed if need be."""
    if client.python:
        return _install_from_pypi(client)
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not on the PATH, so the coding agents cannot be installed")
    folder = cache_folder() / "npm" / client.name
    manifest = folder / "node_modules" / client.package / "package.json"
    with _locked(folder):
        if not (manifest.is_file() and json.loads(manifest.read_text())["version"] == client.version):
            options = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
            _install([npm, "install", *options, f"{client.package}@{client.version}"])
    return folder / "node_modules" / ".bin"


def _install_from_pypi(client: Client) -> Path:
    folder = cache_folder() / client.name
    with _locked(folder):
        if not list(folder.glob(f"lib/python*/site-packages/*-{client.version}.dist-info/METADATA")):
            # aider 0.86 wants a Python below 3.13.
            names = (sys.executable, *(shutil.which(f"python3.{minor}") or "" for minor in (12, 11, 10)))
            found = next((name for name in names if name and _minor(name) in (10, 11, 12)), None)
            if found is None:
                raise Missing(f"{client.package} needs Python 3.10 to 3.12, and there is none")
            _install([found, "-m", "venv", "--clear", str(folder)])
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            _install([*pip, "--upgrade", "pip"])  # the one of Python 3.12.1 resolves for a quarter of an hour
            _install([*pip, f"{client.package}=={client.version}"])
    return folder / "bin"


def _minor(python: str) -> int:
    text = subprocess.run([python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
    return int(text.stdout or 0)


def _install(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_WAIT_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout)[-2000:]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two test runs at a time must not install into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_repo(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    """Make a git repository whose one commit has the same id wherever it is made."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    environ = {**COMMIT, "PATH": os.environ["PATH"], "HOME": str(folder)}
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=folder, env=environ, check=True)
    return folder


class Gate:
    """A CONNECT proxy that hands LLM hosts on to the real one and refuses the rest."""

    def __init__(self, proxy_port: int) -> None:
        self.port = 0
        self.refused: Counter[str] = Counter()
        self._proxy_port = proxy_port
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        if self._server:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b" ", 2)
            host = target.decode().rpartition(":")[0] if method == b"CONNECT" else target.decode()
            if host in LLM_HOSTS:
                onward = await asyncio.open_connection("127.0.0.1", self._proxy_port)
                onward[1].write(head)
                await asyncio.gather(_pump(reader, onward[1]), _pump(onward[0], writer))
            else:
                self.refused[host] += 1
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(MAX_HEAD_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@dataclass(slots=True, kw_only=True)
class Lab:
    """One program, with everything that its runs need."""

    client: Client
    folder: Path
    provider: StandIn = field(default_factory=lambda: StandIn(keep_bodies=True))
    _bin: Path = field(init=False)
    _gate: Gate = field(init=False)
    _proxy: asyncio.subprocess.Process = field(init=False)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    async def start(self) -> None:
        self._bin = install(self.client)
        await self.provider.start()
        upstream = ",".join(f"{host}={self.provider.origin}" for host in LLM_HOSTS)
        options = ["--port", "0", "--state", str(self.state), "--set", f"promptweir_upstream={upstream}"]
        self._proxy = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "promptweir.cli.main", "up", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=open(self.folder / "proxy.log", "wb"),  # noqa: SIM115 - the child keeps it
            env={**os.environ, "NO_COLOR": "1"},
        )
        self._gate = Gate(await self._listening())
        await self._gate.start()

    async def _listening(self) -> int:
        """Return the port that the proxy says it listens on."""
        assert self._proxy.stdout is not None
        try:
            async with asyncio.timeout(START_WAIT_S):
                line = (await self._proxy.stdout.readline()).decode()
        except TimeoutError:
            line = ""
        if "listens on http://" not in line:
            with contextlib.suppress(ProcessLookupError):
                self._proxy.kill()
            await self._proxy.wait()
            raise RuntimeError(f"the proxy did not start: {line}{(self.folder / 'proxy.log').read_text()[-2000:]}")
        return int(line.partition("listens on http://127.0.0.1:")[2].split()[0])

    async def stop(self) -> None:
        self._gate.stop()
        if self._proxy.returncode is None:
            self._proxy.terminate()
            try:
                await asyncio.wait_for(self._proxy.wait(), STOP_WAIT_S)
            except TimeoutError:
                self._proxy.kill()
        await self.provider.stop()

    def stats(self) -> dict[str, int]:
        """Return what ``promptweir stats`` counts."""
        command = [sys.executable, "-P", "-m", "promptweir.cli.main", "stats", "--json", "--state", str(self.state)]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    async def run(self, cwd: Path, home: Path, *, prompt: str = PROMPT, model: str = "", key: str = "") -> Outcome:
        """Ask the program one question and wait for its end."""
        home.mkdir(parents=True, exist_ok=True)
        model, key = model or self.client.model, key or self.client.key
        before, began = len(self.provider.calls), time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *self.client.command(prompt, model),
            cwd=cwd,
            env=self._environ(home, key, model),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), RUN_WAIT_S)
        except TimeoutError:
            os.killpg(process.pid, 9)
            out, err = await process.communicate()
            err += b"\n(killed: it took too long)"
        elapsed_s = time.monotonic() - began
        await asyncio.sleep(LEARN_WAIT_S)
        return Outcome(
            code=process.returncode or 0,
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            calls=tuple(call for call in self.provider.calls[before:] if call.llm),
            elapsed_s=elapsed_s,
        )

    def _environ(self, home: Path, key: str, model: str) -> dict[str, str]:
        node = shutil.which("node")
        folders = [str(self._bin), *([str(Path(node).parent)] if node else []), "/usr/local/bin", "/usr/bin", "/bin"]
        bare = {
            "PATH": os.pathsep.join(folders),
            "HOME": str(home),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "USER": "dev",
            "SHELL": "/bin/bash",
            **self.client.environ(key, model),
        }
        authority = ca.load(self.state / "ca")
        return {**bare, **for_child(authority, bare, f"http://127.0.0.1:{self._gate.port}")}
