"""Requests as a coding agent sends them: tools, system blocks, a conversation of file reads and commands.

Everything is made from a seed, so that each process of a bench makes the same bytes.  What a real client changes with
every request of a new session changes here too: the session's id, and the ``cch`` of Claude Code's billing block.

What it does not do: it is no recording.  Sizes and their shares (tools, system, rest) are those that were measured.
"""

import json
import random
from dataclasses import dataclass
from functools import lru_cache

HOST = "api.anthropic.com"
PATH = "/v1/messages"
KEY = "sk-ant-api03-bench-aaaaaaaaaaaaaaaaaaaa"
SIZES = (2_000, 50_000, 500_000)

_CWD, _HOME = "/srv/work/shop", "/home/dev"
_SESSION, _CCH, _QUESTION = "00000000-5e55-4000-8000-000000000000", "c0c0c", "q-00000000"
_SALT = "s-00000000"
_TOOLS = 24
_TOOL_CHARS = 35_000
_SYSTEM_CHARS = 11_500
_RESULT_CHARS = 6_000
_WORDS = (
    "the file of each test is read before it may be written so that no change gets lost while a tool runs return value "
    "list path index error command output line number function class import module string pattern search replace "
    "project folder branch commit message user model answer token stream request header body cache entry key"
).split()


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready for the wire."""

    head: bytes
    body: bytes


def request(size: int, number: int, question: int = 0, *, salted: bool = False) -> Request:
    """Return request *number* of about *size* bytes: a new session that asks *question*.

    With *salted*, every block of it is new as well, as after a change of tools and instructions.
    """
    session = f"{number:08x}{_SESSION[8:]}"
    body = (
        _template(size)
        .replace(_SESSION.encode(), session.encode())
        .replace(_CCH.encode(), f"{number & 0xFFFFF:05x}".encode())
        .replace(_QUESTION.encode(), f"q-{question:08x}".encode())
    )
    if salted:
        body = body.replace(_SALT.encode(), f"s-{question:08x}".encode())
    return Request(_head(session, len(body)), body)


def _head(session: str, length: int) -> bytes:
    lines = (
        f"POST {PATH}?beta=true HTTP/1.1",
        f"Host: {HOST}",
        "Connection: keep-alive",
        "Accept: application/json",
        "X-Stainless-Retry-Count: 0",
        "X-Stainless-Timeout: 600",
        "X-Stainless-Lang: js",
        "X-Stainless-Package-Version: 0.70.0",
        "X-Stainless-OS: Linux",
        "X-Stainless-Arch: x64",
        "X-Stainless-Runtime: node",
        "X-Stainless-Runtime-Version: v24.3.0",
        "anthropic-dangerous-direct-browser-access: true",
        "anthropic-version: 2023-06-01",
        f"x-api-key: {KEY}",
        "x-app: cli",
        f"x-claude-code-session-id: {session}",
        "User-Agent: claude-cli/2.1.197 (external, sdk-cli)",
        "Content-Type: application/json",
        "anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
        "accept-language: *",
        "Accept-Encoding: gzip, deflate, br, zstd",
        f"Content-Length: {length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@lru_cache(maxsize=8)
def _template(size: int) -> bytes:
    rng = random.Random(size)
    body: dict[str, object] = {
        "model": "claude-sonnet-4-5-20250929",
        "messages": [],
        "system": _system(rng, small=size < 10_000),
        "tools": [] if size < 10_000 else [_tool(rng, index) for index in range(_TOOLS)],
        "metadata": {
            "user_id": json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": _SESSION}),
        },
        "max_tokens": 32_000,
        "thinking": {"budget_tokens": 31_999, "type": "enabled"},
        "stream": True,
    }
    messages: list[object] = [_user_text(f"{_prose(rng, 300)} {_SALT}")]
    turn = 0
    while (room := size - len(_dumped({**body, "messages": messages}))) > _RESULT_CHARS // 2:
        messages += _turn(rng, turn, min(_RESULT_CHARS, room))
        turn += 1
    filler = max(20, size - len(_dumped({**body, "messages": messages})) - 120)
    messages.append(_user_text(f"{_prose(rng, filler)} {_QUESTION} {_SALT}", hint=True))
    return _dumped({**body, "messages": messages})


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _system(rng: random.Random, *, small: bool) -> list[object]:
    hint = {"cache_control": {"type": "ephemeral"}}
    blocks: list[object] = [
        {
            "type": "text",
            "text": f"x-anthropic-billing-header: cc_version=2.1.197.abc; cc_entrypoint=sdk-cli; cch={_CCH};",
        },
        {"type": "text", "text": "You are a coding agent that works in a terminal.", **hint},
    ]
    if small:
        return blocks
    mangled = _CWD.replace("/", "-")
    environment = (
        f"# Memory\nKeep notes in `{_HOME}/.claude/projects/{mangled}/memory/`.\n# Environment\n"
        f" - Primary working directory: {_CWD}\n - Is a git repository: true\n - Platform: linux\n{_SALT}\n"
        "gitStatus: Current branch: main\nStatus:\nM README.md\nRecent commits:\nabc1234 Start\n"
    )
    return [
        *blocks,
        {"type": "text", "text": f"{_prose(rng, _SYSTEM_CHARS)}\n{_SALT}", **hint},
        {"type": "text", "text": environment, **hint},
    ]


def _tool(rng: random.Random, index: int) -> object:
    properties = {
        f"argument_{number}": {"description": _prose(rng, 90), "type": rng.choice(["string", "number", "boolean"])}
        for number in range(rng.randint(2, 7))
    }
    return {
        "name": f"Tool{index}",
        "description": f"{_prose(rng, _TOOL_CHARS // _TOOLS - 1_030)} {_SALT}",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": list(properties)[:2],
            "additionalProperties": False,
        },
    }


def _user_text(text: str, *, hint: bool = False) -> object:
    block: dict[str, object] = {"type": "text", "text": text}
    if hint:
        block["cache_control"] = {"type": "ephemeral"}
    return {"role": "user", "content": [block]}


def _turn(rng: random.Random, turn: int, chars: int) -> list[object]:
    """Return a tool call and its result, in turn a file that is read and a command that is run."""
    name = f"toolu_01{turn:022d}"
    if turn % 2:
        use: dict[str, object] = {"name": "Bash", "input": {"command": f"cd {_CWD} && ls -la src/{turn}"}}
    else:
        use = {"name": "Read", "input": {"file_path": f"{_CWD}/src/module_{turn}.py"}}
    result = f"{_CWD}/src/module_{turn}.py {_SALT}\n{_listing(rng, chars - 550)}"
    return [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": _prose(rng, 120)},
                {"type": "tool_use", "id": name, **use},
            ],
        },
        {"role": "user", "content": [{"tool_use_id": name, "type": "tool_result", "content": result}]},
    ]


def _prose(rng: random.Random, chars: int) -> str:
    words: list[str] = []
    length = 0
    while length < chars:
        word = rng.choice(_WORDS)
        words.append(word + rng.choice(["", "", "", "", "", ",", ".", ".\n", ' ("' + word + '")']))
        length += len(words[-1]) + 1
    return " ".join(words)[:chars]


def _listing(rng: random.Random, chars: int) -> str:
    lines: list[str] = []
    length = 0
    while length < chars:
        lines.append(f'{len(lines) + 1:>6}\t    {rng.choice(_WORDS)}_{rng.choice(_WORDS)} = "{_prose(rng, 30)}"')
        length += len(lines[-1]) + 1
    return "\n".join(lines)[:chars]


def answer(number: int = 0) -> bytes:
    """Return a streamed answer as Anthropic sends it: some text and a tool call."""
    rng = random.Random(number)
    message: dict[str, object] = {
        "id": f"msg_01{number:022d}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 12_000, "output_tokens": 1},
    }
    call = {"type": "tool_use", "id": f"toolu_01{number:022d}", "name": "Read", "input": {}}
    arguments = json.dumps({"file_path": f"{_CWD}/src/module.py"})
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(_delta(0, {"type": "text_delta", "text": _prose(rng, 24)}) for _ in range(12)),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": call},
        *(_delta(1, {"type": "input_json_delta", "partial_json": piece}) for piece in (arguments[:9], arguments[9:])),
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 80},
        },
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), _dumped(event)) for event in events)


def _delta(index: int, delta: dict[str, str]) -> dict[str, object]:
    return {"type": "content_block_delta", "index": index, "delta": delta}
