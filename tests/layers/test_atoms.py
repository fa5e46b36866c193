"""Atoms: what names this session, directory, home or moment, and what only looks like it."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptweir.layers.atoms import (
    CHUNK,
    CLOCK,
    CWD,
    FOLDER,
    HOME,
    MANGLED,
    MAX_ROOTS,
    TOOL_ID,
    UUID,
    WALL,
    Atom,
    Rules,
    declared,
    fragment_pattern,
    fragments_of,
    is_preamble,
    json_escaped,
    pieces_of,
    roots_of,
    search_in,
    spelled_as,
)

UUID_A, UUID_B = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"


def found(text: str, *roots: Atom, rules: Rules | None = None) -> list[str]:
    return [text[piece.start : piece.end] for piece in pieces_of(text, rules or Rules(), roots)]


# --- roots, in each client's own words

DECLARATIONS: dict[str, tuple[str, list[Atom]]] = {
    "Claude Code": (
        "# Environment\n - Primary working directory: /srv/app\n - Is a git repository: true\n",
        [(CWD, "/srv/app")],
    ),
    "Claude Code, older": ("<env>\nWorking directory: /srv/app\nIs directory a git repo: Yes\n</env>", [(CWD, "/srv/app")]),
    "Claude Code's memory": (
        "You have a memory directory at `/home/al/.claude/projects/-srv-app/memory/`.",
        [(HOME, "/home/al"), (MANGLED, "-srv-app")],
    ),
    "Claude Code on Windows": (
        "Working directory: C:\\Users\\Al Bo\\app\nmemory at C:\\Users\\Al Bo\\.claude\\projects\\C--Users-Al-Bo-app\\memory\\",
        [(CWD, "C:\\Users\\Al Bo\\app"), (HOME, "C:\\Users\\Al Bo"), (MANGLED, "C--Users-Al-Bo-app")],
    ),
    "Codex": (
        "<environment_context>\n  <cwd>/srv/app</cwd>\n  <shell>bash</shell>\n</environment_context>",
        [(CWD, "/srv/app")],
    ),
    "Codex, a folder with a blank at the end": ("<cwd>/srv/my app</cwd>", [(CWD, "/srv/my app")]),
    "Codex's workspace": ("<workspace_roots><root>/srv/app/</root></workspace_roots>", [(CWD, "/srv/app")]),
    "Codex's skills": ("- x: y (file: /home/al/.codex/skills/x/SKILL.md)", [(HOME, "/home/al")]),
    "Gemini CLI": (
        "- **Workspace Directories:**\n  - /srv/app\n- **Directory Structure:**\n"
        "The project's temporary directory is: /home/al/.gemini/tmp/app\n",
        [(CWD, "/srv/app"), (FOLDER, "/home/al/.gemini/tmp/app"), (HOME, "/home/al")],
    ),
    "OpenCode": (
        "<env>\n  Working directory: /srv/app\n  Workspace root folder: /srv\x2fapp\n  Is directory a git repo: yes\n</env>",
        [(CWD, "/srv/app")],
    ),
    "Copilot": (
        f"* Current working directory: /srv/app/sub\n* Git repository root: /srv/app\nSession folder: /home/al/.copilot/session-state/{UUID_A}\n",
        [(CWD, "/srv/app/sub"), (CWD, "/srv/app"), (FOLDER, f"/home/al/.copilot/session-state/{UUID_A}"), (HOME, "/home/al")],
    ),
    "a trailing slash": ("Working directory: /srv/app/\n", [(CWD, "/srv/app")]),
    "a trailing backslash": ("Working directory: D:\\w\\app\\\n", [(CWD, "D:\\w\\app")]),
    "a carriage return": ("Working directory: /srv/app\r\nmore", [(CWD, "/srv/app")]),
    "a drive with slashes": ("Working directory: C:/w/app\n", [(CWD, "C:/w/app")]),
    "a blank inside": ("Working directory: /Users/Al Bo/My Projects/app\n", [(CWD, "/Users/Al Bo/My Projects/app")]),
    "letters of another language": ("Working directory: /home/jürgen/日本語\n", [(CWD, "/home/jürgen/日本語")]),
    "a home with a blank": ("see /Users/Al Bo/.codex/x", [(HOME, "/Users/Al Bo")]),
    "a home after a label": ("HOME=/home/al/.codex/x and HOME:/home/bo/.codex/y", [(HOME, "/home/al"), (HOME, "/home/bo")]),
    "a Windows home with slashes": ("at C:/Users/al/.codex/x", [(HOME, "C:/Users/al")]),
    "root's home": ("at /root/.claude/projects/-srv-app/memory", [(HOME, "/root"), (MANGLED, "-srv-app")]),
}  # fmt: skip


@pytest.mark.parametrize("client", list(DECLARATIONS))
def test_a_preamble_declares_its_roots(client: str) -> None:
    text, roots = DECLARATIONS[client]

    assert declared(text) == roots


@pytest.mark.parametrize(
    "text",
    [
        "Working directory: relative/app\n",
        "Working directory: ~/app\n",
        "Working directory: /\n",
        "Working directory: C:\\\n",
        "Working directory:\n/srv/app\n",
        "Working directory: $HOME/app\n",
        "Working directory: /app\n",  # as likely the route of a web service
        "Working directory: /srv/app (main)\n",
        "Working directory: /srv/app on branch main\n",  # the remark would be left out of the key
        "Working directory: /srv/app, branch main\n",
        "Working directory: /srv/app.\n",
        "Working directory: /srv/it's\n",
        "Working directory: `/srv/app`\n",
        "Working directory: \\\\server\\share\n",
        "<cwd>relative</cwd>",
        "<root>/srv/app</root>",
        "the working directory is /srv/app",
        "~/.codex/config.toml",
        "$HOME/.codex/config.toml",
        "/x and $HOME/.codex/config.toml",
        "/x and foo/.codex/config.toml",
        ".codex/config.toml",
        "/.codex/config.toml",
    ],
)
def test_what_is_not_clearly_a_path_declares_nothing(text: str) -> None:
    assert declared(text) == []


def test_a_home_swallows_nothing_of_the_sentence_around_it() -> None:
    for before in ("Use a/b on and ", "feature /x is on, see ", "a: ", "`cat` ", "(", "x=/tmp/y;"):
        assert declared(before + "/home/al/.codex/x") == [(HOME, "/home/al")], before


def test_only_a_clients_own_preamble_may_declare() -> None:
    assert is_preamble("system", "x")
    assert is_preamble("developer", "x")
    assert is_preamble("user", "<environment_context>")
    for role in ("user", "assistant", "tool", "", "System"):
        assert not is_preamble(role, "Working directory: /srv/app")
        assert not is_preamble(role, " <environment_context>")


def test_roots_are_bounded_in_number_and_length() -> None:
    many = "".join(f"<cwd>/srv/a{index}</cwd>" for index in range(100))

    assert len(declared(many)) == MAX_ROOTS
    assert declared("<cwd>/srv/" + "a" * 5000 + "</cwd>") == []
    assert len(roots_of([(CWD, f"/srv/{index}") for index in range(100)])) == MAX_ROOTS


def test_one_path_of_two_kinds_is_one_root() -> None:
    assert roots_of([(CWD, "/home/al"), (HOME, "/home/al"), (HOME, "/home/bo")]) == (
        (CWD, "/home/al"),
        (HOME, "/home/bo"),
    )


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=80))
@example("Working directory: " + "/a " * 500)
@example("x" * 600 + "/.codex/" + "/ " * 600 + ".codex/")
def test_any_text_can_be_searched_for_declarations(text: str) -> None:
    for hint in ("", "Working directory: ", "Workspace Directories:**\n  - ", "<cwd>"):
        whole = hint + text + "/.codex/"
        for _, path in declared(whole):
            assert path in whole


# --- where a root stands

ROOT = (CWD, "/srv/app")


@pytest.mark.parametrize(
    "text",
    ["/srv/app", "/srv/app/x.py", "/srv/app.", "/srv/app,", "/srv/app:12", "(/srv/app)", "[/srv/app]", '"/srv/app"', "`/srv/app`", "'/srv/app'", "a=/srv/app", "a:/srv/app", "cd /srv/app && ls", "in /srv/app?", "/srv/app!", "file:///srv/app", "</srv/app>", "/srv/app\\n", "\\n/srv/app", "\\t/srv/app", "\n/srv/app\n", "/srv/app/", "/srv/app'", "/srv/app)"],
)  # fmt: skip
def test_a_root_is_found_where_it_is_a_whole_path_prefix(text: str) -> None:
    assert found(text, ROOT) == ["/srv/app"]


@pytest.mark.parametrize(
    "text",
    ["/srv/app2", "/srv/apple/x", "/srv/app-old", "/srv/app_old", "/srv/app.bak", "/srv/app.2", "/srv/appé", "x/srv/app", "x_/srv/app", "-/srv/app", "./srv/app", "~/srv/app", "$X/srv/app".replace("X", "}"), "${HOME}/srv/app", "**/srv/app", "#/srv/app", "@/srv/app", "%/srv/app", "?/srv/app", "f(x)/srv/app", "[x]/srv/app", "/srv/app~", "/srv/app+x", "/srv/app@2", "/srv/app%20x", "/srv/app$x", "/srv/app*", "/srv/app=x", "/srv/app#L1", "/srv/app{a,b}", "/SRV/APP", "/srv//app", "/srv/ap"],
)  # fmt: skip
def test_a_root_is_not_found_in_another_path(text: str) -> None:
    assert found(text, ROOT) == []


def test_of_nested_roots_the_longer_stands() -> None:
    home = (HOME, "/home/al")

    assert found("/home/al/app/x /home/al/y /home/al/app2", (CWD, "/home/al/app"), home) == ["/home/al/app", "/home/al", "/home/al"]  # fmt: skip
    assert found("/home/al/app", home, (CWD, "/home/al/app")) == ["/home/al/app"]


def test_a_mangled_path_is_no_option() -> None:
    root = (MANGLED, "-w")

    assert found("ls -w; /home/al/.claude/projects/-w/memory", root) == ["-w"]
    assert found("ls -w /-w2", root) == []


def test_a_windows_root_is_found_plain_and_inside_json_text() -> None:
    root = (CWD, "C:\\w\\app")
    text = "C:\\w\\app\\x and " + json.dumps({"p": "C:\\w\\app\\x"})

    pieces = pieces_of(text, Rules(), (root,))

    assert [text[piece.start : piece.end] for piece in pieces] == ["C:\\w\\app", "C:\\\\w\\\\app"]
    assert [spelled_as(piece, text, "D:\\z") for piece in pieces] == ["D:\\z", "D:\\\\z"]
    assert json_escaped("/srv/app") == "/srv/app"


# --- marks

TOOL = "toolu_01AbCdEfGhIjKlMnOpQrStUv"
CALL = "call_Ab3CdEf9GhIjKlMnOpQrStUv"

MARKS: list[tuple[str, list[Atom]]] = [
    (f"see {TOOL}.", [(TOOL_ID, TOOL)]),
    (f"see {CALL}.", [(TOOL_ID, CALL)]),
    (f"call_{'0a' * 16}", [(TOOL_ID, f"call_{'0a' * 16}")]),
    (f"x{TOOL} {TOOL}_x -{CALL}", []),
    ("toolu_short call_short", []),
    ("call_initializeTheApplicationState()", []),
    ("call_terminateapplicationprocess2()", []),
    ('{"chunk_id":"dd0a89","wall_time_seconds":0.0013,"exit_code":0}', [(CHUNK, "dd0a89"), (WALL, "0.0013")]),
    ('{"wall_time_seconds":9.99}', [(WALL, "9.99")]),
    ('{"wall_time_seconds":2.5e-05,"a":1}', [(WALL, "2.5e-05")]),
    ('{"wall_time_seconds":10.5}', []),
    ('{"wall_time_seconds":120}', []),
    ('{"chunk_id":"DD0A89"}', []),
    ('{"chunk_id":"dd0a8"}', []),
    ("Chunk ID: dd0a89\nWall time: 0.05 seconds\n", [(CHUNK, "dd0a89"), (WALL, "0.05")]),
    ("Wall time: 12.5 seconds", []),
    (f"/s/{UUID_A}/log \\{UUID_A}\\x", [(UUID, UUID_A), (UUID, UUID_A)]),
    (f"is {UUID_A} valid? x{UUID_A}", []),
    (f"/s/{UUID_A}x /s/{UUID_A}-1 /s/x{UUID_A}", []),
    ("<current_datetime>2026-11-22T11:48:13.376+00:00</current_datetime>", [(CLOCK, "T11:48:13.376+00:00")]),
    ("<current_datetime>2026-11-22</current_datetime>", []),
    ("<current_datetime>2026-11-22T11:48", []),
    ("<current_datetime>" + "x" * 200 + "</current_datetime>", []),
]


@pytest.mark.parametrize(("text", "atoms"), MARKS)
def test_marks_are_known_by_their_shape(text: str, atoms: list[Atom]) -> None:
    assert [piece.atom for piece in pieces_of(text, Rules(), ())] == atoms


@pytest.mark.parametrize(("clock", "rest"), [("day", ["T11:48:13.3Z"]), ("hour", [":48:13.3Z"]), ("minute", [":13.3Z"]), ("exact", [])])  # fmt: skip
def test_how_much_of_a_clock_counts_is_a_choice(clock: str, rest: list[str]) -> None:
    text = "<current_datetime>2026-11-22T11:48:13.3Z</current_datetime>"

    assert found(text, rules=Rules(clock=clock)) == rest


def test_which_uuids_count_is_a_choice() -> None:
    text = f"/s/{UUID_A} and {UUID_B}"

    assert found(text, rules=Rules(uuids="paths")) == [UUID_A]
    assert found(text, rules=Rules(uuids="all")) == [UUID_A, UUID_B]
    assert found(text, rules=Rules(uuids="none")) == []


# --- properties

_NAMES = st.sampled_from(["a", "b", "srv", "app", "app2", "al", "x y", "é"])
_PATHS = st.lists(_NAMES, min_size=2, max_size=4).map(lambda names: "/" + "/".join(names))
_WINDOWS = st.lists(_NAMES, min_size=1, max_size=3).map(lambda names: "C:\\" + "\\".join(names))
_ROOTS = st.lists(st.tuples(st.sampled_from([CWD, HOME, FOLDER]), _PATHS | _WINDOWS), max_size=3).map(roots_of)
_SCRAPS = st.sampled_from(
    ["/", "\\", " ", "n", "\\n", ".", "x", '"', "\n", TOOL, CALL, "/" + UUID_A, UUID_B, '"chunk_id":"dd0a89"', "Wall time: 0.5 seconds", "<current_datetime>2026-11-22T11:48</current_datetime>"]
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn, roots: tuple[Atom, ...]) -> str:
    scraps = st.one_of(_SCRAPS, _PATHS, _WINDOWS, *([st.sampled_from([path for _, path in roots])] if roots else []))
    return "".join(draw(st.lists(scraps, max_size=10)))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_pieces_are_in_order_do_not_overlap_and_spell_their_atoms(data: st.DataObject) -> None:
    roots = data.draw(_ROOTS)
    text = data.draw(texts(roots))

    at = 0
    for piece in pieces_of(text, Rules(), roots):
        assert at <= piece.start < piece.end <= len(text)
        assert text[piece.start : piece.end] in {piece.atom[1], json_escaped(piece.atom[1])}
        at = piece.end


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_cheap_look_at_the_bytes_overlooks_nothing(data: st.DataObject) -> None:
    roots = data.draw(_ROOTS)
    text = data.draw(texts(roots))
    rules = Rules(clock=data.draw(st.sampled_from(["day", "exact"])), uuids=data.draw(st.sampled_from(["paths", "all", "none"])))  # fmt: skip
    inner = json.dumps({"deep": text}) if data.draw(st.booleans()) else text
    raw = json.dumps({"t": inner}, ensure_ascii=data.draw(st.booleans())).encode()
    if data.draw(st.booleans()):
        raw = raw.replace(b"/", b"\\/")

    search = search_in(raw, rules, roots, tool_output=True)

    assert json.loads(raw) == {"t": inner}
    assert (search.pieces(inner) if search else []) == pieces_of(inner, rules, roots)


# --- what gives an old atom away


def tells(old: Atom, new: Atom, text: str) -> bool:
    fragments = fragments_of(old, new)
    return bool(fragments) and fragment_pattern(tuple(fragments)).search(text.lower()) is not None


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("/srv/app", "/srv/web", "the App project"),
        ("/srv/app", "/srv/web", "~/app-backup"),
        ("/srv/app", "/srv/web", "-srv-app"),
        ("/srv/app", "/srv/web", 'echo "x\\napp"'),
        ("/srv/app", "/srv/app/sub", "the project is called app"),
        ("/srv/app/sub", "/srv/app", "look into sub"),
        ("/home/al/app", "/home/app/al", "the folder app"),
        ("/home/al/app", "/home/app/al", "user al"),
        ("/srv/a", "/srv/b", "see ../a/x"),
        ("/srv/a", "/srv/b", "see ~/a"),
        ("/home/jürgen/app", "/home/olga/app", "/home/jürgen/app"),
        ("/home/jürgen/app", "/home/olga/app", "/home/ju\u0308rgen/app"),
        ("/home/jürgen/app", "/home/olga/app", r'{"p": "/home/j\u00fcrgen/app"}'),
        ("/home/jürgen/app", "/home/olga/app", "file:///home/j%C3%BCrgen/app"),
        ("/srv/my+app", "/srv/web", "file:///srv/my%2Bapp"),
        ("/srv/my app", "/srv/web", "file:///srv/my%20app"),
        ("C:\\Users\\al\\app", "C:\\Users\\bo\\app", "c:/users/AL/app"),
        ("C:\\Users\\al\\app", "C:\\Users\\bo\\app", "/mnt/c/Users/al"),
    ],
)
def test_a_name_of_the_old_path_tells(old: str, new: str, text: str) -> None:
    assert tells((CWD, old), (CWD, new), text)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("/srv/app", "/srv/web", "an apple, applied; snapp"),
        ("/srv/app", "/opt/app", "the app"),
        ("/home/al/app", "/home/bo/app", "home app"),
        ("/srv/app", "/srv/app", "app"),
        ("/srv/a", "/srv/b", "a word with an a in it"),
        ("/srv/app", "/srv/web", ""),
    ],
)
def test_what_the_new_path_shares_does_not(old: str, new: str, text: str) -> None:
    assert not tells((CWD, old), (CWD, new), text)


def test_other_atoms_tell_by_their_spelling() -> None:
    assert tells((UUID, UUID_A), (UUID, UUID_B), f"id {UUID_A[:8]}")
    assert tells((TOOL_ID, TOOL), (TOOL_ID, CALL), TOOL)
    assert tells((CLOCK, "T11:48:13Z"), (CLOCK, "T12:00:00Z"), "it is 11:48 now")
    assert not tells((CLOCK, "T11:48:13Z"), (CLOCK, "T11:48:59Z"), "it is 11:48 now")


@settings(max_examples=80, deadline=None)
@given(_PATHS | _WINDOWS, _PATHS | _WINDOWS)
def test_an_old_path_left_in_a_text_tells_unless_it_is_spelled_like_the_new_one(old: str, new: str) -> None:
    if old.lower() != new.lower() and all(old.count(sign) == new.count(sign) for sign in "/\\"):
        for text in (old, f"see {old}/x", json.dumps(old), f"'{old}'"):
            assert tells((CWD, old), (CWD, new), text), (old, new)
