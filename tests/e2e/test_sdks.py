"""The official SDKs through HTTPS_PROXY: a repeat never reaches the provider, and the object is the same as the first.

The same means: equal in every field but the ids, which are fresh but tied to one another in the same way, and the
moments at which an answer was made.
"""

# The requests are data here; that they fit the SDKs' types is for the SDKs to say, when they take them.
# mypy: disable-error-code="arg-type, list-item, call-overload, index, union-attr, typeddict-item, dict-item"

import asyncio
import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping

import anthropic
import openai
import pydantic
import pytest
from google import genai
from google.genai import types

from promptweir.certs import ca
from promptweir.certs.environment import environment as environment_of
from promptweir.certs.environment import for_child
from promptweir.cli.standin import StandIn
from tests.e2e.counting import Calls
from tests.e2e.harness import Proxy

CLAUDE, GPT, GEMINI, EMBEDDING = "claude-next", "gpt-next", "gemini-next", "embedding-next"
"""None of these exists, so none of them is ever deprecated by an SDK."""
WEATHER = "What is the weather in Paris?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

_IDS = frozenset({"id", "call_id", "item_id", "response_id", "tool_use_id", "tool_call_id"})
_MOMENTS = frozenset({"created", "created_at", "completed_at", "create_time"})
_TRANSPORT = frozenset({"sdk_http_response"})
"""google-genai keeps the answer's headers in its objects."""


class City(pydantic.BaseModel):
    name: str
    country: str


def essence(found: object) -> object:
    """Return *found* (SDK objects) as plain data, its ids replaced by their numbers in order of appearance."""
    numbers: dict[str, int] = {}

    def plain(value: object) -> object:
        match value:
            case pydantic.BaseModel():
                return plain(value.model_dump(mode="json", by_alias=False))
            case Mapping():
                return {
                    name: f"#{numbers.setdefault(inner, len(numbers))}"
                    if name in _IDS and isinstance(inner, str) and inner
                    else plain(inner)
                    for name, inner in value.items()
                    if name not in _MOMENTS and name not in _TRANSPORT
                }
            case str() | int() | float() | None:
                return value
            case Iterable():
                return [plain(inner) for inner in value]
            case _:
                raise AssertionError(f"what is {value!r}?")

    return plain(found)


def png(colour: tuple[int, int, int]) -> bytes:
    """Return a picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" + bytes(colour))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


both = pytest.mark.parametrize("proxy", ["own", "stock"], indirect=True)


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Proxy:
    """Our own Master, and stock mitmdump too in the tests that say ``both``."""
    found: Proxy = request.getfixturevalue(getattr(request, "param", "own"))
    return found


@pytest.fixture(autouse=True)
def environment(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what `promptweir run` sets, but for the public roots: a hundred of them cost each client half a second."""
    for name in ("ALL_PROXY", "all_proxy", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of({}, bundle=proxy.ca, ca=proxy.ca, proxy_url=proxy.url).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def gpt(key: str, environment: None) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(key: str, environment: None) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(key: str, environment: None) -> genai.Client:
    return genai.Client(api_key=key)


# --- OpenAI, chat completions

CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
CHAT_IMAGE = {
    "role": "user",
    "content": [
        {"type": "text", "text": "Which colour?"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + b64encode(png((200, 0, 0))).decode()},
        },
    ],
}
CHATS: dict[str, dict[str, object]] = {
    "text": {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0.3},
    "tools": {"messages": [{"role": "user", "content": WEATHER}], "tools": [CHAT_TOOL]},
    "image": {"messages": [CHAT_IMAGE]},
    "usage": {
        "messages": [{"role": "user", "content": "And the sea?"}],
        "stream_options": {"include_usage": True},
        "stream": True,
    },
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_chat(calls: Calls, gpt: openai.OpenAI, name: str, stream: bool) -> None:
    request = {"model": GPT, **CHATS[name]} | ({"stream": True} if stream or name == "usage" else {})

    def ask() -> object:
        answer = gpt.chat.completions.create(**request)
        return list(answer) if request.get("stream") else answer

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)
    assert ("get_weather" in json.dumps(essence(second))) is (name == "tools")


