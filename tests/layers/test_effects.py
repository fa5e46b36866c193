"""What tool calls of real agents do: nothing, read, or change something."""

import json

import pytest

from promptweir.layers.contract import ToolCall
from promptweir.layers.effects import MAX_COMMAND_CHARS, Effect, effect_of


def call(name: str, arguments: object) -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(id="1", name=name, arguments=text)


READING: list[tuple[str, str, object]] = [
    ("Claude Code", "Read", {"file_path": "/srv/x"}),
    ("Claude Code", "Glob", {"pattern": "**/*.py"}),
    ("Claude Code", "Grep", {"pattern": "x"}),
    ("Claude Code", "LS", {"path": "/srv"}),
    ("Claude Code", "WebFetch", {"url": "https://x.example", "prompt": "?"}),
    ("Claude Code", "WebSearch", {"query": "x"}),
    ("Claude Code", "ToolSearch", {"query": "x"}),
    ("Claude Code", "BashOutput", {"bash_id": "1"}),
    ("Claude Code", "Bash", {"command": "git status && ls", "description": "Look around"}),
    ("MCP", "mcp__github__get_issue", {"number": 1}),
    ("MCP", "mcp__github__list_issues", {}),
    ("Codex", "shell", {"command": ["bash", "-lc", "rg -n foo | head"]}),
    ("Codex", "shell", {"command": ["/bin/zsh", "-lc", "ls"]}),
    ("Codex", "shell", {"command": ["ls", "-la"], "workdir": "/srv"}),
    ("Codex", "exec_command", {"cmd": "sed -n '1,200p' x.py", "workdir": "/srv"}),
    ("Codex", "functions.exec_command", {"cmd": "ls"}),
    ("Codex", "view_image", {"path": "x.png"}),
    ("Codex", "exec", 'const r = await tools.exec_command({cmd:"cat x.py", max_output_tokens:2000}); text(r.output);'),
    ("Codex", "exec", 'await tools.exec_command({"cmd": "ls"}); await tools.exec_command({ cmd : "git status" })'),
    ("Gemini CLI", "run_shell_command", {"command": "ls", "description": "x"}),
    ("Gemini CLI", "read_file", {"absolute_path": "/srv/x"}),
    ("Gemini CLI", "read_many_files", {"paths": ["*"]}),
    ("Gemini CLI", "list_directory", {"path": "/srv"}),
    ("Gemini CLI", "search_file_content", {"pattern": "x"}),
    ("Gemini CLI", "google_web_search", {"query": "x"}),
    ("Gemini CLI", "web_fetch", {"prompt": "x"}),
    ("OpenCode", "read", {"filePath": "/srv/x"}),
    ("OpenCode", "list", {"path": "/srv"}),
    ("OpenCode", "bash", {"command": "cat x", "description": "x"}),
    ("Copilot", "view", {"path": "/srv/x"}),
    ("Copilot", "bash", {"command": "git --no-pager log -3", "sessionId": "main", "async": False}),
    ("Copilot", "read_bash", {"sessionId": "main"}),
    ("an SDK's example", "get_weather", {"city": "Rome"}),
    ("an SDK's example", "check_weather", {"city": "Rome"}),
]
MUTATING: list[tuple[str, str, object]] = [
    ("Claude Code", "Bash", {"command": "rm -rf build"}),
    ("Claude Code", "Bash", {"command": "cat x > y"}),
    ("Claude Code", "Edit", {"file_path": "/srv/x", "old_string": "a", "new_string": "b"}),
    ("Claude Code", "MultiEdit", {"file_path": "/srv/x"}),
    ("Claude Code", "Write", {"file_path": "/srv/x", "content": ""}),
    ("Claude Code", "NotebookEdit", {"notebook_path": "/srv/x"}),
    ("Claude Code", "Task", {"prompt": "do it"}),
    ("Claude Code", "Agent", {"prompt": "do it"}),
    ("Claude Code", "KillShell", {"shell_id": "1"}),
    ("Claude Code", "TodoWrite", {"todos": []}),
    ("MCP", "mcp__github__create_issue", {}),
    ("MCP", "mcp__fs__move_file", {}),
    ("Codex", "shell", {"command": ["bash", "-lc", "ls; rm x"]}),
    ("Codex", "shell", {"command": ["bash", "-lc", "ls", "x"]}),
    ("Codex", "shell", {"command": ["python", "x.py"]}),
    ("Codex", "shell", {"command": []}),
    ("Codex", "shell", {"command": ["ls", 1]}),
    ("Codex", "shell", {"command": None}),
    ("Codex", "shell", {}),
    ("Codex", "shell", {"command": "ls", "cmd": "rm x"}),
    ("Codex", "shell", '{"command": "ls", "cmd": "rm x"'),
    ("Codex", "shell", "[]"),
    ("Codex", "shell", '"ls"'),
    ("Codex", "apply_patch", "*** Begin Patch\n*** End Patch"),
    ("Codex", "write_stdin", {"session_id": 1, "chars": "y"}),
    ("Codex", "update_plan", {"plan": []}),
    ("Codex", "exec", 'await tools.apply_patch("*** Begin Patch");'),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls"}); await tools.apply_patch({x:1})'),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls"}); await tools["apply_patch"]("x")'),
    ("Codex", "exec", 'const t = tools; await tools.exec_command({cmd:"ls"}); t.apply_patch("x")'),
    ("Codex", "exec", "await tools.exec_command({cmd: command})"),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls " + evil})'),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls", cmd:"rm x"})'),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls", ["c"+"md"]:"rm x", ...more})'),
    ("Codex", "exec", 'await tools.exec_command({xcmd:"ls", cmd:`rm x`})'),
    ("Codex", "exec", 'await tools.exec_command({cmd:"ls \\u003e x"})'),
    ("Codex", "exec", 'text("nothing")'),
    ("Gemini CLI", "run_shell_command", {"command": "npm install"}),
    ("Gemini CLI", "replace", {"file_path": "/srv/x"}),
    ("Gemini CLI", "write_file", {"file_path": "/srv/x"}),
    ("Gemini CLI", "save_memory", {"fact": "x"}),
    ("OpenCode", "edit", {"filePath": "/srv/x"}),
    ("OpenCode", "patch", {}),
    ("OpenCode", "task", {}),
    ("Copilot", "create", {"path": "/srv/x"}),
    ("Copilot", "str_replace_editor", {"command": "view"}),
    ("Copilot", "stop_bash", {}),
    ("Trae", "search_replace", {}),
    ("Roo", "search_and_replace", {}),
    ("an ORM", "get_or_create_user", {}),
    ("a VCS", "check_out_branch", {}),
    ("a VCS", "check_in_file", {}),
    ("a database", "query_database", {"sql": "DELETE FROM x"}),
    ("anything", "", {}),
    ("anything", "unheard_of", {}),
]


