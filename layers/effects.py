"""What running a model's tool call would do: nothing, read, or change something.

A replayed answer may contain tool calls, and the client will run them.  ``effect_of`` types an answer by its worst
call.  Names decide for named tools; a shell command is read word by word (see ``shell``), and whatever is not known to
only read counts as mutating.
"""

import json
import re
from collections.abc import Iterable
from enum import StrEnum

from promptweir.layers.contract import ToolCall
from promptweir.layers.shell import command_reads, line_reads


class Effect(StrEnum):
    """The worst that an answer's tool calls do."""

    NONE = "none"
    READ_ONLY = "read-only"
    MUTATING = "mutating"


MAX_COMMAND_CHARS = 4096
_SHELLS = frozenset({"bash", "sh", "zsh"})

_READING_TOOLS = frozenset(
    "read glob grep ls list view cat search find fetch websearch webfetch web_search web_fetch google_web_search read_file "
    "read_many_files list_directory list_dir list_files glob_files search_file_content grep_search file_search "
    "codebase_search view_image todoread toolsearch tool_search notebookread lsp skill task_output bashoutput read_bash "
    "list_bash".split()
)
_READING_PREFIXES = (
    "get_",
    "list_",
    "search_",
    "read_",
    "find_",
    "describe_",
    "show_",
    "count_",
    "lookup_",
    "check_",
    "view_",
)
_CHANGING_WORDS = frozenset(
    "add and apply clear create delete drop edit execute in insert modify move or out patch post put remove rename replace "
    "reset run save send set update upsert write".split()
)
"""``search_replace`` and ``get_or_create`` do not only read."""
_SHELL_TOOLS = frozenset(
    {
        "bash",
        "shell",
        "shell_command",
        "exec_command",
        "run_shell_command",
        "local_shell",
        "run_command",
        "terminal",
        "execute_command",
        "exec",
    }
)
_CODEX_EXEC = re.compile(r"tools\.(\w+)\s*\(\s*\{([^{}]*)\}\s*\)")
_CODEX_COMMAND = re.compile(r"(?<![\w.])[\"']?cmd[\"']?\s*:\s*(\"(?:[^\"\\\n]|\\.)*\")\s*(?=,|$)")


def effect_of(calls: Iterable[ToolCall]) -> Effect:
    """Return the worst effect among *calls*."""
    worst = Effect.NONE
    for call in calls:
        if not _reads(call):
            return Effect.MUTATING
        worst = Effect.READ_ONLY
    return worst


def _reads(call: ToolCall) -> bool:
    name = call.name.rsplit("__", 1)[-1].rsplit(".", 1)[-1].lower()
    if name in _SHELL_TOOLS:
        return len(call.arguments) <= MAX_COMMAND_CHARS and _shell_reads(call.arguments)
    return name in _READING_TOOLS or (
        name.startswith(_READING_PREFIXES) and _CHANGING_WORDS.isdisjoint(name.split("_"))
    )


def _shell_reads(arguments: str) -> bool:
    """Tell whether a shell tool's call only reads; False where its command cannot be told."""
    try:
        decoded = json.loads(arguments)
    except (ValueError, RecursionError):
        return _script_reads(arguments)
    if not isinstance(decoded, dict) or ("command" in decoded) == ("cmd" in decoded):
        return False
    match decoded.get("command", decoded.get("cmd")):
        case str() as line:
            return line_reads(line)
        case [str() as shell, "-c" | "-lc", str() as line] if shell.rsplit("/", 1)[-1] in _SHELLS:
            return line_reads(line)
        case [str(), *_] as words:
            return all(isinstance(word, str) for word in words) and command_reads([str(word) for word in words])
        case _:
            return False


def _script_reads(script: str) -> bool:
    """Codex's JavaScript: every use of ``tools`` must be an ``exec_command`` with one literal command."""
    calls = _CODEX_EXEC.findall(script)
    return (
        bool(calls)
        and len(re.findall(r"\btools\b", script)) == len(calls)
        and all(tool == "exec_command" and _literal_reads(body) for tool, body in calls)
    )


def _literal_reads(body: str) -> bool:
    found = _CODEX_COMMAND.findall(body)
    if len(found) != 1 or body.count("cmd") != 1 + found[0].count("cmd") or "..." in body:
        return False
    try:
        return line_reads(str(json.loads(found[0])))
    except ValueError:
        return False
