"""The provider stand-in is what other tests measure against, so it is itself held against the official SDKs."""

import asyncio
import json
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google import genai
from google.genai import types
from pydantic import BaseModel

from promptweir.cli.standin import StandIn
from promptweir.cli.standin_answers import answer_text, plan_of
from promptweir.cli.standin_asks import read_ask

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
LONG = [{"role": "user", "content": "Say something."}]


@pytest.fixture
async def provider():
    async with StandIn() as server:
        yield server


def openai_at(provider: StandIn) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="sk-x", base_url=f"{provider.origin}/v1", max_retries=0)


def anthropic_at(provider: StandIn) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="sk-x", base_url=provider.origin, max_retries=0)


def gemini_at(provider: StandIn) -> genai.Client:
    return genai.Client(api_key="x", http_options=types.HttpOptions(base_url=provider.origin))


class Verdict(BaseModel):
    title: str
    score: int


async def test_anthropic_answers_are_the_same_streamed_and_whole(provider):
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": LONG}
    client = anthropic_at(provider)

    whole = await client.messages.create(**body)
    async with client.messages.stream(**body) as stream:
        streamed = await stream.get_final_message()

    assert whole.content[0].text == streamed.content[0].text == answer_text(body)
    assert whole.id != streamed.id
    assert (whole.stop_reason, streamed.stop_reason) == ("end_turn", "end_turn")


async def test_anthropic_calls_a_tool_and_answers_after_its_result(provider):
    tools = [{"name": "get_weather", "input_schema": WEATHER}]
    client = anthropic_at(provider)

    async with client.messages.stream(model="m", max_tokens=100, messages=ASK, tools=tools) as stream:
        first = await stream.get_final_message()
    call = first.content[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns: list[Any] = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = await client.messages.create(model="m", max_tokens=100, messages=turns, tools=tools)

    assert (call.name, call.input, first.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    assert second.stop_reason == "end_turn"


async def test_chat_answers_are_the_same_streamed_and_whole_and_usage_comes_when_asked_for(provider):
    client = openai_at(provider)

    whole = await client.chat.completions.create(model="gpt-5", messages=LONG)
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="gpt-5", messages=LONG, stream=True, stream_options={"include_usage": True}
        )
    ]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


async def test_chat_and_responses_call_the_same_tool(provider):
    client = openai_at(provider)
    chat_tools = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    flat_tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}]

    chat = await client.chat.completions.create(model="gpt-5", messages=ASK, tools=chat_tools)
    async with client.responses.stream(model="gpt-5", input=ASK, tools=flat_tools) as stream:
        response = await stream.get_final_response()

    called = chat.choices[0].message.tool_calls[0].function
    assert (called.name, json.loads(called.arguments)) == ("get_weather", {"city": "Paris"})
    assert (response.output[0].name, json.loads(response.output[0].arguments)) == ("get_weather", {"city": "Paris"})


async def test_responses_answers_are_the_same_streamed_and_whole(provider):
    client = openai_at(provider)

    whole = await client.responses.create(model="gpt-5", input="Say something.")
    async with client.responses.stream(model="gpt-5", input="Say something.") as stream:
        streamed = await stream.get_final_response()

    assert whole.output_text == streamed.output_text != ""


async def test_responses_chain_on_a_stored_parent_and_refuse_an_unknown_one(provider):
    client = openai_at(provider)
    one = await client.responses.create(model="gpt-5", input="One.")
    other = await client.responses.create(model="gpt-5", input="Other.")

    after_one = await client.responses.create(model="gpt-5", input="And?", previous_response_id=one.id)
    after_other = await client.responses.create(model="gpt-5", input="And?", previous_response_id=other.id)

    assert after_one.output_text != after_other.output_text
    with pytest.raises(openai.BadRequestError, match="not found"):
        await client.responses.create(model="gpt-5", input="And?", previous_response_id="resp_unknown")


async def test_structured_output_fits_the_schema_in_every_dialect(provider):
    oai, ant, gem = openai_at(provider), anthropic_at(provider), gemini_at(provider)
    schema = {**Verdict.model_json_schema(), "additionalProperties": False}

    chat = await oai.chat.completions.parse(model="gpt-5", messages=LONG, response_format=Verdict)
    response = await oai.responses.parse(model="gpt-5", input="Say something.", text_format=Verdict)
    message = await ant.messages.create(
        model="m", max_tokens=99, messages=LONG, extra_body={"output_config": {"format": {"schema": schema}}}
    )
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Verdict)
    gemini = await gem.aio.models.generate_content(model="gemini-2.5-flash", contents="Say something.", config=config)

    assert isinstance(chat.choices[0].message.parsed, Verdict)
    assert isinstance(response.output_parsed, Verdict)
    assert Verdict.model_validate_json(message.content[0].text)
    assert isinstance(gemini.parsed, Verdict)


