"""Read a request of any dialect into what a model would see of it.

Goal: one reader for the four request shapes, tolerant of every field it does not know.  The shapes are told apart by
their own field names (``messages``, ``input``, ``contents``), so a body can be read without its URL.

What this module does not do: it validates nothing; a field of a wrong type reads as absent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

type Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""A decoded JSON value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the client offers."""

    name: str
    schema: Mapping[str, Json]
    custom: bool = False
    """Takes free text instead of JSON arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, understood."""

    doc: Mapping[str, Json]
    model: str
    prompt: str
    """The last thing that the user said; the client's own reminders around it are left out where they are marked."""
    answered: bool
    """A tool's result follows the prompt."""
    results: int
    """Tool results in the whole conversation."""
    tools: tuple[Tool, ...]
    choice: str
    """``auto``, ``none``, ``any``, or the name of the tool that must be called."""
    schema: Json
    """The JSON schema that the answer has to fit, if any."""
    max_tokens: int | None


def as_map(value: Json) -> Mapping[str, Json]:
    """Return *value* if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """Return *value* if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Json) -> str:
    """Return *value* if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def texts_of(value: Json) -> Iterator[str]:
    """Yield every string value inside *value*, in order, without recursion: a hostile depth must not end the process."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            yield top
        elif isinstance(top, list):
            stack.extend(reversed(top))
        elif isinstance(top, dict):
            stack.extend(reversed(top.values()))


def read_ask(doc: Json, model: str = "") -> Ask:
    """Read a decoded body; *model* is what the URL says, for the dialects that keep it there."""
    body = as_map(doc)
    turns = _turns(body)
    prompt, answered, results = _conversation(turns)
    return Ask(
        doc=body,
        model=as_text(body.get("model")) or model,
        prompt=prompt,
        answered=answered,
        results=results,
        tools=tuple(_tools(body)),
        choice=_choice(body),
        schema=_schema(body),
        max_tokens=_max_tokens(body),
    )


def _turns(body: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    given = body.get("messages") or body.get("input") or body.get("contents")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [as_map(turn) for turn in as_list(given)]


def _conversation(turns: list[Mapping[str, Json]]) -> tuple[str, bool, int]:
    prompt, answered, results = "", False, 0
    for turn in turns:
        kind, role = as_text(turn.get("type")), as_text(turn.get("role"))
        found = _results_in(turn)
        if found or kind.endswith("_output") or role == "tool":
            answered, results = True, results + max(1, found)
        elif role == "user":
            said = _said(turn)
            if said:
                prompt, answered = said, False
    return prompt, answered, results


def _results_in(turn: Mapping[str, Json]) -> int:
    blocks = [as_map(block) for block in as_list(turn.get("content")) + as_list(turn.get("parts"))]
    return sum(block.get("type") == "tool_result" or "functionResponse" in block for block in blocks)


def _said(turn: Mapping[str, Json]) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    blocks = [as_map(block) for block in as_list(content) + as_list(turn.get("parts"))]
    texts = [as_text(block.get("text")) for block in blocks]
    spoken = [text for text in texts if text.strip() and not text.lstrip().startswith("<system-reminder>")]
    return spoken[-1] if spoken else ""


_SCHEMA_FIELDS = (
    "input_schema",
    "parameters",
    "parametersJsonSchema",
    "parameters_json_schema",  # so google-genai 2.8 writes it
)


def _tools(body: Mapping[str, Json]) -> Iterator[Tool]:
    offered = list(as_list(body.get("tools")))
    for item in as_list(body.get("input")):  # Codex sends its tools as the first input item
        if as_map(item).get("type") == "additional_tools":
            offered.extend(as_list(as_map(item).get("tools")))
    while offered:
        tool = as_map(offered.pop(0))
        nested = as_list(tool.get("functionDeclarations")) or as_list(tool.get("function_declarations"))
        if nested or tool.get("type") == "namespace":
            offered = nested + as_list(tool.get("tools")) + offered
            continue
        tool = as_map(tool.get("function")) or tool
        name = as_text(tool.get("name"))
        custom = tool.get("type") == "custom" and "input_schema" not in tool
        schema = next((tool[key] for key in _SCHEMA_FIELDS if key in tool), None)
        if name and (custom or schema is not None):  # the rest are the provider's own tools
            yield Tool(name=name, schema=as_map(schema), custom=custom)


def _choice(body: Mapping[str, Json]) -> str:
    choice = body.get("tool_choice")
    if isinstance(choice, str):
        return {"required": "any"}.get(choice, choice)
    if isinstance(choice, dict):
        named = as_text(choice.get("name")) or as_text(as_map(choice.get("function")).get("name"))
        return named or as_text(choice.get("type")) or "auto"
    config = as_map(as_map(body.get("toolConfig")).get("functionCallingConfig"))
    return {"ANY": "any", "NONE": "none"}.get(as_text(config.get("mode")), "auto")


def _schema(body: Mapping[str, Json]) -> Json:
    anthropic = as_map(as_map(body.get("output_config")).get("format")) or as_map(body.get("output_format"))
    responses = as_map(as_map(body.get("text")).get("format"))
    chat = as_map(body.get("response_format"))
    gemini = as_map(body.get("generationConfig"))
    found = (
        anthropic.get("schema")
        or responses.get("schema")
        or as_map(chat.get("json_schema")).get("schema")
        or gemini.get("responseJsonSchema")
        or gemini.get("responseSchema")
    )
    if found is None and "json_object" in (chat.get("type"), responses.get("type")):
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    if found is None and gemini.get("responseMimeType") == "application/json":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    return found


def _max_tokens(body: Mapping[str, Json]) -> int | None:
    gemini = as_map(body.get("generationConfig"))
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    found = next((body[name] for name in names if name in body), gemini.get("maxOutputTokens"))
    return found if isinstance(found, int) and not isinstance(found, bool) else None
