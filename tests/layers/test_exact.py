"""The exact cache as a whole: learned answers, replayed for other requests, or not."""

import itertools
import json
from dataclasses import replace

import msgspec
import pytest

from promptweir.layers.atoms import Rules
from promptweir.layers.contract import CacheControl, Completion, Deflect, Dialect, Encoding, Pass, Prompt
from promptweir.layers.dialects.registry import CODECS
from promptweir.layers.exact import ExactCache, Policy
from promptweir.layers.sessions import SessionLog
from promptweir.layers.stores.types import Entry
from promptweir.layers.wire import frames_of

DAY_NS = 86_400 * 10**9
POLICY = Policy(
    ttl_ns=7 * DAY_NS,
    remote_ttl_ns=300 * 10**9,
    max_temperature=None,
    read_only="serve",
    mutating="new-session",
    provider_tools=False,
)


class Shelf:
    """A store in a dict."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.links: dict[tuple[bytes, str], bytes] = {}

    async def get(self, key: bytes) -> Entry | None:
        return self.entries.get(key)

    def put(self, entry: Entry) -> None:
        self.entries[entry.key] = entry

    def touch(self, key: bytes) -> None:
        assert key in self.entries

    def link(self, tenant: bytes, response_id: str, state: bytes) -> None:
        self.links[tenant, response_id] = state

    async def linked(self, tenant: bytes, response_id: str) -> bytes | None:
        return self.links.get((tenant, response_id))


class World:
    """One cache with a clock that we turn."""

    def __init__(self, policy: Policy = POLICY, **origins: str) -> None:
        self.now_ns = 1_000 * DAY_NS
        self.shelf = Shelf()
        self._numbers = itertools.count()
        self.cache = ExactCache(
            store=self.shelf,
            codecs=CODECS,
            rules=Rules(),
            policy=policy,
            sessions=SessionLog(retry_window_ns=60 * 10**9, loop_repeats=3),
            origin_of=lambda host: origins.get(host.split(".")[1], ""),
            searches=lambda provider: provider == "perplexity",
            token=lambda chars: f"{next(self._numbers):x}".rjust(chars, "Q"),
            now_ns=lambda: self.now_ns,
        )

    def prompt(
        self, doc: dict[str, object], *, dialect: Dialect = Dialect.ANTHROPIC_MESSAGES, **over: object
    ) -> Prompt:
        paths = {
            Dialect.ANTHROPIC_MESSAGES: ("anthropic", "api.anthropic.com", "/v1/messages"),
            Dialect.OPENAI_CHAT: ("openai", "api.openai.com", "/v1/chat/completions"),
            Dialect.OPENAI_RESPONSES: ("openai", "api.openai.com", "/v1/responses"),
        }
        provider, host, path = paths[dialect]
        raw = json.dumps(doc).encode()
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        prompt = Prompt(
            id=f"p{next(self._numbers)}",
            dialect=dialect,
            provider=provider,
            host=host,
            path=path,
            query="",
            tenant=b"t" * 32,
            facts=CODECS[dialect].facts_of(path, "", fields),
            raw=raw,
            body=raw,
            fields=fields,
        )
        return replace(prompt, **over)  # type: ignore[arg-type]

    async def learn(self, prompt: Prompt, body: dict[str, object] | bytes, encoding: Encoding = Encoding.JSON) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = CODECS[prompt.dialect].understand(frames_of(raw, encoding), encoding)
        completion = Completion(status=200, content_type="application/json", encoding=encoding, body=raw, answer=answer)
        assert isinstance(await self.cache.consider(prompt), Pass)
        await self.cache.learn(prompt, completion)

    async def reason(self, prompt: Prompt) -> str:
        verdict = await self.cache.consider(prompt)
        assert not isinstance(verdict, Deflect | None)
        return verdict.reason

    async def body(self, prompt: Prompt) -> bytes:
        verdict = await self.cache.consider(prompt)
        assert isinstance(verdict, Deflect), verdict
        return verdict.completion.body


def asked(text: str = "hi", **more: object) -> dict[str, object]:
    return {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}


def at(cwd: str, text: str = "where?") -> dict[str, object]:
    return asked(text, system=f"Working directory: {cwd}\n")


def said(*content: dict[str, object], stop: str = "end_turn") -> dict[str, object]:
    return {
        "id": "msg_01ABCDEFGHIJKLMNOPQRSTUV",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 7},
    }


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def use(name: str, **arguments: object) -> dict[str, object]:
    return {"type": "tool_use", "id": "toolu_01AAAAAAAAAAAAAAAAAAAAAA", "name": name, "input": arguments}


async def test_a_repeat_is_served_with_fresh_ids_and_the_recorded_usage() -> None:
    world = World()
    await world.learn(world.prompt(asked()), said(text("hello"), use("Read", file_path="/x"), stop="tool_use"))

    first, second = [json.loads(await world.body(world.prompt(asked()))) for _ in range(2)]

    assert first["content"][0]["text"] == "hello"
    assert first["usage"] == {"input_tokens": 5, "output_tokens": 7}
    ids = {first["id"], second["id"], "msg_01ABCDEFGHIJKLMNOPQRSTUV"}
    assert len(ids) == 3
    assert all(name.startswith("msg_01") and len(name) == 28 for name in ids)
    assert first["content"][1]["id"] != second["content"][1]["id"]


async def test_the_working_directory_of_the_answer_is_the_current_one() -> None:
    world = World()
    await world.learn(
        world.prompt(at("/srv/app")),
        said(text("It is /srv/app/x.py, not the app2 of /opt."), use("Read", p="/srv/app/x"), stop="tool_use"),
    )

    body = json.loads(await world.body(world.prompt(at("/tmp/w/other"))))

    assert body["content"][0]["text"] == "It is /tmp/w/other/x.py, not the app2 of /opt."
    assert body["content"][1]["input"] == {"p": "/tmp/w/other/x"}


@pytest.mark.parametrize(
    "words", ["The project app is small.", "Look into ~/App first.", "-srv-app", "app_backup", "APP!"]
)
async def test_an_answer_that_still_names_the_old_folder_does_not_serve_another(words: str) -> None:
    world = World()
    await world.learn(world.prompt(at("/srv/app")), said(text(words)))

    assert await world.reason(world.prompt(at("/srv/other"))) == "unfit-fragment"
    assert words in (await world.body(world.prompt(at("/srv/app")))).decode()


async def test_a_command_is_not_replayed_into_a_path_that_needs_quoting() -> None:
    world = World()
    await world.learn(world.prompt(at("/srv/app")), said(use("Bash", command="cat /srv/app/x.py"), stop="tool_use"))

    assert await world.reason(world.prompt(at("/srv/my work/app2"))) == "unfit-quoting"
    assert await world.body(world.prompt(at("/srv/my-app_2.1")))


async def test_an_answer_with_an_unbound_session_folder_does_not_serve_another_directory() -> None:
    world = World()
    await world.learn(world.prompt(at("/srv/app")), said(text("see /s/11111111-2222-4333-8444-555555555555/log")))

    assert await world.reason(world.prompt(at("/srv/other"))) == "unfit-unbound-atom"


async def test_signed_thinking_that_names_the_directory_does_not_serve_another() -> None:
    world = World()
    thinking = {"type": "thinking", "thinking": "cwd is /srv/app", "signature": "c2ln"}
    await world.learn(world.prompt(at("/srv/app")), said(thinking, text("ok")))

    assert await world.reason(world.prompt(at("/srv/other"))) == "unfit-signed"
    assert json.loads(await world.body(world.prompt(at("/srv/app"))))["content"][0] == thinking


def stream(*events: dict[str, object]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def streamed(*pieces: str) -> bytes:
    head = {**said(), "stop_reason": None}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]
    return stream(
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    )


async def test_a_path_cut_across_deltas_is_renamed() -> None:
    world = World()
    await world.learn(
        world.prompt({**at("/srv/app"), "stream": True}), streamed("in /sr", "v/a", "pp/x", ".py"), Encoding.SSE
    )

    body = await world.body(world.prompt({**at("/new/place"), "stream": True}))

    answer = CODECS[Dialect.ANTHROPIC_MESSAGES].understand(frames_of(body, Encoding.SSE), Encoding.SSE)
    assert answer.doc["content"] == [text("in /new/place/x.py")]
    assert body.count(b"content_block_delta") == streamed("a", "b", "c", "d").count(b"content_block_delta")


async def test_same_to_same_is_verbatim_but_for_the_ids() -> None:
    world = World()
    raw = streamed("one", " two").replace(b"data: ", b"data:   ").replace(b"}\n\n", b" }\r\n\r\n")
    await world.learn(world.prompt(asked(stream=True)), raw, Encoding.SSE)

    body = await world.body(world.prompt(asked(stream=True)))

    fresh = (
        json.loads(body.split(b"data:   ")[1].split(b"\r\n")[0])["message"]["id"]
        if b'data:   {"type": "message_start"' in body
        else None
    )
    changed = [(a, b) for a, b in zip(raw.splitlines(), body.splitlines(), strict=True) if a != b]
    assert len(changed) == 1, changed
    assert fresh is None or fresh.startswith("msg_01")


async def test_a_stream_serves_a_plain_client_and_the_other_way_round() -> None:
    world = World()
    await world.learn(world.prompt(asked("a", stream=True)), streamed("one", " two"), Encoding.SSE)
    await world.learn(world.prompt(asked("b")), said(text("plain")))

    plain = json.loads(await world.body(world.prompt(asked("a"))))
    sse = await world.body(world.prompt(asked("b", stream=True)))

    assert plain["content"] == [text("one two")]
    codec = CODECS[Dialect.ANTHROPIC_MESSAGES]
    assert codec.understand(frames_of(sse, Encoding.SSE), Encoding.SSE).doc["content"] == [text("plain")]


@pytest.mark.parametrize(
    "stop", ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded", "something_new"]
)
async def test_only_clean_endings_are_learned(stop: str) -> None:
    world = World()
    await world.learn(world.prompt(asked()), said(text("x"), stop=stop))

    assert await world.reason(world.prompt(asked())) == "miss"


async def test_answers_of_the_providers_own_tools_are_not_learned() -> None:
    world = World()
    search = {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {"query": "x"}}
    await world.learn(world.prompt(asked()), said(search, text("found")))
    await world.learn(world.prompt(asked("b"), provider="perplexity"), said(text("found")))

    assert await world.reason(world.prompt(asked())) == "miss"
    assert await world.reason(world.prompt(asked("b"), provider="perplexity")) == "miss"


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": b"u" * 32},
        {"headers": (("anthropic-beta", "x"),)},
        {"host": "eu.api.anthropic.com"},
        {"path": "/v2/messages"},
        {"query": "beta=true"},
        {"provider": "custom"},
    ],
)
async def test_whoever_asks_elsewhere_or_is_someone_else_is_not_served(other: dict[str, object]) -> None:
    world = World()
    await world.learn(world.prompt(asked()), said(text("x")))

    assert await world.reason(world.prompt(asked(), **other)) == "miss"


async def test_another_origin_behind_the_same_host_is_another_provider() -> None:
    here, there = World(anthropic="http://a"), World(anthropic="http://b")
    await here.learn(here.prompt(asked()), said(text("x")))
    there.shelf.entries = here.shelf.entries

    assert await there.reason(there.prompt(asked())) == "miss"


async def test_an_entry_past_its_age_is_not_served() -> None:
    world = World()
    await world.learn(world.prompt(asked()), said(text("x")))
    world.now_ns += 8 * DAY_NS

    assert await world.reason(world.prompt(asked())) == "miss"


async def test_what_is_behind_a_url_may_change_so_its_answer_ages_fast() -> None:
    world = World()
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/now.png"}}
    doc = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [image]}]}
    await world.learn(world.prompt(doc), said(text("x")))

    assert await world.body(world.prompt(doc))
    world.now_ns += 301 * 10**9
    assert await world.reason(world.prompt(doc)) == "miss"


async def test_a_temperature_above_the_limit_is_not_served() -> None:
    world = World(replace(POLICY, max_temperature=0.5))
    await world.learn(world.prompt(asked(temperature=0.2)), said(text("x")))

    assert await world.body(world.prompt(asked(temperature=0.2)))
    assert await world.reason(world.prompt(asked(temperature=0.7))) == "temperature"
    assert await world.reason(world.prompt(asked("no temperature: the provider's default is 1"))) == "temperature"


async def test_a_retry_is_served_and_a_loop_is_let_through() -> None:
    world = World()
    here = {"session": "s1"}
    await world.learn(world.prompt(asked(), **here), said(text("x")))

    assert await world.body(world.prompt(asked(), **here))
    assert await world.body(world.prompt(asked(), **here))
    assert await world.reason(world.prompt(asked(), **here)) == "loop"
    assert await world.body(world.prompt(asked(), session="s2"))


@pytest.mark.parametrize(
    ("policy", "expected"), [("serve", None), ("new-session", "again"), ("pass", "effect-mutating")]
)
async def test_a_mutating_answer_is_repeated_as_the_policy_says(policy: str, expected: str | None) -> None:
    world = World(replace(POLICY, mutating=policy))
    here = {"session": "s1"}
    await world.learn(world.prompt(asked(), **here), said(use("Bash", command="rm -rf build"), stop="tool_use"))
    world.now_ns += 3600 * 10**9

    if expected is None:
        assert await world.body(world.prompt(asked(), **here))
    else:
        assert await world.reason(world.prompt(asked(), **here)) == expected
    if policy != "pass":
        assert await world.body(world.prompt(asked(), session="s2"))


async def test_bypass_neither_reads_nor_writes_and_refresh_only_writes() -> None:
    world = World()
    await world.learn(world.prompt(asked(), control=CacheControl.BYPASS), said(text("never")))
    assert await world.reason(world.prompt(asked())) == "miss"

    await world.learn(world.prompt(asked()), said(text("old")))
    await world.learn(world.prompt(asked(), control=CacheControl.REFRESH), said(text("new")))
    assert b"new" in await world.body(world.prompt(asked()))


# --- OpenAI


def responded(name: str, words: str, **more: object) -> dict[str, object]:
    item = {
        "id": f"msg_{name}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "text": words}],
    }
    return {"id": f"resp_{name}", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-x", "output": [item], "usage": None, **more}  # fmt: skip


async def test_a_stored_response_keeps_the_providers_ids_and_an_unstored_one_does_not() -> None:
    world = World()
    name = "0123456789abcdef0123456789abcdef"
    for store in (True, False):
        doc = {"model": "gpt-x", "input": "hi", "store": store}
        await world.learn(world.prompt(doc, dialect=Dialect.OPENAI_RESPONSES), responded(name, "x"))
        body = json.loads(await world.body(world.prompt(doc, dialect=Dialect.OPENAI_RESPONSES)))

        assert (body["id"] == f"resp_{name}") is store
        assert (body["output"][0]["id"] == f"msg_{name}") is store


async def test_a_child_is_found_by_its_parents_state_not_by_its_parents_id() -> None:
    world = World()

    def ask(**doc: object) -> Prompt:
        return world.prompt({"model": "gpt-x", **doc}, dialect=Dialect.OPENAI_RESPONSES)

    await world.learn(ask(input="red or blue?"), responded("A", "red"))
    await world.learn(ask(input="why?", previous_response_id="resp_A"), responded("B", "because red"))
    assert b"because red" in await world.body(ask(input="why?", previous_response_id="resp_A"))
    assert await world.reason(ask(input="why?", previous_response_id="resp_Z")) == "miss"

    # The same first question asked again at the provider, once with the same answer, once with another one.
    again = replace(ask(input="red or blue?"), control=CacheControl.REFRESH)
    await world.learn(again, responded("C", "red"))
    assert b"because red" in await world.body(ask(input="why?", previous_response_id="resp_C"))
    other = replace(ask(input="red or blue?"), control=CacheControl.REFRESH)
    await world.learn(other, responded("D", "blue"))
    assert await world.reason(ask(input="why?", previous_response_id="resp_D")) == "miss"


async def test_a_child_of_another_directory_is_another_child() -> None:
    world = World()

    def ask(cwd: str) -> Prompt:
        return world.prompt(
            {"model": "gpt-x", "instructions": f"Working directory: {cwd}\n", "input": "go"},
            dialect=Dialect.OPENAI_RESPONSES,
        )

    def child(parent: str) -> Prompt:
        return world.prompt(
            {"model": "gpt-x", "input": "where?", "previous_response_id": parent}, dialect=Dialect.OPENAI_RESPONSES
        )

    await world.learn(ask("/srv/one"), responded("A", "ok"))
    await world.learn(child("resp_A"), responded("B", "in /srv/one"))
    await world.learn(replace(ask("/srv/two"), control=CacheControl.REFRESH), responded("C", "ok"))

    assert await world.reason(child("resp_C")) == "miss"


async def test_echoed_fields_are_the_current_requests() -> None:
    world = World()
    doc = {"model": "gpt-x", "input": "hi", "store": False, "prompt_cache_key": "old", "metadata": {"a": "1"}}
    await world.learn(
        world.prompt(doc, dialect=Dialect.OPENAI_RESPONSES),
        responded("A", "x", prompt_cache_key="old", metadata={"a": "1"}),
    )

    now = {**doc, "prompt_cache_key": "new", "metadata": {"b": "2"}}
    body = json.loads(await world.body(world.prompt(now, dialect=Dialect.OPENAI_RESPONSES)))

    assert (body["prompt_cache_key"], body["metadata"]) == ("new", {"b": "2"})


def chunks(*, usage: bool) -> bytes:
    base = {"id": "chatcmpl-0123456789abcdefghijkl", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    docs = [
        {**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hey"}, "finish_reason": None}]},
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if usage:
        docs.append({**base, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}})
    return b"".join(f"data: {json.dumps(doc)}\n\n".encode() for doc in docs) + b"data: [DONE]\n\n"


async def test_a_client_gets_the_usage_chunk_if_and_only_if_it_asked_for_it() -> None:
    world = World()

    def ask(**doc: object) -> Prompt:
        return world.prompt(
            {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}], **doc}, dialect=Dialect.OPENAI_CHAT
        )

    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    await world.learn(ask(stream=True), chunks(usage=False), Encoding.SSE)
    assert await world.reason(ask(**with_usage)) == "miss"
    assert await world.reason(ask()) == "miss"
    assert b"usage" not in await world.body(ask(stream=True))

    world.shelf.entries.clear()
    await world.learn(ask(**with_usage), chunks(usage=True), Encoding.SSE)
    assert b'"total_tokens": 3' in await world.body(ask(**with_usage))
    assert b"total_tokens" not in await world.body(ask(stream=True))
    assert json.loads(await world.body(ask()))["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("words", ["It is 14:05.", "about 2:05 pm utc", "2pm, early afternoon", "2 PM"])
async def test_an_answer_that_tells_the_recorded_time_does_not_serve_at_another(words: str) -> None:
    world = World()

    def ask(time: str) -> Prompt:
        text = f"<current_datetime>2026-11-22T{time}:13.376+00:00</current_datetime>\n\nWhat time is it?"
        return world.prompt(
            {"model": "m", "messages": [{"role": "user", "content": text}]}, dialect=Dialect.OPENAI_CHAT
        )

    message = {"role": "assistant", "content": words}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": None}
    await world.learn(ask("14:05"), {**answer, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    assert await world.reason(ask("09:41")) == "unfit-fragment"


async def test_two_servers_at_two_ports_of_one_host_are_two_providers() -> None:
    world = World()
    await world.learn(world.prompt(asked(), origin="http://llm.lan:8001"), said(text("x")))

    assert await world.reason(world.prompt(asked(), origin="http://llm.lan:8002")) == "miss"
    assert await world.reason(world.prompt(asked())) == "miss"