@pytest.mark.parametrize(("agent", "name", "arguments"), READING)
def test_a_tool_call_that_only_reads(agent: str, name: str, arguments: object) -> None:
    assert effect_of([call(name, arguments)]) is Effect.READ_ONLY, agent


@pytest.mark.parametrize(("agent", "name", "arguments"), MUTATING)
def test_a_tool_call_that_may_change_something(agent: str, name: str, arguments: object) -> None:
    assert effect_of([call(name, arguments)]) is Effect.MUTATING, agent


def test_no_call_has_no_effect_and_the_worst_of_many_counts() -> None:
    read, write = call("Read", {}), call("Write", {})

    assert effect_of([]) is Effect.NONE
    assert effect_of([read, read]) is Effect.READ_ONLY
    assert effect_of([read, write, read]) is Effect.MUTATING


def test_a_command_too_long_to_be_read_counts_as_mutating() -> None:
    fits, long = ({"command": "ls " + "x" * size} for size in (MAX_COMMAND_CHARS - 40, MAX_COMMAND_CHARS))

    assert effect_of([call("Bash", fits)]) is Effect.READ_ONLY
    assert effect_of([call("Bash", long)]) is Effect.MUTATING


def test_arguments_nested_too_deeply_count_as_mutating() -> None:
    assert effect_of([call("Bash", "[" * 4000)]) is Effect.MUTATING
