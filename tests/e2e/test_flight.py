"""Single flight: identical calls under way share one call to the provider, and nobody is worse off for it."""

import asyncio
import json

import httpx
import pytest

from promptweir.cli.standin import StandIn
from tests.e2e.counting import Calls
from tests.e2e.harness import Proxy
from tests.e2e.talk import async_client

MESSAGES = "https://api.anthropic.com/v1/messages"
TOGETHER = 10
JOIN_WAIT_S = 10.0


def body(text: str, *, stream: bool) -> bytes:
    doc = {"model": "claude-next", "max_tokens": 500, "messages": [{"role": "user", "content": text}]}
    return json.dumps(doc | ({"stream": True} if stream else {})).encode()


async def ask(http: httpx.AsyncClient, content: bytes, headers: dict[str, str]) -> httpx.Response:
    return await http.post(MESSAGES, content=content, headers=headers)


def text_of(answer: httpx.Response) -> str:
    """Return the answer's words, however they are laid out."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return "".join(part["text"] for part in answer.json()["content"])
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
async def test_ten_identical_calls_make_one_call_and_all_get_the_same_answer(
    calls: Calls, key: str, stream: bool, http2: bool
) -> None:
    headers = {"x-api-key": key, "x-standin-mode": "slow:0.5,trickle:0.02"}
    async with async_client(calls.proxy, http2=http2) as http:
        with calls.some(TOGETHER, reaching=1):
            answers = await asyncio.gather(
                *(ask(http, body("together", stream=stream), headers) for _ in range(TOGETHER))
            )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert text_of(answers[0]).startswith("Answer ")
    assert ["false", *["true"] * (TOGETHER - 1)] == sorted(a.headers["x-promptweir-deflected"] for a in answers)


async def test_whole_and_streamed_askers_in_different_codings_share_one_call(calls: Calls, key: str) -> None:
    """They cannot share bytes; those who need another layout get it from the cache as soon as it is there."""
    base = {"x-api-key": key, "x-standin-mode": "slow:0.5"}
    async with async_client(calls.proxy) as http:
        with calls.some(6, reaching=1):
            answers = await asyncio.gather(
                *(
                    ask(http, body("mixed", stream=stream), {**base, "accept-encoding": coding})
                    for stream in (True, False)
                    for coding in ("identity", "gzip", "br, gzip")
                )
            )

    assert len({text_of(answer) for answer in answers}) == 1


async def test_calls_that_differ_do_not_share(calls: Calls, key: str) -> None:
    mode = {"x-standin-mode": "slow:0.4"}
    async with async_client(calls.proxy) as http:
        with calls.cold(3):
            answers = await asyncio.gather(
                ask(http, body("one", stream=True), {"x-api-key": key, **mode}),
                ask(http, body("two", stream=True), {"x-api-key": key, **mode}),
                ask(http, body("one", stream=True), {"x-api-key": key + "-of-another", **mode}),
            )

    assert {answer.headers["x-promptweir-deflected"] for answer in answers} == {"false"}


async def test_who_joins_late_gets_the_stream_from_its_beginning(calls: Calls, key: str) -> None:
    headers = {"x-api-key": key, "x-standin-mode": "trickle:0.1"}
    async with async_client(calls.proxy) as http:
        with calls.some(2, reaching=1):
            async with http.stream("POST", MESSAGES, content=body("late", stream=True), headers=headers) as first:
                pieces = first.aiter_bytes()
                seen = await anext(pieces) + await anext(pieces)
                late = asyncio.create_task(ask(http, body("late", stream=True), headers))
                async for piece in pieces:
                    seen += piece
            answer = await late

    assert seen == answer.content
    assert answer.headers["x-promptweir-deflected"] == "true"


async def test_the_first_asker_may_leave_without_hurting_the_others(calls: Calls, key: str, standin: StandIn) -> None:
    headers = {"x-api-key": key, "x-standin-mode": "trickle:0.15"}
    async with async_client(calls.proxy) as leaver, async_client(calls.proxy) as http:
        with calls.some(5, reaching=1):
            async with leaver.stream("POST", MESSAGES, content=body("leaver", stream=True), headers=headers) as first:
                held = first.aiter_bytes()  # a forgotten iterator would close the connection
                await anext(held)
                others = []
                for _ in range(3):  # they have joined once they have bytes
                    stream = await http.send(
                        http.build_request("POST", MESSAGES, content=body("leaver", stream=True), headers=headers),
                        stream=True,
                    )
                    pieces = stream.aiter_bytes()
                    others.append((await anext(pieces), pieces, stream))
            await leaver.aclose()
            answers = [began + b"".join([piece async for piece in rest]) for began, rest, _ in others]
            again = await ask(http, body("leaver", stream=True), headers)

    assert len(set(answers)) == 1
    assert answers[0].rstrip().endswith(b'"message_stop"}')
    assert {stream.headers["x-promptweir-deflected"] for *_, stream in others} == {"true"}
    assert again.headers["x-promptweir-deflected"] == "true"  # learned, although its asker had left


async def test_if_the_first_asker_s_call_fails_the_next_one_asks_for_all(calls: Calls, key: str) -> None:
    """The error goes to the one whose call it was."""
    headers = {"x-api-key": key, "x-standin-mode": f"once:slow:0.5,529#{key}"}
    async with async_client(calls.proxy) as http:
        with calls.some(TOGETHER, reaching=2):
            answers = await asyncio.gather(
                *(ask(http, body("promoted", stream=True), headers) for _ in range(TOGETHER))
            )

    assert sorted(answer.status_code for answer in answers) == [200] * (TOGETHER - 1) + [529]
    assert len({text_of(answer) for answer in answers if answer.status_code == 200}) == 1


async def test_an_answer_that_breaks_off_is_broken_for_all_and_learned_for_none(
    own: Proxy, standin: StandIn, key: str
) -> None:
    """A client must be able to tell a half answer from a whole one, whoever asked first."""
    calls = Calls(own, standin)
    headers = {"x-api-key": key, "x-standin-mode": "slow:0.4,cut"}
    async with async_client(own) as http:
        before = len(standin.llm_calls)
        outcomes = await asyncio.gather(
            *(ask(http, body("cut", stream=True), headers) for _ in range(3)), return_exceptions=True
        )
        assert len(standin.llm_calls) > before
        with calls.cold():
            whole = await ask(http, body("cut", stream=True), {"x-api-key": key})

    assert {type(outcome) for outcome in outcomes} == {httpx.RemoteProtocolError}
    assert text_of(whole).startswith("Answer ")
