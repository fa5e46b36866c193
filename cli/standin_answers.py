"""What the provider stand-in says: a pure function of what a request means.

Goals: the same question gets the same answer in every dialect, streamed or not, in any session, directory or home, and
a different question gets a different one.  So each answer carries a short digest of everything that could have changed
a real model's mind; a reply served to the wrong request is seen by comparing it with ``answer_text(request)``.

Plan: ``meaning`` drops what only identifies (ids, sessions, cache hints), renames the machine's paths and clocks, and
the digest is taken over the rest.  ``plan_of`` then acts a little like a coding agent's model: it reads the file that
the prompt names through whatever tool can read, and answers once the tool's result is there.

What this module does not do: it makes no ids, knows no wire format and keeps nothing between calls.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from promptweir.cli.standin_asks import (
    Ask,
    Json,
    Tool,
    as_list,
    as_map,
    as_text,
    read_ask,
    texts_of,
)

MAX_TOOL_RESULTS = 12  # a conversation with more gets words only: no client is kept in a loop for ever
MAX_ECHO_CHARS = 60
MAX_SCHEMA_DEPTH = 12

_IDENTITY = frozenset({
    "metadata", "user", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "client_metadata", "store",
    "service_tier", "stream", "stream_options", "previous_response_id", "id", "tool_use_id", "call_id",
    "tool_call_id", "internal_chat_message_metadata_passthrough", "status", "signature", "encrypted_content",
    "thoughtSignature",
})  # fmt: skip
"""Fields that name a caller, a session or an earlier message rather than say something."""

_CONTENT = frozenset({"args", "input", "response", "arguments", "schema"})
"""Below these, when they hold an object, every field is the model's or a tool's own."""

_BILLING = "x-anthropic-billing-header:"
_CWD = re.compile(
    r"(?:Primary working directory|Current working directory|Working directory): (/[^\n]*)"
    r"|<cwd>(/[^<]*)</cwd>|Workspace Directories:\*\*\n\s*- (/[^\n]*)"
)
_HOME = re.compile(r"(/[^\n`<>\"']*?)/\.(?:claude|codex|gemini|copilot)/")
_RENAMES = (
    (re.compile(r"(/\.gemini/tmp/)[^/\s`]+"), r"\1PROJECT"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"(<current_datetime>\d{4}-\d\d-\d\d)[^<]*"), r"\1"),
    (re.compile(r'"chunk_id":"[0-9a-f]{6}","wall_time_seconds":[0-9.e-]+'), "CHUNK"),
    (re.compile(r"(Wall time:?) [0-9.]+ ?s(?:econds)?"), r"\1 T"),
)
_FILE = re.compile(r"[\w./-]*\w\.(?:py|md|txt|json|toml|ya?ml|js|ts|go|rs|c|h|sh)\b")
_COMMAND = re.compile(r"\brun `([^`]+)`", re.IGNORECASE)
_NAME = re.compile(r"\b[A-Z][a-z]+\b")

_READERS = ("Read", "read", "read_file", "view")
_SHELLS = ("Bash", "bash", "shell", "shell_command", "exec_command", "run_shell_command")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A call that the stand-in makes."""

    name: str
    arguments: dict[str, Json] = field(default_factory=dict)
    text: str | None = None
    """The free text of a custom tool; its call has no arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole answer before it is put in anybody's wire format."""

    text: str
    tool: ToolUse | None = None
    truncated: bool = False


def answer_text(doc: Json, model: str = "") -> str:
    """Return the text that the stand-in answers to *doc*; *model* where the URL names it rather than the body."""
    return plan_of(read_ask(doc, model)).text


def plan_of(ask: Ask) -> Plan:
    """Decide on the answer to *ask*."""
    mark = digest_of(ask)
    if ask.schema is not None:
        return _shorten(Plan(text=json.dumps(_instance(ask.schema, "answer", mark, ask.schema, 0))), ask)
    tool = _tool_use(ask)
    if tool is not None:
        return Plan(text=f"Let me look ({mark}).", tool=tool)
    subject = _file_of(ask)
    if ask.answered and subject:
        return _shorten(Plan(text=f"I have read {_under(ask, subject)}. Answer {mark}."), ask)
    return _shorten(Plan(text=f"Answer {mark} to: {_echo(ask)}"), ask)