@both
def test_openai_chat_tool_results_continue_a_replayed_call(calls: Calls, gpt: openai.OpenAI) -> None:
    """The replayed tool call has an id of its own; what builds on it is nevertheless the same conversation."""
    outcomes = []
    for block in (calls.cold, calls.warm):
        messages: list[object] = [{"role": "user", "content": WEATHER}]
        with block(2):
            first = gpt.chat.completions.create(model=GPT, messages=messages, tools=[CHAT_TOOL])
            (call,) = list(first.choices[0].message.tool_calls or [])
            messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
            last = gpt.chat.completions.create(model=GPT, messages=messages, tools=[CHAT_TOOL])
        outcomes.append((call.id, essence([first, last])))

    (first_id, cold), (second_id, warm) = outcomes
    assert cold == warm
    assert first_id != second_id


@both
def test_openai_chat_structured_output(calls: Calls, gpt: openai.OpenAI) -> None:
    def ask() -> object:
        asked = gpt.chat.completions.parse(
            model=GPT, messages=[{"role": "user", "content": "Describe Graz."}], response_format=City
        )
        assert asked.choices[0].message.parsed is not None
        return asked

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)


def test_openai_embeddings(calls: Calls, gpt: openai.OpenAI) -> None:
    def ask() -> list[list[float]]:
        found = gpt.embeddings.create(model=EMBEDDING, input=["a weir", "a dam"], dimensions=16)
        return [item.embedding for item in found.data]

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert first == second
    assert len(first) == 2
    assert first[0] != first[1]


# --- OpenAI, responses

TOOL = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
IMAGE_INPUT = [
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "Which colour?"},
            {"type": "input_image", "image_url": "data:image/png;base64," + b64encode(png((0, 200, 0))).decode()},
        ],
    }
]
RESPONSES: dict[str, dict[str, object]] = {
    "text": {"input": "Why is the sky blue?", "instructions": "Be terse."},
    "tools": {"input": WEATHER, "tools": [TOOL]},
    "image, not stored": {"input": IMAGE_INPUT, "store": False},
}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_responses(calls: Calls, gpt: openai.OpenAI, name: str, stream: bool) -> None:
    request = {"model": GPT, **RESPONSES[name]} | ({"stream": True} if stream else {})

    def ask() -> object:
        answer = gpt.responses.create(**request)
        return list(answer) if stream else answer

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)


@both
def test_openai_responses_stream_helper(calls: Calls, gpt: openai.OpenAI) -> None:
    def ask() -> tuple[list[object], object]:
        with gpt.responses.stream(model=GPT, input=WEATHER, tools=[TOOL]) as stream:
            events: list[object] = list(stream)
            return events, stream.get_final_response()

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)


def test_openai_responses_parse_helper(calls: Calls, gpt: openai.OpenAI) -> None:
    def ask() -> object:
        asked = gpt.responses.parse(model=GPT, input="Describe Bern.", text_format=City)
        assert asked.output_parsed is not None
        return asked

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)


@both
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_previous_response_id_names_a_response_that_exists_at_the_provider(
    calls: Calls, gpt: openai.OpenAI, standin: StandIn, stream: bool
) -> None:
    """A stored response keeps its id on replay; whatever comes after it is keyed on the conversation it stands for."""

    def ask(text: str, parent: str | None) -> openai.types.responses.Response:
        if not stream:
            return gpt.responses.create(model=GPT, input=text, previous_response_id=parent)
        with gpt.responses.stream(model=GPT, input=text, previous_response_id=parent) as events:
            return events.get_final_response()

    with calls.cold(2):
        first = ask("Name a river.", None)
        second = ask("And another?", first.id)
    with calls.warm(2):
        again = ask("Name a river.", None)
        after = ask("And another?", again.id)
    with calls.cold():
        third = ask("And a third?", after.id)  # the provider knows the id that came from the cache
    with calls.cold(2):
        other = ask("Name a lake.", None)
        elsewhere = ask("And another?", other.id)  # the same words after another question

    assert (first.id, second.id) == (again.id, after.id)
    assert essence([first, second]) == essence([again, after])
    assert third.status == "completed"
    assert elsewhere.output_text != second.output_text


