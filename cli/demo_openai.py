"""The demo's calls to OpenAI: Chat Completions, Responses, embeddings.

What this module does not do: it runs nothing by itself; see ``demo_workload``.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import openai

from promptweir.cli import demo_parts as parts
from promptweir.cli.demo_calls import Recorder

if TYPE_CHECKING:
    from openai.types.chat import (
        ChatCompletionChunk,
        ChatCompletionMessageParam,
        ChatCompletionToolParam,
    )
    from openai.types.responses import FunctionToolParam, ParsedResponse, ResponseInputParam

MODEL = "gpt-4o-mini"
OTHER_MODELS = ("gpt-4.1-mini", "gpt-4.1-nano")
RESPONSES_MODEL = "gpt-5-mini"
EMBEDDING_MODEL = "text-embedding-3-small"
CHAT_TOOL: "ChatCompletionToolParam" = {
    "type": "function",
    "function": {"name": parts.TOOL, "description": parts.TOOL_DOES, "parameters": parts.TOOL_PARAMETERS},
}
RESPONSES_TOOL: "FunctionToolParam" = {
    "type": "function",
    "name": parts.TOOL,
    "description": parts.TOOL_DOES,
    "parameters": parts.TOOL_PARAMETERS,
    "strict": True,
}
CAPITAL = "What is the capital of France?"


def scenarios(take: Recorder, client: openai.OpenAI) -> Iterable[Callable[[], None]]:
    """Return the scenarios; within one, later calls build on earlier ones."""
    return (
        lambda: _chat(take, client),
        lambda: _chat_tools(take, client),
        lambda: _chat_tools_streamed(take, client),
        lambda: _chat_structured(take, client),
        lambda: _embeddings(take, client),
        lambda: _responses(take, client),
        lambda: _responses_tools(take, client),
        lambda: _responses_structured(take, client),
    )


def probes(take: Recorder, client: openai.OpenAI, round_: int) -> None:
    """Ask what was asked before, but for one thing."""
    chat = client.chat.completions
    model, temperature = OTHER_MODELS[round_], parts.OTHER_TEMPERATURES[round_]
    take.take("openai chat, other model", lambda: chat.create(model=model, messages=[_user(CAPITAL)]), probe=True)
    take.take(
        "openai chat, other temperature",
        lambda: chat.create(model=MODEL, messages=[_user(CAPITAL)], temperature=temperature),
        probe=True,
    )
    take.take(
        "openai chat, other tools",
        lambda: chat.create(model=MODEL, messages=[_user(parts.WEATHER)], tools=[_other_tool(round_)]),
        probe=True,
    )
    take.take(
        "openai responses, other instructions",
        lambda: client.responses.create(
            model=RESPONSES_MODEL, input=CAPITAL, instructions=f"Answer in verse number {round_ + 1}."
        ),
        probe=True,
    )


async def calls_async(take: Recorder, client: openai.AsyncOpenAI) -> None:
    """Make the async calls."""

    async def streamed() -> "list[ChatCompletionChunk]":
        answer = await client.chat.completions.create(
            model=MODEL, messages=[_user("Name a river in Asia.")], stream=True
        )
        return [chunk async for chunk in answer]

    await take.take_async(
        "openai chat, async",
        lambda: client.chat.completions.create(model=MODEL, messages=[_user("Name a river in Europe.")]),
    )
    await take.take_async("openai chat, async and streamed", streamed)
    await take.take_async(
        "openai responses, async",
        lambda: client.responses.create(model=RESPONSES_MODEL, input="Name a river in Africa."),
    )


def cheap(take: Recorder, client: openai.OpenAI, round_: int) -> None:
    """Make the few calls for which somebody pays."""
    chat = client.chat.completions
    take.take("openai chat", lambda: chat.create(model=MODEL, messages=[_user(parts.SHORT)]))
    take.take(
        "openai chat, streamed",
        lambda: list(chat.create(model=MODEL, messages=[_user(parts.SHORT_STREAMED)], stream=True)),
    )
    _chat_tools(take, client)
    take.take("openai embeddings", lambda: client.embeddings.create(model=EMBEDDING_MODEL, input="A weir."))
    take.take(
        "openai chat, other temperature",
        lambda: chat.create(model=MODEL, messages=[_user(parts.SHORT)], temperature=parts.OTHER_TEMPERATURES[round_]),
        probe=True,
    )


def _user(text: str) -> "ChatCompletionMessageParam":
    return {"role": "user", "content": text}


def _other_tool(round_: int) -> "ChatCompletionToolParam":
    function = CHAT_TOOL["function"]
    return {"type": "function", "function": {**function, "description": f"{parts.TOOL_DOES} Version {round_ + 2}."}}


def _chat(take: Recorder, client: openai.OpenAI) -> None:
    chat = client.chat.completions
    take.take("openai chat", lambda: chat.create(model=MODEL, messages=[_user(CAPITAL)]))
    system: ChatCompletionMessageParam = {"role": "system", "content": "You are terse."}
    take.take(
        "openai chat, system prompt",
        lambda: chat.create(model=MODEL, messages=[system, _user("Why is the sky blue?")], temperature=0.2),
    )
    take.take(
        "openai chat, streamed",
        lambda: list(chat.create(model=MODEL, messages=[_user("Tell me about weirs.")], stream=True)),
    )
    take.take(
        "openai chat, streamed with usage",
        lambda: list(
            chat.create(
                model=MODEL,
                messages=[_user("Tell me about dams.")],
                stream=True,
                stream_options={"include_usage": True},
            )
        ),
    )
    image: ChatCompletionMessageParam = {
        "role": "user",
        "content": [
            {"type": "text", "text": parts.LOOK},
            {"type": "image_url", "image_url": {"url": parts.picture_url(parts.RED)}},
        ],
    }
    take.take("openai chat, image", lambda: chat.create(model=MODEL, messages=[image]))


def _chat_tools(take: Recorder, client: openai.OpenAI) -> None:
    chat = client.chat.completions
    question = _user(parts.WEATHER)
    first = take.take(
        "openai chat, tool call", lambda: chat.create(model=MODEL, messages=[question], tools=[CHAT_TOOL])
    )
    calls = first.choices[0].message.tool_calls or ()
    call = next((call for call in calls if call.type == "function"), None)
    if call is None:
        return
    turns = [question, *_tool_turns(call.id, call.function.name, call.function.arguments)]
    take.take("openai chat, tool result", lambda: chat.create(model=MODEL, messages=turns, tools=[CHAT_TOOL]))


def _chat_tools_streamed(take: Recorder, client: openai.OpenAI) -> None:
    chat = client.chat.completions
    question = _user(parts.WEATHER_STREAMED)
    first = take.take(
        "openai chat, streamed tool call",
        lambda: list(chat.create(model=MODEL, messages=[question], tools=[CHAT_TOOL], stream=True)),
    )
    id_ = name = arguments = ""
    for chunk in first:
        for piece in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            id_ += piece.id or ""
            if piece.function:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
    turns = [question, *_tool_turns(id_, name, arguments)]
    take.take(
        "openai chat, streamed tool result",
        lambda: list(chat.create(model=MODEL, messages=turns, tools=[CHAT_TOOL], stream=True)),
    )


def _tool_turns(id_: str, name: str, arguments: str) -> "tuple[ChatCompletionMessageParam, ChatCompletionMessageParam]":
    return (
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": id_, "content": parts.FORECAST},
    )


def _chat_structured(take: Recorder, client: openai.OpenAI) -> None:
    take.take(
        "openai chat, structured",
        lambda: client.chat.completions.parse(
            model=MODEL, messages=[_user("Describe Vienna.")], response_format=parts.City
        ),
    )


def _embeddings(take: Recorder, client: openai.OpenAI) -> None:
    embeddings = client.embeddings
    take.take("openai embeddings", lambda: embeddings.create(model=EMBEDDING_MODEL, input="A weir in a river."))
    take.take(
        "openai embeddings, two texts",
        lambda: embeddings.create(model=EMBEDDING_MODEL, input=["A weir.", "A river."], dimensions=64),
    )


def _responses(take: Recorder, client: openai.OpenAI) -> None:
    first = take.take("openai responses", lambda: client.responses.create(model=RESPONSES_MODEL, input=CAPITAL))

    def goes_on() -> "ParsedResponse[None]":
        with client.responses.stream(
            model=RESPONSES_MODEL, input="And of Austria?", previous_response_id=first.id
        ) as stream:
            return stream.get_final_response()

    take.take("openai responses, streamed follow-up", goes_on)
    image: ResponseInputParam = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": parts.LOOK},
                {"type": "input_image", "image_url": parts.picture_url(parts.RED), "detail": "auto"},
            ],
        }
    ]
    take.take(
        "openai responses, image, not stored",
        lambda: client.responses.create(model=RESPONSES_MODEL, input=image, store=False),
    )


def _responses_tools(take: Recorder, client: openai.OpenAI) -> None:
    first = take.take(
        "openai responses, tool call",
        lambda: client.responses.create(model=RESPONSES_MODEL, input=parts.WEATHER, tools=[RESPONSES_TOOL]),
    )
    call = next((item for item in first.output if item.type == "function_call"), None)
    if call is None:
        return
    result: ResponseInputParam = [{"type": "function_call_output", "call_id": call.call_id, "output": parts.FORECAST}]
    take.take(
        "openai responses, tool result",
        lambda: client.responses.create(
            model=RESPONSES_MODEL, input=result, tools=[RESPONSES_TOOL], previous_response_id=first.id
        ),
    )


def _responses_structured(take: Recorder, client: openai.OpenAI) -> None:
    take.take(
        "openai responses, structured",
        lambda: client.responses.parse(model=RESPONSES_MODEL, input="Describe Linz.", text_format=parts.City),
    )