async def test_gemini_answers_are_the_same_streamed_and_whole_and_call_tools(provider):
    sdk = gemini_at(provider)  # it closes its session when it goes
    client = sdk.aio.models
    declaration = types.FunctionDeclaration(name="get_weather", parameters_json_schema=WEATHER)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declaration])])

    whole = await client.generate_content(model="gemini-2.5-flash", contents="Say something.")
    stream = await client.generate_content_stream(model="gemini-2.5-flash", contents="Say something.")
    text = "".join([chunk.text async for chunk in stream])
    called = await client.generate_content(model="g", contents="What is the weather in Paris?", config=config)
    counted = await client.count_tokens(model="gemini-2.5-flash", contents="Say something.")

    assert whole.text == text
    assert called.function_calls[0].args == {"city": "Paris"}
    assert counted.total_tokens > 0


async def test_embeddings_models_and_token_counts_are_answered(provider):
    client = openai_at(provider)

    once = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    again = await client.embeddings.create(model="text-embedding-3-small", input=["a"], encoding_format="float")
    names = [model.id async for model in client.models.list()]
    tokens = await anthropic_at(provider).messages.count_tokens(model="m", messages=LONG)

    assert once.data[0].embedding == pytest.approx(again.data[0].embedding, abs=1e-6)
    assert once.data[0].embedding != once.data[1].embedding
    assert "gpt-5" in names
    assert tokens.input_tokens > 0


