"""What the command line's tests share: how to call it, a provider's stand-in, a program that asks."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

COMMAND_WAIT_S = 100

type Done = subprocess.CompletedProcess[str]
type Cli = Callable[..., Done]


def environment(**extra: str) -> dict[str, str]:
    """Return the tests' environment without anything that steers promptweir or proxies."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PROMPTWEIR_") and name.lower() not in {"https_proxy", "http_proxy", "no_proxy"}
    }
    return mine | {"NO_COLOR": "1", "COLUMNS": "200"} | extra


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "promptweir.cli.main", *words]


@dataclass(slots=True)
class Provider:
    """A provider of OpenAI's chat format that notes what it is asked."""

    port: int = 0
    asked: list[bytes] = field(default_factory=list)

    @property
    def setting(self) -> str:
        return f"promptweir_upstream=api.openai.com=http://127.0.0.1:{self.port}"


ASK = """
import json, os, sys, urllib.request
body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": sys.argv[1]}]}).encode()
headers = {"authorization": "Bearer sk-test", "content-type": "application/json"}
request = urllib.request.Request("https://api.openai.com/v1/chat/completions", body, headers)
with urllib.request.urlopen(request, timeout=60) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"], answer.headers["x-promptweir-layer"])
"""
"""A program that knows nothing of promptweir and asks OpenAI one question."""
