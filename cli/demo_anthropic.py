"""The demo's calls to Anthropic: Messages and token counts.

What this module does not do: it runs nothing by itself; see ``demo_workload``.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import anthropic

from promptweir.cli import demo_parts as parts
from promptweir.cli.demo_calls import Recorder

if TYPE_CHECKING:
    from anthropic.types import Message, MessageParam, ToolParam

MODEL = "claude-haiku-4-5"
MAX_TOKENS = 512
TOOL: "ToolParam" = {
    "name": parts.TOOL,
    "description": parts.TOOL_DOES,
    "input_schema": {**parts.TOOL_PARAMETERS, "type": "object"},
}
TERSE = "You are terse."
WHY_BLUE = "Why is the sky blue?"


def scenarios(take: Recorder, client: anthropic.Anthropic) -> Iterable[Callable[[], None]]:
    """Return the scenarios; within one, later calls build on earlier ones."""
    return (
        lambda: _messages(take, client),
        lambda: _tools(take, client, parts.WEATHER, streamed=False),
        lambda: _tools(take, client, parts.WEATHER_STREAMED, streamed=True),
        lambda: _structured(take, client),
        lambda: _image(take, client),
    )


def probes(take: Recorder, client: anthropic.Anthropic, stranger: anthropic.Anthropic, round_: int) -> None:
    """Ask what was asked before, but for one thing."""
    take.take(
        "anthropic messages, other key",
        lambda: stranger.messages.create(model=MODEL, max_tokens=MAX_TOKENS, system=TERSE, messages=[_user(WHY_BLUE)]),
        probe=True,
    )
    take.take(
        "anthropic messages, other system prompt",
        lambda: client.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            system=f"{TERSE} Use {round_ + 3} words.",
            messages=[_user(WHY_BLUE)],
        ),
        probe=True,
    )
    take.take(
        "anthropic messages, other image",
        lambda: client.messages.create(
            model=MODEL, max_tokens=MAX_TOKENS, messages=[_picture(parts.OTHER_COLOURS[round_])]
        ),
        probe=True,
    )


async def calls_async(take: Recorder, client: anthropic.AsyncAnthropic) -> None:
    """Make the async calls."""

    async def streamed() -> "Message":
        async with client.messages.stream(
            model=MODEL, max_tokens=MAX_TOKENS, messages=[_user("Name a lake in Asia.")]
        ) as stream:
            return await stream.get_final_message()

    await take.take_async(
        "anthropic messages, async",
        lambda: client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=[_user("Name a lake in Europe.")]),
    )
    await take.take_async("anthropic messages, async and streamed", streamed)


def cheap(take: Recorder, client: anthropic.Anthropic, round_: int) -> None:
    """Make the few calls for which somebody pays."""
    create = client.messages.create
    short = [_user(parts.SHORT)]
    take.take("anthropic messages", lambda: create(model=MODEL, max_tokens=MAX_TOKENS, messages=short))
    take.take("anthropic messages, streamed", lambda: _final(client, [_user(parts.SHORT_STREAMED)], []))
    _tools(take, client, parts.WEATHER, streamed=False)
    take.take("anthropic token count", lambda: client.messages.count_tokens(model=MODEL, messages=short))
    take.take(
        "anthropic messages, other system prompt",
        lambda: create(model=MODEL, max_tokens=MAX_TOKENS, messages=short, system=f"You are number {round_}."),
        probe=True,
    )


def _user(text: str) -> "MessageParam":
    return {"role": "user", "content": text}


def _picture(colour: tuple[int, int, int]) -> "MessageParam":
    data = parts.picture_base64(colour)
    return {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
            {"type": "text", "text": parts.LOOK},
        ],
    }


def _final(client: anthropic.Anthropic, messages: "list[MessageParam]", tools: "list[ToolParam]") -> "Message":
    with client.messages.stream(model=MODEL, max_tokens=MAX_TOKENS, messages=messages, tools=tools) as stream:
        return stream.get_final_message()


def _messages(take: Recorder, client: anthropic.Anthropic) -> None:
    take.take(
        "anthropic messages",
        lambda: client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, system=TERSE, messages=[_user(WHY_BLUE)]),
    )
    take.take("anthropic messages, streamed", lambda: _final(client, [_user("Tell me about weirs.")], []))
    talk: list[MessageParam] = [
        _user("Name a mountain."),
        {"role": "assistant", "content": "Triglav."},
        _user("How high is it?"),
    ]
    take.take(
        "anthropic messages, conversation",
        lambda: client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=talk, stop_sequences=["END"]),
    )
    take.take(
        "anthropic token count",
        lambda: client.messages.count_tokens(model=MODEL, system=TERSE, messages=[_user(WHY_BLUE)]),
    )


def _tools(take: Recorder, client: anthropic.Anthropic, text: str, *, streamed: bool) -> None:
    how = "streamed tool" if streamed else "tool"

    def ask(messages: "list[MessageParam]") -> "Message":
        if streamed:
            return _final(client, messages, [TOOL])
        return client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=messages, tools=[TOOL])

    question = _user(text)
    first = take.take(f"anthropic messages, {how} call", lambda: ask([question]))
    use = next((block for block in first.content if block.type == "tool_use"), None)
    if use is None:
        return
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": use.id, "content": parts.FORECAST}],
    }
    turns: list[MessageParam] = [question, {"role": "assistant", "content": first.content}, result]
    take.take(f"anthropic messages, {how} result", lambda: ask(turns))


def _structured(take: Recorder, client: anthropic.Anthropic) -> None:
    # By extra_body: the parameter is younger than the SDKs that the demo supports.
    output = {"output_config": {"format": {"type": "json_schema", "schema": parts.CITY_SCHEMA}}}
    take.take(
        "anthropic messages, structured",
        lambda: client.messages.create(
            model=MODEL, max_tokens=MAX_TOKENS, messages=[_user("Describe Graz.")], extra_body=output
        ),
    )


def _image(take: Recorder, client: anthropic.Anthropic) -> None:
    take.take(
        "anthropic messages, image",
        lambda: client.messages.create(model=MODEL, max_tokens=MAX_TOKENS, messages=[_picture(parts.RED)]),
    )
