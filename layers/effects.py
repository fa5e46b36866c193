"""What running a model's tool call would do: nothing, read, or change something.

A replayed answer may contain tool calls, and the client will run them.  ``effect_of`` types an answer by its worst
call.  Names decide for named tools; a shell command is read word by word, and whatever is not known to only read
counts as mutating.
"""

import json
import re
from collections.abc import Iterable
from enum import StrEnum

from promptweir.layers.contract import ToolCall


class Effect(StrEnum):
    """The worst that an answer's tool calls do."""

    NONE = "none"
    READ_ONLY = "read-only"
    MUTATING = "mutating"


MAX_COMMAND_CHARS = 4096

_READING_TOOLS = frozenset(
    "read glob grep ls view cat search find fetch websearch webfetch web_search web_fetch read_file read_many_files "
    "list_directory list_dir list_files glob_files search_file_content grep_search file_search codebase_search "
    "view_image todoread toolsearch tool_search notebookread lsp skill task_output bashoutput read_bash".split()
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
    "query_",
    "check_",
    "view_",
)
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
_READING_COMMANDS = frozenset(
    "cat head tail less more ls tree pwd cd echo printf wc grep egrep fgrep rg ag find fd stat file du df which type whoami "
    "hostname uname date env printenv id ps sort uniq cut tr nl od xxd hexdump strings diff cmp comm basename dirname "
    "realpath readlink sed awk jq yq test true false sleep md5sum sha1sum sha256sum column".split()
)
_READING_GIT = frozenset(
    "status log diff show blame branch rev-parse ls-files ls-tree remote describe shortlog grep cat-file".split()
)
_CHANGING_FLAGS = {
    "find": re.compile(r"-(?:delete|exec|execdir|ok|okdir|fprint\w*|fls)\b"),
    "fd": re.compile(r"-(?:x|X|-exec)"),
    "sed": re.compile(r"(?:^|\s)(?:-[a-zA-Z]*i|--in-place)|[;{}\d/$]\s*[wWeE]\b|(?:^|\s)['\"]?[wWe]\s"),
    "awk": re.compile(r"system|>|\||getline"),
    "sort": re.compile(r"(?:^|\s)(?:-o|--output)"),
    "env": re.compile(r"\S"),
    "branch": re.compile(r"(?:^|\s)-[a-zA-Z-]*[dDmMcCfu]|\s[^-\s]"),
    "remote": re.compile(r"\b(?:add|remove|rm|rename|set-\w+|prune|update)\b"),
    "date": re.compile(r"(?:^|\s)(?:-s|--set)"),
    "hostname": re.compile(r"\S"),
    "yq": re.compile(r"(?:^|\s)-[a-zA-Z]*i"),
}
_HARMLESS_REDIRECTS = re.compile(r"\d?>\s*/dev/null|\d>&\d|<\s*\S+")
_SEPARATORS = re.compile(r"&&|\|\||[;|\n]")
_CODEX_EXEC = re.compile(r"tools\.(\w+)\s*\(\s*\{([^{}]*)\}\s*\)")
_CODEX_COMMAND = re.compile(r"\bcmd\s*:\s*(\"(?:[^\"\\]|\\.)*\")")


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
        commands = _commands_of(call.arguments)
        return bool(commands) and all(_command_reads(command) for command in commands)
    return name in _READING_TOOLS or name.startswith(_READING_PREFIXES)


def _commands_of(arguments: str) -> list[str]:
    """Return the shell commands of a call; empty where they cannot be told."""
    if len(arguments) > MAX_COMMAND_CHARS:
        return []
    try:
        decoded = json.loads(arguments)
    except (ValueError, RecursionError):
        return _script_commands(arguments)
    if not isinstance(decoded, dict):
        return []
    command = decoded.get("command", decoded.get("cmd"))
    match command:
        case str():
            return [command]
        case [str() as shell, str() as flag, str() as text] if shell.rsplit("/", 1)[-1] in {
            "bash",
            "sh",
            "zsh",
        } and flag in {"-c", "-lc"}:
            return [text]
        case list() if all(isinstance(word, str) for word in command):
            return [" ".join(str(word) for word in command)]
        case _:
            return []


def _script_commands(script: str) -> list[str]:
    """Codex's JavaScript: every ``tools.…`` call must be an ``exec_command`` with a literal command."""
    calls = _CODEX_EXEC.findall(script)
    if not calls or script.count("tools.") != len(calls):
        return []
    commands: list[str] = []
    for tool, body in calls:
        literal = _CODEX_COMMAND.search(body)
        if tool != "exec_command" or literal is None:
            return []
        try:
            commands.append(str(json.loads(literal[1])))
        except ValueError:
            return []
    return commands


def _command_reads(command: str) -> bool:
    bare = _HARMLESS_REDIRECTS.sub(" ", command)
    if any(sign in bare for sign in (">", "`", "$(", "<(", "&", "{")) and not _only_and(bare):
        return False
    parts = [part.strip() for part in _SEPARATORS.split(bare) if part.strip()]
    return bool(parts) and all(_part_reads(part) for part in parts)


def _only_and(text: str) -> bool:
    """``&&`` between commands is fine; any other of the signs is not."""
    rest = text.replace("&&", " ")
    return not any(sign in rest for sign in (">", "`", "$(", "<(", "&", "{"))


def _part_reads(part: str) -> bool:
    word, _, rest = part.partition(" ")
    if word == "git":
        options, verb, tail = rest, "", ""
        while options:
            verb, _, tail = options.strip().partition(" ")
            if not verb.startswith("-"):
                break
            if verb not in {"--no-pager", "-P"}:
                return False
            options = tail
        changing = _CHANGING_FLAGS.get(verb)
        return verb in _READING_GIT and not (changing and changing.search(tail)) and "--output" not in tail
    changing = _CHANGING_FLAGS.get(word)
    return word in _READING_COMMANDS and not (changing and changing.search(rest))
