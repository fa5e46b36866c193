"""Attempts to get a wrong answer, or another's, out of the cache by the front door."""

import base64
import json
from urllib.parse import quote

import pytest

from tests.faults.client import ANTHROPIC, CHAT, OPENAI, fresh, question
from tests.faults.provider import Exchange, Provider, Script, chat, chat_stream, messages
from tests.faults.proxy import Proxy

OLD, NEW = "/home/alice/crawler", "/srv/bob/checkouts/shop"
NAMES = ("alice", "crawler")


def _says(body: bytes, content_type: str = "application/json") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(body, content_type)

    return script


def _streams(chunks: list[bytes]) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(chunks)

    return script


def _in(folder: str, text: str, **more: object) -> bytes:
    """A question of an agent that works in *folder*."""
    return json.dumps(
        {
            "model": "gpt-4o",
            "messages": [
                {"role": "system", "content": f"You are a coding agent.\nWorking directory: {folder}\nBe brief."},
                {"role": "user", "content": text},
            ],
            **more,
        }
    ).encode()


def _backslashes(text: str) -> str:
    return text.replace("/", "\\")


SPELLINGS = {
    "plain": OLD,
    "inside": f"{OLD}/src/main.py",
    "file URL": f"file://{OLD}/x.py",
    "percent-encoded": quote(OLD, safe=""),
    "percent-encoded, lower": quote(OLD, safe="").lower(),
    "percent-encoded twice": quote(quote(OLD, safe=""), safe=""),
    "upper case": OLD.upper(),
    "title case": OLD.title(),
    "tilde": "~/crawler/x.py",
    "tilde of a user": "~alice/x.py",
    "variable": "$HOME/crawler",
    "base64": base64.b64encode(OLD.encode()).decode(),
    "base64 of a command": base64.b64encode(f"cd {OLD} && make".encode()).decode(),
    "base64, shifted": base64.b64encode(f"x {OLD}".encode()).decode(),
    "base64, URL-safe": base64.urlsafe_b64encode(f"?>{OLD}".encode()).decode(),
    "hexadecimal": OLD.encode().hex(),
    "backslashes": _backslashes(OLD),
    "JSON": json.dumps({"path": OLD}),
    "JSON with escaped slashes": json.dumps({"path": OLD}).replace("/", "\\/"),
    "JSON in JSON": json.dumps(json.dumps({"path": OLD})),
    "unicode escapes": "".join(f"\\u{ord(char):04x}" for char in OLD),
    "HTML": OLD.replace("/", "&#x2F;"),
    "HTML, decimal": OLD.replace("/", "&#47;"),
    "mangled": OLD.replace("/", "-"),
    "mangled, underscores": OLD.replace("/", "_"),
    "dotted": OLD.strip("/").replace("/", "."),
    "folder's name": "the project is called crawler",
    "folder's name in a word": "import crawler_settings",
    "folder's name in CamelCase": "class CrawlerApp: ...",
    "user's name": "hello alice",
    "user's name, possessive": "alice's file",
    "parent": "cd /home/alice && ls",
    "relative": "cd ../crawler",
    "quoted pieces": '"/home/" + "alice" + "/crawler"',
    "joined": "os.path.join('/home', 'alice', 'crawler')",
    "spaced": "/ home / alice / crawler",
    "sibling": "/home/alice/crawler2 and /home/alice/crawler-old",
    "zero width": "/home/al\u200bice/craw\u200bler",
    "soft hyphen": "/home/al\u00adice/x",
    "fullwidth": "".join(chr(ord(char) + 0xFEE0) if char.isalpha() else char for char in OLD),
    "reversed": OLD[::-1],
    "two lines": "/home/alice\n/crawler",
}
OUT_OF_REACH = {"reversed", "percent-encoded twice", "unicode escapes"}
"""Spellings that no real answer has been seen to use."""


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name not in OUT_OF_REACH])
@pytest.mark.parametrize("layout", ["json", "stream", "arguments"])
def test_an_answer_that_names_the_old_folder_in_any_spelling_serves_no_other(
    proxy: Proxy, provider: Provider, name: str, layout: str
) -> None:
    said = f"See: {SPELLINGS[name]}"
    case = fresh()
    if layout == "stream":
        whole = chat_stream("")
        pieces = [said[at : at + 3] for at in range(0, len(said), 3)]
        head = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
        deltas = [
            b"data: "
            + json.dumps(
                {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
            ).encode()
            + b"\n\n"
            for piece in pieces
        ]
        script = _streams([whole[0], *deltas, *whole[-2:]])
    elif layout == "arguments":
        call = {"id": "call_0123456789abcdefghijkl", "type": "function",
                "function": {"name": "read_file", "arguments": json.dumps({"command": said})}}  # fmt: skip
        script = _says(chat("", "tool_calls", tool_calls=[call]))
    else:
        script = _says(chat(said))
    provider.script(case, script)
    more: dict[str, object] = {"stream": True} if layout == "stream" else {}
    with proxy.connect() as client:
        first = client.ask(_in(OLD, case, **more), case=case)
        assert not first.deflected
        assert client.ask(_in(OLD, case, **more), case=case).deflected, "at home it serves"
        second = client.ask(_in(NEW, case, **more), case=case)
    if second.deflected:
        text = second.body.decode().lower()
        if layout == "stream":
            events = [json.loads(line[6:]) for line in second.body.decode().splitlines() if line[6:7] == "{"]
            text = "".join(one["choices"][0]["delta"].get("content") or "" for one in events).lower()
        text = text.replace("\u200b", "").replace("\u00ad", "")
        for word in NAMES:
            assert word not in text, text
        assert SPELLINGS[name].lower() not in text


PLACES = [
    ("/home/al/app", "/home/al/work/app", "cd /home/al && ls", "/home/al"),
    ("/home/al/app", "/home/al/app/sub", "your project is called app", "called app"),
    ("/home/al/app", "/srv/app/al", "the project is app", "is app"),
    ("/home/alice/app", "/home/al/app", "see /home/alice_backup/app", "alice"),
    ("/home/al/app", "/home/al/work/app", "open ~/app/x.py", "~/app"),
    ("/home/al/app", "/home/al/work/app", "open $HOME/app/x.py", "$HOME/app"),
    ("/home/al/app", "/home/al/work/app", "it lies two levels below /home: /home/al", "/home/al"),
    ("/home/a/x1", "/home/b/x1", "the user is a, see /home/a/.bashrc", "/home/a/"),
    ("/home/jos\u00e9/x", "/home/ann/x", "hola jos\u00e9", "jos"),
    ("/home/jose\u0301/x", "/home/ann/x", "hola jos\u00e9", "jos"),
    ("/home/al/my project", "/home/al/shop", "open my%20project/x", "my%20project"),
    ("/home/al/my project", "/home/al/shop", "cd my\\ project", "my\\\\ project"),
    ("C:\\Users\\al\\app", "C:\\Users\\bo\\app", "see C:/Users/al/x", "/al/"),
    ("C:\\Users\\al\\app", "C:\\Users\\bo\\app", "see /c/Users/al/app", "/al/"),
    ("C:\\Users\\al\\app", "C:\\Users\\bo\\app", "see C:\\\\Users\\\\al\\\\app2", "al"),
    ("C:\\Users\\al\\app", "/home/bo/app", "see x\\y", "x\\\\y"),
]


@pytest.mark.parametrize(("old", "new", "said", "wrong"), PLACES, ids=range(len(PLACES)))
def test_an_answer_that_would_be_false_in_the_new_place_is_not_given_there(
    proxy: Proxy, provider: Provider, old: str, new: str, said: str, wrong: str
) -> None:
    case = fresh()
    provider.script(case, _says(chat(said)))
    with proxy.connect() as client:
        client.ask(_in(old, case), case=case)
        assert client.ask(_in(old, case), case=case).deflected
        second = client.ask(_in(new, case), case=case)
    assert not (second.deflected and wrong in second.body.decode()), second.body


SAME_KEY: list[tuple[str, str, str]] = [
    ("a duration in the user's own words", "Is this slow? Wall time: 1 seconds", "Is this slow? Wall time: 9 seconds"),
    ("a chunk id", "Is it even? Chunk ID: 000001", "Is it even? Chunk ID: 000002"),
    ("ids swapped", "First? call_aaaaaaaaaaaaaaaaaaaa1a1 call_bbbbbbbbbbbbbbbbbbbb1b1",
     "First? call_bbbbbbbbbbbbbbbbbbbb1b1 call_aaaaaaaaaaaaaaaaaaaa1a1"),
    ("an id", "Does it hold a 9? toolu_01ABCDEFGHIJKLMNOPQRSTU9", "Does it hold a 9? toolu_01ABCDEFGHIJKLMNOPQRSTU8"),
    ("upper and lower case", "Hello", "hello"),
    ("white space", "a b", "a  b"),
    ("composed and decomposed letters", "caf\u00e9", "cafe\u0301"),
    ("a number and its text", "1", "1.0"),
    ("a trailing blank", "x", "x "),
    ("a line end", "a\nb", "a\r\nb"),
    ("NUL", "a", "a\0"),
    ("a lookalike", "paypal", "p\u0430ypal"),
    ("our own mark", "tool-id", "\0tool-id"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "one", "other"), SAME_KEY, ids=[name for name, *_ in SAME_KEY])
def test_two_questions_that_differ_are_never_one(
    proxy: Proxy, provider: Provider, name: str, one: str, other: str
) -> None:
    case = fresh()
    with proxy.connect() as client:
        for text in (one, other):
            assert not client.ask(question(f"{case} {text}"), case=case).deflected, name
    assert len(provider.asked(case)) == 2


ENVELOPES: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"content": "a"}, {"content": [{"type": "text", "text": "b"}]}),
    ({"content": "x", "name": "al"}, {"content": "x", "name": "bo"}),
    ({"content": "x"}, {"content": "x", "unknown": 1}),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"content": [{"type": "text", "text": "ab"}]}),
    ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
     {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAB"}}]}),
    ({"content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "y"}]},
     {"content": [{"type": "text", "text": "x"}, {"type": "text", "text": "z"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ENVELOPES, ids=range(len(ENVELOPES)))
def test_messages_that_differ_in_anything_that_counts_are_different(
    proxy: Proxy, provider: Provider, one: dict[str, object], other: dict[str, object]
) -> None:
    case = fresh()
    with proxy.connect() as client:
        for message in (one, other):
            doc = {"model": "gpt-4o", "messages": [{"role": "system", "content": case}, {"role": "user", **message}]}
            assert not client.ask(json.dumps(doc).encode(), case=case).deflected


CREDENTIALS: list[list[tuple[str, str]]] = [
    [("authorization", "Bearer sk-one")], [("authorization", "Bearer sk-two")], [("authorization", "bearer sk-one ")],
    [("x-api-key", "sk-one")], [("api-key", "sk-one")], [("x-goog-api-key", "sk-one")], [],
    [("authorization", "Bearer sk-one"), ("x-api-key", "sk-two")],
    [("authorization", "Bearer sk-one"), ("authorization", "Bearer sk-two")],
    [("authorization", "Basic c2stb25l")], [("cookie", "session=1")], [("cookie", "session=2")],
    [("authorization", "AWS4-HMAC-SHA256 Credential=AKIAAAAAAAAAAAAAAAA1/x, Signature=1")],
    [("authorization", "AWS4-HMAC-SHA256 Credential=AKIAAAAAAAAAAAAAAAA2/x, Signature=1")],
    [("authorization", "Bearer sk-one"), ("openai-organization", "org-1")],
    [("authorization", "Bearer sk-one"), ("openai-project", "p-1")],
]  # fmt: skip


def test_no_credential_gets_the_answer_of_another(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        for number, headers in enumerate(CREDENTIALS):
            lines = [f"POST {CHAT} HTTP/1.1", f"host: {OPENAI}", f"x-case: {case}", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers]
            client.send("\r\n".join([*lines, "", ""]).encode() + body)
            reply = client.reply()
            assert not reply.deflected, (number, headers)
    assert len(provider.asked(case)) == len(CREDENTIALS)


def test_an_answer_of_one_provider_is_never_that_of_another(proxy: Proxy, provider: Provider) -> None:
    """The same path, body and key at two hosts are two questions."""
    case = fresh()
    body = question(case)
    for host in (OPENAI, ANTHROPIC, "generativelanguage.googleapis.com"):
        with proxy.connect(host) as client:
            assert not client.ask(body, case=case, path=CHAT, headers=[("authorization", "Bearer sk-x")]).deflected
    assert len(provider.asked(case)) == 3


def _tool_turns(ids: list[str]) -> list[dict[str, object]]:
    calls: list[object] = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids]
    results: list[dict[str, object]] = [{"role": "tool", "tool_call_id": one, "content": "ok"} for one in ids]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


def test_new_tool_ids_are_unique_in_the_conversation_and_unlike_the_recorded(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    calls = [
        {"id": f"call_{letter * 24}", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
        for letter in "ab"
    ]
    provider.script(case, _says(chat("", "tool_calls", tool_calls=calls)))
    ids: set[str] = set()
    with proxy.connect() as client:
        for _ in range(4):
            reply = client.ask(question(case), case=case)
            made = json.loads(reply.body)["choices"][0]["message"]["tool_calls"]
            assert ids.isdisjoint(one["id"] for one in made)
            ids |= {one["id"] for one in made}
    assert len(ids) == 8
    assert len(provider.asked(case)) == 1


def test_which_result_belongs_to_which_call_counts_whatever_the_ids_are(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    first = _tool_turns(["call_x", "call_y"])
    renamed = _tool_turns(["call_1", "call_2"])
    crossed = _tool_turns(["call_x", "call_y"])
    crossed[1]["tool_call_id"], crossed[2]["tool_call_id"] = "call_y", "call_x"
    doubled = _tool_turns(["call_x", "call_x"])
    seen = []
    with proxy.connect() as client:
        for turns in (first, renamed, crossed, doubled):
            doc = {"model": "gpt-4o", "messages": [{"role": "user", "content": case}, *turns]}
            seen.append(client.ask(json.dumps(doc).encode(), case=case).deflected)
    assert seen == [False, True, False, False]


def test_a_loop_is_let_through_to_the_provider(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    seen = []
    with proxy.connect() as client:
        for _ in range(6):
            reply = client.ask(question(case), case=case, headers=[("x-session-id", case)])
            seen.append(reply.deflected)
    assert seen[1]
    assert not all(seen[1:]), "the same answer for ever"
    assert len(provider.asked(case)) > 1


def test_a_signed_block_is_given_back_as_it_was_or_not_at_all(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    doc = json.loads(messages("done"))
    thinking = {"type": "thinking", "thinking": f"They work in {OLD}.", "signature": "c2lnbmVk"}
    doc["content"] = [thinking, {"type": "text", "text": "done"}]
    provider.script(case, _says(json.dumps(doc).encode()))

    def body(folder: str) -> bytes:
        text = f"You help.\nWorking directory: {folder}\nx"
        return json.dumps(
            {"model": "m", "max_tokens": 9, "system": text, "messages": [{"role": "user", "content": case}]}
        ).encode()

    with proxy.connect(ANTHROPIC) as client:
        client.ask(body(OLD), case=case)
        again = client.ask(body(OLD), case=case)
        assert again.deflected
        assert json.loads(again.body)["content"][0] == thinking
        assert not client.ask(body(NEW), case=case).deflected


def test_log_probabilities_of_the_old_path_serve_no_other(proxy: Proxy, provider: Provider) -> None:
    case = fresh()
    doc = json.loads(chat(f"in {OLD} now"))
    tokens = ["in", " /home", "/al", "ice", "/craw", "ler", " now"]
    doc["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -0.1, "bytes": list(token.encode()),
                                                  "top_logprobs": []} for token in tokens]}  # fmt: skip
    provider.script(case, _says(json.dumps(doc).encode()))
    with proxy.connect() as client:
        client.ask(_in(OLD, case), case=case)
        assert client.ask(_in(OLD, case), case=case).deflected
        second = client.ask(_in(NEW, case), case=case)
    assert not second.deflected, second.body


def test_a_field_that_nobody_knows_is_not_overlooked_in_an_answer(proxy: Proxy, provider: Provider) -> None:
    for place in ("top", "choice", "message"):
        case = fresh()
        doc = json.loads(chat("ok"))
        holder = {"top": doc, "choice": doc["choices"][0], "message": doc["choices"][0]["message"]}
        holder[place]["debug"] = {"cwd": [{"path": OLD}]}
        provider.script(case, _says(json.dumps(doc).encode()))
        with proxy.connect() as client:
            client.ask(_in(OLD, case), case=case)
            second = client.ask(_in(NEW, case), case=case)
        assert not (second.deflected and OLD in second.body.decode()), place


def test_a_client_cannot_plant_an_answer_for_another(proxy: Proxy, provider: Provider) -> None:
    """Control headers, forged headers of ours, and a bypass leave no entry that others would get."""
    case = fresh()
    body = question(case)
    with proxy.connect() as client:
        client.ask(
            body,
            case=case,
            key="sk-mallory",
            headers=[("x-promptweir-deflected", "true"), ("x-promptweir-layer", "l1a")],
        )
        assert not client.ask(body, case=case, key="sk-victim").deflected
        other = question(fresh())
        client.ask(other, case=case, headers=[("x-promptweir-cache", "bypass")])
        assert not client.ask(other, case=case).deflected