async def test_gemini_without_alt_sse_streams_a_json_array(provider):
    async with httpx.AsyncClient() as client:
        url = f"{provider.origin}/v1beta/models/gemini-2.5-flash:streamGenerateContent"
        answer = await client.post(url, json={"contents": [{"role": "user", "parts": [{"text": "Hi."}]}]})

    assert answer.json()[-1]["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "other"},
        {"system": "Be brief."},
        {"temperature": 0.5},
        {"messages": [{"role": "user", "content": "Say something else."}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "AAAA"}}]}, *LONG]},
        {"tools": [{"name": "get_weather", "input_schema": WEATHER}]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_can_change_a_model_s_mind_changes_the_answer(changed):
    body = {"model": "m", "messages": LONG}

    assert answer_text({**body, **changed}) != answer_text(body)


@pytest.mark.parametrize(
    "changed",
    [
        {"stream": True},
        {"metadata": {"user_id": "someone"}},
        {"messages": [{"role": "user", "content": "Say something.", "cache_control": {"type": "ephemeral"}}]},
        {"prompt_cache_key": "another"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_only_identifies_the_caller_does_not_change_the_answer(changed):
    body = {"model": "m", "messages": LONG}

    assert answer_text({**body, **changed}) == answer_text(body)


def test_the_answer_names_the_caller_s_own_directory_and_is_otherwise_the_same():
    def ask(cwd: str, home: str) -> str:
        mangled = cwd.replace("/", "-")
        system = f"memory at `{home}/.claude/projects/{mangled}/memory/`\n - Primary working directory: {cwd}\n - x"
        result = {"type": "tool_result", "tool_use_id": f"toolu_{len(cwd)}", "content": f"{cwd}/hello.py holds greet"}
        turns = [{"role": "user", "content": "Explain hello.py"}, {"role": "user", "content": [result]}]
        return answer_text({"model": "m", "system": [{"type": "text", "text": system}], "messages": turns})

    at_a, at_b = ask("/srv/a/one", "/home/ann"), ask("/home/bob/two", "/home/bob")

    assert "/srv/a/one/hello.py" in at_a
    assert at_a.replace("/srv/a/one", "/home/bob/two") == at_b


def test_a_shell_runs_the_command_that_the_prompt_names():
    tool = {"name": "Bash", "input_schema": {"properties": {"command": {"type": "string"}}, "required": ["command"]}}
    body = {"model": "m", "tools": [tool], "messages": [{"role": "user", "content": "Run `touch new.txt` please"}]}

    plan = plan_of(read_ask(body))

    assert plan.tool is not None
    assert plan.tool.arguments == {"command": "touch new.txt"}


async def test_an_answer_longer_than_max_tokens_is_cut_and_says_so(provider):
    answer = await anthropic_at(provider).messages.create(model="m", max_tokens=2, messages=LONG)

    assert answer.stop_reason == "max_tokens"
    assert len(answer.content[0].text.split()) == 2


async def post(provider: StandIn, mode: str, *, stream: bool = True) -> httpx.Response:
    async with httpx.AsyncClient(timeout=5) as client:
        body = {"model": "m", "max_tokens": 99, "messages": LONG, "stream": stream}
        return await client.post(f"{provider.origin}/v1/messages", json=body, headers={"x-standin-mode": mode})


async def test_errors_have_the_status_and_headers_that_were_asked_for(provider):
    limited = await post(provider, "429:ra=7")
    overloaded = await post(provider, "529:noretry")

    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert overloaded.json()["error"]["type"] == "overloaded_error"
    assert overloaded.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("mode", ["cut", "cut-cl"])
async def test_a_cut_answer_breaks_off(provider, mode):
    with pytest.raises(httpx.RemoteProtocolError):
        await post(provider, mode)


@pytest.mark.parametrize(("mode", "complete"), [("close", True), ("cut-close", False), ("noend", False)])
async def test_an_answer_may_end_without_its_terminal_event(provider, mode, complete):
    answer = await post(provider, mode)

    assert ("message_stop" in answer.text) is complete


async def test_garbage_empty_and_error_events_are_sent_as_asked(provider):
    garbage, empty, failed = [await post(provider, mode) for mode in ("garbage", "empty", "sse_error")]

    assert b"<html>" in garbage.content
    assert empty.content == b""
    assert "overloaded_error" in failed.text
    assert "message_stop" not in failed.text


async def test_once_fails_one_call_only(provider):
    statuses = [(await post(provider, "once:503#a")).status_code for _ in range(3)]

    assert statuses == [503, 200, 200]


async def test_gzip_answers_unpack_to_the_plain_ones(provider):
    packed, plain = await post(provider, "gzip", stream=False), await post(provider, "", stream=False)

    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["content"] == plain.json()["content"]


async def test_thinking_puts_a_signed_block_first(provider):
    answer = await post(provider, "thinking", stream=False)

    assert answer.json()["content"][0]["signature"]


async def test_a_hanging_answer_does_not_keep_the_server_from_stopping():
    provider = StandIn()
    await provider.start()
    pending = asyncio.create_task(post(provider, "hang"))
    while not provider.calls:
        await asyncio.sleep(0.01)

    await asyncio.wait_for(provider.stop(), 3)

    with pytest.raises(httpx.HTTPError):
        await pending


async def test_every_call_is_noted_with_the_digest_of_its_bytes(provider):
    await post(provider, "")
    async with httpx.AsyncClient() as client:
        missing = await client.get(f"{provider.origin}/api/settings")
        accepted = await client.post(f"{provider.origin}/api/telemetry", content=b"{}")
        upgrade = {"upgrade": "websocket", "connection": "Upgrade"}
        refused = await client.get(f"{provider.origin}/v1/responses", headers=upgrade)

    assert (missing.status_code, accepted.json(), refused.status_code) == (404, {}, 426)
    assert [call.llm for call in provider.calls] == [True, False, False, True]
    assert all(len(call.body_sha256) == 64 and call.reply_sha256 for call in provider.calls)


@pytest.mark.parametrize("body", [b"not json", b"[1]", b'{"a":' * 20_000, b"\xff\xfe", b'{"messages": 7}'])
async def test_hostile_bodies_get_an_answer_and_leave_the_server_alive(provider, body):
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{provider.origin}/v1/messages", content=body)

    assert answer.status_code in (200, 400)
    assert (await post(provider, "")).status_code == 200


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now, names = datetime.now(UTC), x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    cert = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


async def test_it_speaks_tls_with_a_given_certificate(tmp_path):
    cert, key = self_signed(tmp_path)

    async with StandIn(tls=(cert, key)) as provider:
        trust = ssl.create_default_context(cafile=str(cert))
        async with httpx.AsyncClient(verify=trust) as client:
            answer = await client.get(f"https://localhost:{provider.port}/v1/models")

    assert answer.status_code == 200


async def test_as_a_program_it_says_where_it_listens_and_logs_its_calls(tmp_path):
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, "-m", "promptweir.cli.standin", "--log", str(log), "--mode", "once:529"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        origin = (await process.stdout.readline()).decode().strip()
        async with httpx.AsyncClient() as client:
            body = {"model": "m", "messages": LONG}
            statuses = [(await client.post(f"{origin}/v1/messages", json=body)).status_code for _ in range(2)]
    finally:
        process.terminate()
        await process.wait()

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert statuses == [529, 200]
    assert [(line["path"], line["llm"]) for line in lines] == [("/v1/messages", True)] * 2


@pytest.mark.parametrize("options", [["--mode", "nonsense"], ["--port", "99999"], ["--cert", "no.pem", "--key", "no"]])
async def test_as_a_program_it_says_in_a_line_what_is_wrong(options):
    command = [sys.executable, "-m", "promptweir.cli.standin", *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)

    _, said = await process.communicate()

    assert process.returncode == 2
    assert b"Traceback" not in said
