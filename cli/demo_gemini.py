"""The demo's calls to Gemini: generateContent, its streams, token counts.

What this module does not do: it runs nothing by itself; see ``demo_workload``.
"""

from collections.abc import Callable, Iterable

from google import genai
from google.genai import types

from promptweir.cli import demo_parts as parts
from promptweir.cli.demo_calls import Recorder

MODEL = "gemini-2.5-flash"
HAIKU = "Write about a weir in few words."


def scenarios(take: Recorder, client: genai.Client) -> Iterable[Callable[[], None]]:
    """Return the scenarios; within one, later calls build on earlier ones."""
    return (
        lambda: _generate(take, client),
        lambda: _tools(take, client),
        lambda: _structured(take, client),
    )


def probes(take: Recorder, client: genai.Client, round_: int) -> None:
    """Ask what was asked before, but for one thing."""
    config = types.GenerateContentConfig(temperature=parts.OTHER_TEMPERATURES[round_])
    take.take(
        "gemini, other temperature",
        lambda: client.models.generate_content(model=MODEL, contents=HAIKU, config=config),
        probe=True,
    )
    take.take(
        "gemini, other image",
        lambda: client.models.generate_content(model=MODEL, contents=[_picture(parts.OTHER_COLOURS[round_])]),
        probe=True,
    )


async def calls_async(take: Recorder, client: genai.Client) -> None:
    """Make the async calls."""

    async def streamed() -> list[types.GenerateContentResponse]:
        answer = await client.aio.models.generate_content_stream(model=MODEL, contents="Name a hill in Asia.")
        return [chunk async for chunk in answer]

    await take.take_async(
        "gemini, async",
        lambda: client.aio.models.generate_content(model=MODEL, contents="Name a hill in Europe."),
    )
    await take.take_async("gemini, async and streamed", streamed)


def _picture(colour: tuple[int, int, int]) -> types.Content:
    image = types.Part.from_bytes(data=parts.picture(colour), mime_type="image/png")
    return types.Content(role="user", parts=[image, types.Part(text=parts.LOOK)])


def _generate(take: Recorder, client: genai.Client) -> None:
    models = client.models
    take.take("gemini", lambda: models.generate_content(model=MODEL, contents=HAIKU))
    terse = types.GenerateContentConfig(system_instruction="You are terse.", temperature=0.1)
    take.take(
        "gemini, system instruction",
        lambda: models.generate_content(model=MODEL, contents="Why is the sky blue?", config=terse),
    )
    take.take(
        "gemini, streamed",
        lambda: list(models.generate_content_stream(model=MODEL, contents="Tell me about weirs.")),
    )
    take.take("gemini, image", lambda: models.generate_content(model=MODEL, contents=[_picture(parts.RED)]))
    take.take("gemini token count", lambda: models.count_tokens(model=MODEL, contents=HAIKU))


def _tools(take: Recorder, client: genai.Client) -> None:
    declared = types.FunctionDeclaration(
        name=parts.TOOL, description=parts.TOOL_DOES, parameters_json_schema=parts.TOOL_PARAMETERS
    )
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    question = types.Content(role="user", parts=[types.Part(text=parts.WEATHER)])
    first = take.take(
        "gemini, tool call", lambda: client.models.generate_content(model=MODEL, contents=[question], config=config)
    )
    answer = first.candidates[0].content if first.candidates else None
    if answer is None:
        return
    result = types.Part.from_function_response(name=parts.TOOL, response={"celsius": 21})
    turns = [question, answer, types.Content(role="user", parts=[result])]
    take.take(
        "gemini, streamed tool result",
        lambda: list(client.models.generate_content_stream(model=MODEL, contents=list(turns), config=config)),
    )


def _structured(take: Recorder, client: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=parts.City)
    take.take(
        "gemini, structured",
        lambda: client.models.generate_content(model=MODEL, contents="Describe Bern.", config=config),
    )
