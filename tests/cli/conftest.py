"""A real command line, a real proxy, a provider on loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from promptweir.cli.main import main
from tests.cli.harness import COMMAND_WAIT_S, Cli, Done, Provider, command, environment


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run a command to its end."""

    def run(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            timeout=COMMAND_WAIT_S,
            env=environment(**extra),
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command to its end in this process: for commands that start nothing, and much faster."""

    def run(*words: str, **extra: str) -> Done:
        with monkeypatch.context() as patch:
            for name in set(os.environ) - set(environment()):
                patch.delenv(name)
            for name, value in environment(**extra).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["promptweir", *words])
            capfd.readouterr()
            with pytest.raises(SystemExit) as end:
                main()
        output, errors = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(words, end.value.code, output, errors)

    return run


@pytest.fixture
def state(tmp_path: Path, cli: Cli) -> Iterator[Path]:
    """A folder for one proxy, which is stopped in the end if the test started it."""
    folder = tmp_path / "state"
    yield folder
    if folder.exists():
        cli("stop", "--now", "--state", str(folder))


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """A provider that answers every chat request the same."""
    found = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            found.asked.append(self.rfile.read(int(self.headers["content-length"])))
            message = {"role": "assistant", "content": "Blue.", "refusal": None}
            body = json.dumps(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1700000000,
                    "model": "gpt-4o-mini",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
                }
            ).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