# --- Anthropic

CLAUDE_TOOL = {"name": "get_weather", "input_schema": SCHEMA}
CLAUDE_IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": b64encode(png((0, 0, 200))).decode()},
}
MESSAGES: dict[str, dict[str, object]] = {
    "text": {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "system": "Be terse."},
    "tools": {"messages": [{"role": "user", "content": WEATHER}], "tools": [CLAUDE_TOOL]},
    "image": {"messages": [{"role": "user", "content": [CLAUDE_IMAGE, {"type": "text", "text": "Which colour?"}]}]},
    "structured": {
        "messages": [{"role": "user", "content": "Describe Linz."}],
        "extra_body": {"output_config": {"format": {"type": "json_schema", "schema": City.model_json_schema()}}},
    },
    "thinking": {
        "messages": [{"role": "user", "content": "Think, then answer."}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 2048,
        "extra_headers": {"x-standin-mode": "thinking"},
    },
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_anthropic_messages(calls: Calls, claude: anthropic.Anthropic, name: str, stream: bool) -> None:
    request = {"model": CLAUDE, "max_tokens": 512, **MESSAGES[name]} | ({"stream": True} if stream else {})

    def ask() -> object:
        answer = claude.messages.create(**request)
        return list(answer) if stream else answer

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)
    assert ("signature" in json.dumps(essence(second))) is (name == "thinking")


@both
def test_anthropic_stream_helper_with_tools(calls: Calls, claude: anthropic.Anthropic) -> None:
    outcomes = []
    for block in (calls.cold, calls.warm):
        turns: list[object] = [{"role": "user", "content": WEATHER}]
        messages = []
        with block(2):
            for _ in range(2):
                with claude.messages.stream(
                    model=CLAUDE, max_tokens=512, messages=turns, tools=[CLAUDE_TOOL]
                ) as stream:
                    events = list(stream)
                    message = stream.get_final_message()
                messages.append((events, message))
                uses = [part for part in message.content if part.type == "tool_use"]
                results = [{"type": "tool_result", "tool_use_id": use.id, "content": "21 degrees"} for use in uses]
                turns += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        outcomes.append(essence(messages))

    cold, warm = outcomes
    assert cold == warm
    assert "get_weather" in json.dumps(cold)


def test_anthropic_count_tokens(calls: Calls, claude: anthropic.Anthropic) -> None:
    def ask() -> int:
        return claude.messages.count_tokens(
            model=CLAUDE, messages=[{"role": "user", "content": "How long is this?"}]
        ).input_tokens

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert first == second


# --- Gemini


def gemini_config(name: str) -> types.GenerateContentConfig:
    match name:
        case "tools":
            declared = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
            return types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
        case "structured":
            return types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
        case _:
            return types.GenerateContentConfig(system_instruction="Be terse.", temperature=0.2)


@pytest.mark.parametrize("name", ["text", "tools", "structured", "image"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_gemini_generate_content(calls: Calls, gemini: genai.Client, name: str, stream: bool) -> None:
    image = types.Part.from_bytes(data=png((9, 9, 9)), mime_type="image/png")
    parts = [types.Part(text=WEATHER), *([image] if name == "image" else [])]
    contents = [types.Content(role="user", parts=parts)]

    def ask() -> object:
        if stream:
            return list(
                gemini.models.generate_content_stream(model=GEMINI, contents=contents, config=gemini_config(name))
            )
        return gemini.models.generate_content(model=GEMINI, contents=contents, config=gemini_config(name))

    with calls.cold():
        first = ask()
    with calls.warm():
        second = ask()

    assert essence(first) == essence(second)


def test_gemini_count_tokens(calls: Calls, gemini: genai.Client) -> None:
    with calls.cold():
        first = gemini.models.count_tokens(model=GEMINI, contents="How long is this?")
    with calls.warm():
        second = gemini.models.count_tokens(model=GEMINI, contents="How long is this?")

    assert essence(first) == essence(second)
    assert first.total_tokens


# --- recorded in one layout, asked for in the other


@pytest.mark.parametrize("name", ["text", "tools"])
@pytest.mark.parametrize("stream_first", [False, True], ids=["whole-first", "stream-first"])
def test_one_layout_serves_the_other_in_openai_chat(
    calls: Calls, gpt: openai.OpenAI, name: str, stream_first: bool
) -> None:
    """The final object that the SDK's own accumulator makes of a stream is the one that comes without it."""
    request = {"model": GPT, **CHATS[name]}

    def ask(*, stream: bool) -> dict[str, object]:
        if not stream:
            whole = gpt.chat.completions.create(**request)
        else:
            with gpt.chat.completions.stream(**request, stream_options={"include_usage": True}) as events:
                whole = events.get_final_completion()
        message = whole.choices[0].message
        return {
            "content": message.content,
            "tools": [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()],
            "finish": whole.choices[0].finish_reason,
            "usage": whole.usage.total_tokens,
        }

    with calls.cold():
        first = ask(stream=stream_first)
    with calls.warm():
        second = ask(stream=not stream_first)

    assert first == second


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("stream_first", [False, True], ids=["whole-first", "stream-first"])
def test_one_layout_serves_the_other_in_openai_responses(
    calls: Calls, gpt: openai.OpenAI, name: str, stream_first: bool
) -> None:
    def ask(*, stream: bool) -> object:
        if not stream:
            return gpt.responses.create(model=GPT, **RESPONSES[name])
        events = list(gpt.responses.create(model=GPT, stream=True, **RESPONSES[name]))
        return events[-1].response

    with calls.cold():
        first = ask(stream=stream_first)
    with calls.warm():
        second = ask(stream=not stream_first)

    assert essence(first) == essence(second)


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("stream_first", [False, True], ids=["whole-first", "stream-first"])
def test_one_layout_serves_the_other_in_anthropic_messages(
    calls: Calls, claude: anthropic.Anthropic, name: str, stream_first: bool
) -> None:
    request = {"model": CLAUDE, "max_tokens": 512, **MESSAGES[name]}

    def ask(*, stream: bool) -> object:
        if not stream:
            return claude.messages.create(**request)
        with claude.messages.stream(**request) as events:
            return events.get_final_message()

    with calls.cold():
        first = ask(stream=stream_first)
    with calls.warm():
        second = ask(stream=not stream_first)

    assert _filled(essence(first)) == _filled(essence(second))


def _filled(value: object) -> object:
    """Leave out fields that are null: the accumulator of a stream adds some that the whole answer lacks."""
    match value:
        case dict():
            return {name: _filled(inner) for name, inner in value.items() if inner is not None}
        case list():
            return [_filled(inner) for inner in value]
        case _:
            return value


@both
@pytest.mark.parametrize("name", ["text", "tools", "structured"])
@pytest.mark.parametrize("stream_first", [False, True], ids=["whole-first", "stream-first"])
def test_one_layout_serves_the_other_in_gemini(
    calls: Calls, gemini: genai.Client, name: str, stream_first: bool
) -> None:
    def ask(*, stream: bool) -> dict[str, object]:
        config = gemini_config(name)
        if stream:
            chunks = list(gemini.models.generate_content_stream(model=GEMINI, contents=WEATHER, config=config))
        else:
            chunks = [gemini.models.generate_content(model=GEMINI, contents=WEATHER, config=config)]
        parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts or ()]
        assert chunks[-1].candidates
        assert chunks[-1].usage_metadata
        return {
            "text": "".join(part.text or "" for part in parts),
            "tools": [(part.function_call.name, part.function_call.args) for part in parts if part.function_call],
            "finish": chunks[-1].candidates[0].finish_reason,
            "usage": chunks[-1].usage_metadata.total_token_count,
        }

    with calls.cold():
        first = ask(stream=stream_first)
    with calls.warm():
        second = ask(stream=not stream_first)

    assert first == second


# --- async


@both
async def test_async_clients_of_all_three(calls: Calls, key: str, environment: None) -> None:
    """Six calls at the same time, then again."""

    async def ask() -> object:
        async with (
            openai.AsyncOpenAI(api_key=key, max_retries=0) as gpt,
            anthropic.AsyncAnthropic(api_key=key, max_retries=0) as claude,
        ):
            gemini = genai.Client(api_key=key).aio

            async def chat_stream() -> list[object]:
                chat = gpt.chat.completions
                stream = await chat.create(model=GPT, messages=[{"role": "user", "content": "A lake?"}], stream=True)
                return [chunk async for chunk in stream]

            async def message_stream() -> object:
                async with claude.messages.stream(
                    model=CLAUDE, max_tokens=99, messages=[{"role": "user", "content": "A hill?"}]
                ) as stream:
                    return await stream.get_final_message()

            async def gemini_stream() -> list[object]:
                chunks = await gemini.models.generate_content_stream(model=GEMINI, contents="A town?")
                return [chunk async for chunk in chunks]

            return await asyncio.gather(
                chat_stream(),
                message_stream(),
                gemini_stream(),
                gpt.responses.create(model=GPT, input="A river?"),
                claude.messages.create(model=CLAUDE, max_tokens=99, messages=[{"role": "user", "content": "A sea?"}]),
                gemini.models.generate_content(model=GEMINI, contents="A street?"),
            )

    with calls.cold(6):
        first = await ask()
    with calls.warm(6):
        second = await ask()

    assert essence(first) == essence(second)


async def test_the_bundle_that_run_gives_to_its_children_works_as_well(
    calls: Calls, proxy: Proxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in for_child(ca.load(proxy.state / "ca"), {}, proxy.url).items():
        monkeypatch.setenv(name, value)
    with calls.cold():
        async with openai.AsyncOpenAI(api_key=key, max_retries=0) as gpt:
            await gpt.responses.create(model=GPT, input="A mountain?")


# --- what must stay apart


def test_what_could_change_an_answer_makes_another_call(calls: Calls, gpt: openai.OpenAI) -> None:
    base: dict[str, object] = {
        "model": GPT,
        "messages": [{"role": "user", "content": WEATHER}],
        "tools": [CHAT_TOOL],
        "temperature": 0.5,
    }
    variants: list[dict[str, object]] = [
        base,
        {**base, "model": "gpt-4o"},
        {**base, "temperature": 0.6},
        {**base, "messages": [{"role": "user", "content": WEATHER + " "}]},
        {**base, "tools": [{**CHAT_TOOL, "function": {**CHAT_TOOL["function"], "description": "x"}}]},
        {**base, "tool_choice": "required"},
        {**base, "max_tokens": 500},
        {**base, "seed": 7},
        {**base, "extra_body": {"x_new_parameter": 1}},
    ]
    for variant in variants:
        with calls.cold():
            gpt.chat.completions.create(**variant)
    for variant in variants:
        with calls.warm():
            gpt.chat.completions.create(**variant)


def test_an_answer_cut_short_is_not_learned(calls: Calls, claude: anthropic.Anthropic) -> None:
    for _ in range(2):
        with calls.cold():
            answer = claude.messages.create(
                model=CLAUDE, max_tokens=1, messages=[{"role": "user", "content": "Tell me everything."}]
            )

        assert answer.stop_reason == "max_tokens"