def digest_of(ask: Ask) -> str:
    """Return ten hex digits over all of *ask* that could change a model's answer."""
    packed = json.dumps([ask.model, meaning(ask)], sort_keys=True, ensure_ascii=True).encode()
    return hashlib.blake2b(packed, digest_size=5).hexdigest()


def meaning(ask: Ask) -> Json:
    """Return the request with identities dropped and the machine's own names replaced."""
    doc = {key: value for key, value in ask.doc.items() if key not in _IDENTITY and key != "model"}
    system = [text for key in ("system", "systemInstruction", "instructions") for text in texts_of(ask.doc.get(key))]
    talk = [text for key in ("messages", "input", "contents") for text in texts_of(ask.doc.get(key))]
    renames = list(_machine_names([*system, *talk]))
    return {key: _strip(value, renames, ids=key != "tools") for key, value in doc.items()}


def working_directory(ask: Ask) -> str:
    """Return the directory that the client says it works in, or an empty string."""
    for key in ("system", "systemInstruction", "instructions", "messages", "input", "contents"):
        for text in texts_of(ask.doc.get(key)):
            found = _CWD.search(text)
            if found:
                return next(group for group in found.groups() if group)
    return ""


def _machine_names(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what to replace by what, longest first: the working directory may lie below the home."""
    names: dict[str, str] = {}
    for text in texts:
        for found in _HOME.finditer(text):
            names.setdefault(found.group(1), "HOME")
    for text in texts:
        for found in _CWD.finditer(text):
            cwd = next(group for group in found.groups() if group)
            names[cwd] = "CWD"
            names[re.sub(r"[^A-Za-z0-9]", "-", cwd)] = "CWD-MANGLED"  # Claude Code's folder per project
    yield from sorted(names.items(), key=lambda pair: -len(pair[0]))


def _strip(value: Json, renames: list[tuple[str, str]], *, ids: bool) -> Json:
    if isinstance(value, dict):
        return {
            key: _strip(inner, renames, ids=ids and not (key in _CONTENT and isinstance(inner, dict)))
            for key, inner in value.items()
            if key != "cache_control" and not (ids and key in _IDENTITY)
        }
    if isinstance(value, list):
        return [_strip(inner, renames, ids=ids) for inner in value if not _is_billing(inner)]
    return _rename(value, renames) if isinstance(value, str) else value


def _is_billing(value: Json) -> bool:
    return as_text(as_map(value).get("text")).startswith(_BILLING)


def _rename(text: str, renames: list[tuple[str, str]]) -> str:
    for old, new in renames:
        if old in text:
            text = text.replace(old, new)
    for pattern, replacement in _RENAMES:
        text = pattern.sub(replacement, text)
    return text


def _tool_use(ask: Ask) -> ToolUse | None:
    if ask.choice == "none" or not ask.tools or (ask.answered and ask.choice == "auto"):
        return None
    if ask.results >= MAX_TOOL_RESULTS:
        return None
    by_name = {tool.name: tool for tool in ask.tools}
    if ask.choice != "auto":  # a tool by name, or "any"
        return _call(by_name.get(ask.choice, ask.tools[0]), ask)
    command = _COMMAND.search(ask.prompt)
    shell = next((by_name[name] for name in ("exec", *_SHELLS) if name in by_name), None)
    if command and shell:
        return _call(shell, ask, command=command.group(1))
    if _file_of(ask):
        if "exec" in by_name and by_name["exec"].custom:
            return _call(by_name["exec"], ask)
        reader = next((by_name[name] for name in (*_READERS, *_SHELLS) if name in by_name), None)
        return _call(reader, ask) if reader else None
    wanted = next((tool for tool in ask.tools if _is_named(tool.name, ask.prompt)), None)
    return _call(wanted, ask) if wanted else None


def _is_named(tool: str, prompt: str) -> bool:
    """Whether the prompt holds the last word of a tool's name: "weather" for get_weather."""
    word = re.split(r"[^A-Za-z]+", tool)[-1].lower()
    return len(word) > 3 and word in prompt.lower()


def _call(tool: Tool, ask: Ask, command: str = "") -> ToolUse:
    path = _under(ask, _file_of(ask) or "README.md")
    command = command or f'cat "{path}"'  # a path may hold blanks
    if tool.custom:
        script = f"const r = await tools.exec_command({{cmd: {json.dumps(command)}}}); text(r);"
        return ToolUse(name=tool.name, text=script)
    required = as_list(tool.schema.get("required"))
    arguments: dict[str, Json] = {}
    for name, schema in as_map(tool.schema.get("properties")).items():
        kind = as_map(schema).get("type")
        if name in ("cmd", "command"):
            arguments[name] = ["bash", "-lc", command] if kind == "array" else command
        elif name in ("file_path", "filePath", "absolute_path", "path"):
            arguments[name] = path
        elif name == "description":
            arguments[name] = f"Show {path.rsplit('/', 1)[-1]}"
        elif name in required:
            arguments[name] = _argument(schema, name, ask, tool)
    return ToolUse(name=tool.name, arguments=arguments)


def _argument(schema: Json, name: str, ask: Ask, tool: Tool) -> Json:
    value = _instance(schema, name, digest_of(ask), dict(tool.schema), 0)
    if isinstance(value, str) and "enum" not in as_map(schema):
        names = _NAME.findall(ask.prompt)
        return names[-1] if names else "example"  # "What is the weather in Paris?"
    return value


def _file_of(ask: Ask) -> str:
    found = _FILE.search(ask.prompt)
    return found.group(0) if found else ""


def _under(ask: Ask, name: str) -> str:
    cwd = working_directory(ask)
    return name if name.startswith("/") or not cwd else f"{cwd}/{name}"


def _echo(ask: Ask) -> str:
    lines = [line.strip() for line in ask.prompt.splitlines() if line.strip() and not line.lstrip().startswith("<")]
    return _rename(lines[-1] if lines else "nothing", [])[:MAX_ECHO_CHARS]


def _shorten(plan: Plan, ask: Ask) -> Plan:
    """Cut the text where the request allows fewer words than it has; a word stands for a token."""
    words = plan.text.split(" ")
    if ask.max_tokens is None or len(words) <= ask.max_tokens:
        return plan
    return Plan(text=" ".join(words[: max(1, ask.max_tokens)]), truncated=True)


def _instance(schema: Json, name: str, mark: str, root: Json, depth: int) -> Json:
    """Return a value that fits a JSON schema; its strings carry *mark*."""
    shape = as_map(schema)
    if depth > MAX_SCHEMA_DEPTH:
        return None
    if "const" in shape:
        return shape["const"]
    choices = as_list(shape.get("enum"))
    if choices:
        return choices[int(mark, 16) % len(choices)]
    reference = as_text(shape.get("$ref"))
    if reference.startswith("#/"):
        target: Json = root
        for part in reference[2:].split("/"):
            target = as_map(target).get(part)
        return _instance(target, name, mark, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        options = as_list(shape.get(key))
        if options:
            return _instance(options[0], name, mark, root, depth + 1)
    kinds = as_list(shape.get("type")) or [shape.get("type")]
    kind = as_text(kinds[0]).lower() or ("object" if "properties" in shape else "string")
    match kind:
        case "object":
            fields = as_map(shape.get("properties"))
            needed = as_list(shape.get("required")) or list(fields)
            return {key: _instance(fields[key], key, mark, root, depth + 1) for key in fields if key in needed}
        case "array":
            count = shape.get("minItems")
            item = _instance(shape.get("items"), name, mark, root, depth + 1)
            return [item] * (count if isinstance(count, int) else 1)
        case "integer" | "number":
            return shape.get("minimum", 1)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return f"{name} {mark}"
