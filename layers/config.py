"""The options: declared once, here, as data.

The shell registers this table with mitmproxy, the command line prints it, README's table is generated from it, and
``config_of`` turns the values into the frozen ``Config`` that the hot path reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from promptweir.layers.contract import Dialect

PREFIX = "promptweir_"

MAX_SECONDS = 100 * 365 * 86_400
"""A hundred years; times are counted in nanoseconds, in 64 bits."""
MAX_NUMBER = 1 << 53

type Value = bool | int | str


@dataclass(frozen=True, slots=True)
class Option:
    """One option.  ``type(default)`` is its type; ``choices`` narrows a string."""

    name: str
    default: Value
    unit: str
    help: str
    choices: tuple[str, ...] = ()


OPTIONS: tuple[Option, ...] = (
    Option(
        "promptweir_state",
        "",
        "folder",
        "Where the cache, the CA and the counters live; empty: the user's state folder.",
    ),
    Option(
        "promptweir_hosts",
        "",
        "list",
        "More LLM API hosts to decrypt, comma-separated; `*.example.com` covers subdomains.",
    ),
    Option(
        "promptweir_paths",
        "",
        "list",
        "More paths that carry LLM calls, with their dialect: `/llm/v2/chat=openai-chat,...` (see `layers/contract.py`).",
    ),
    Option(
        "promptweir_upstream",
        "",
        "list",
        "Send a provider's calls to another origin: `api.anthropic.com=http://127.0.0.1:9100,...`; the path stays.",
    ),
    Option(
        "promptweir_headers",
        True,
        "",
        "Add x-promptweir-layer, x-promptweir-deflected and x-promptweir-provider to answers.",
    ),
    Option(
        "promptweir_request_max_bytes",
        32 << 20,
        "bytes",
        "Larger request bodies stream through without being looked at.",
    ),
    Option("promptweir_answer_max_bytes", 16 << 20, "bytes", "Larger answers stream through without being learned."),
    Option(
        "promptweir_tenant_shared",
        False,
        "",
        "All credentials seen by this proxy belong to one person and share the cache.",
    ),
    Option(
        "promptweir_tenant_proof",
        "auto",
        "",
        "When an account named by a rotating OAuth token counts only after the provider accepted that token: `always`, "
        "`never`, or `auto` (when the proxy listens beyond loopback).",
        ("auto", "always", "never"),
    ),
    Option(
        "promptweir_websocket_426",
        True,
        "",
        "Answer Codex's WebSocket upgrade with 426, so that it falls back to POST at once.",
    ),
    Option("promptweir_native_model", "gpt-4o-mini", "", "Model behind `POST /api/chat` when the request names none."),
    Option("promptweir_l1a_enabled", True, "", "Answer exact repeats from the cache."),
    Option("promptweir_l1a_ttl_s", 7 * 86400, "seconds", "Age after which a learned answer is no longer served."),
    Option(
        "promptweir_l1a_remote_ttl_s",
        300,
        "seconds",
        "The same for calls that name an image or file by URL: what is behind a URL may change.",
    ),
    Option(
        "promptweir_l1a_max_bytes",
        2 << 30,
        "bytes",
        "Size of the stored answers, compressed; the least recently used go first.",
    ),
    Option("promptweir_l1a_max_entries", 1_000_000, "entries", "Number of stored answers."),
    Option("promptweir_l1a_front_max_bytes", 64 << 20, "bytes", "Size of the memory front before the database."),
    Option("promptweir_l1a_max_temperature", "", "", "Serve repeats only up to this temperature; empty: at any."),
    Option(
        "promptweir_l1a_read_only",
        "serve",
        "",
        "Answers whose tool calls only read: `serve`, `new-session` (not twice in one session), or `pass`.",
        ("serve", "new-session", "pass"),
    ),
    Option(
        "promptweir_l1a_mutating",
        "new-session",
        "",
        "Answers whose tool calls change something, or may: `serve`, `new-session` (not twice in one session), or `pass`.",
        ("serve", "new-session", "pass"),
    ),
    Option(
        "promptweir_l1a_retry_window_s",
        60,
        "seconds",
        "A repeat in one session this soon after the first is taken for a retry.",
    ),
    Option(
        "promptweir_l1a_loop_repeats",
        3,
        "calls",
        "The same call this often in one session is a loop: let through and flagged.",
    ),
    Option(
        "promptweir_l1a_clock",
        "day",
        "",
        "How much of a client's wall-clock stamp counts as part of the question: `day`, `hour`, `minute` or `exact`.",
        ("day", "hour", "minute", "exact"),
    ),
    Option(
        "promptweir_l1a_uuids",
        "paths",
        "",
        "Which UUIDs are renamed: those in `paths` and known session fields, `all`, or `none`.",
        ("paths", "all", "none"),
    ),
    Option(
        "promptweir_l1a_relocate",
        True,
        "",
        "Rename working directory and home, so that answers serve another checkout or home.",
    ),
    Option(
        "promptweir_l1a_provider_tools",
        False,
        "",
        "Also learn answers in which the provider's own tools (web search ...) took part.",
    ),
    Option("promptweir_flight_enabled", True, "", "Identical calls in flight share one call to the provider."),
    Option(
        "promptweir_flight_wait_s",
        600,
        "seconds",
        "How long a call waits for an identical one in flight before it goes out itself.",
    ),
    Option(
        "promptweir_trips_max",
        100_000,
        "rows",
        "Calls remembered for `stats` and `why`; older ones only count in the totals.",
    ),
)

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a provider's calls really go."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options, parsed."""

    state: str
    hosts: tuple[str, ...]
    paths: Mapping[str, Dialect]
    upstream: Mapping[str, Origin]
    headers: bool
    request_max_bytes: int
    answer_max_bytes: int
    tenant_shared: bool
    tenant_proof: str
    websocket_426: bool
    native_model: str
    l1a_enabled: bool
    l1a_ttl_s: int
    l1a_remote_ttl_s: int
    l1a_max_bytes: int
    l1a_max_entries: int
    l1a_front_max_bytes: int
    l1a_max_temperature: float | None
    l1a_read_only: str
    l1a_mutating: str
    l1a_retry_window_s: int
    l1a_loop_repeats: int
    l1a_clock: str
    l1a_uuids: str
    l1a_relocate: bool
    l1a_provider_tools: bool
    flight_enabled: bool
    flight_wait_s: int
    trips_max: int


def value_of(option: Option, text: str) -> Value:
    """Read *text*, as given on a command line or in the environment, as a value of *option*; ``ValueError`` if it is none."""
    match option.default:
        case bool():
            lowered = text.strip().lower()
            if lowered in {"true", "1", "yes", "on"}:
                return True
            if lowered in {"false", "0", "no", "off"}:
                return False
            raise ValueError(f"{option.name} must be true or false, not {text!r}")
        case int():
            try:
                return int(text)
            except ValueError:
                raise ValueError(f"{option.name} must be a whole number, not {text!r}") from None
        case str():
            return text


def config_of(values: Mapping[str, object]) -> Config:
    """Return the Config for *values* (full option names); names left out take their default.

    Raises ``ValueError`` with one sentence that names the option, what was seen and what was wanted.
    """
    checked = {option.name: _checked(option, values.get(option.name, option.default)) for option in OPTIONS}

    def flag(name: str) -> bool:
        return bool(checked[PREFIX + name])

    def number(name: str) -> int:
        return int(checked[PREFIX + name])

    def text(name: str) -> str:
        return str(checked[PREFIX + name])

    return Config(
        state=text("state"),
        hosts=_hosts(text("hosts")),
        paths=_paths(text("paths")),
        upstream=_origins(text("upstream")),
        headers=flag("headers"),
        request_max_bytes=number("request_max_bytes"),
        answer_max_bytes=number("answer_max_bytes"),
        tenant_shared=flag("tenant_shared"),
        tenant_proof=text("tenant_proof"),
        websocket_426=flag("websocket_426"),
        native_model=text("native_model"),
        l1a_enabled=flag("l1a_enabled"),
        l1a_ttl_s=number("l1a_ttl_s"),
        l1a_remote_ttl_s=number("l1a_remote_ttl_s"),
        l1a_max_bytes=number("l1a_max_bytes"),
        l1a_max_entries=number("l1a_max_entries"),
        l1a_front_max_bytes=number("l1a_front_max_bytes"),
        l1a_max_temperature=_temperature(text("l1a_max_temperature")),
        l1a_read_only=text("l1a_read_only"),
        l1a_mutating=text("l1a_mutating"),
        l1a_retry_window_s=number("l1a_retry_window_s"),
        l1a_loop_repeats=number("l1a_loop_repeats"),
        l1a_clock=text("l1a_clock"),
        l1a_uuids=text("l1a_uuids"),
        l1a_relocate=flag("l1a_relocate"),
        l1a_provider_tools=flag("l1a_provider_tools"),
        flight_enabled=flag("flight_enabled"),
        flight_wait_s=number("flight_wait_s"),
        trips_max=number("trips_max"),
    )


def _checked(option: Option, value: object) -> Value:
    match option.default, value:
        case (bool(), bool()):
            return value
        case (int(), int()) if not isinstance(option.default, bool) and not isinstance(value, bool):
            if value < 0:
                raise ValueError(f"{option.name} must not be negative, not {value}")
            if value > (most := MAX_SECONDS if option.unit == "seconds" else MAX_NUMBER):
                raise ValueError(f"{option.name} must be at most {most}, not {value}")
            return value
        case (str(), str()):
            if option.choices and value not in option.choices:
                raise ValueError(f"{option.name} must be one of {', '.join(option.choices)}, not {value!r}")
            return value
    raise ValueError(f"{option.name} must be of type {type(option.default).__name__}, not {value!r}")


def _temperature(text: str) -> float | None:
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        raise ValueError(f"promptweir_l1a_max_temperature must be a number or empty, not {text!r}") from None
    if not 0 <= limit <= 10:
        raise ValueError(f"promptweir_l1a_max_temperature must be in 0..10, not {text}")
    return limit


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower().rstrip(".") for part in text.split(",") if part.strip())
    for host in hosts:
        bare = host.removeprefix("*.")
        if not bare or any(c in bare for c in "*?[]/: @"):
            raise ValueError(
                f"promptweir_hosts takes host names such as llm.example.com or *.example.com, not {host!r}"
            )
    return hosts


def _paths(text: str) -> dict[str, Dialect]:
    paths: dict[str, Dialect] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        path, sign, name = part.partition("=")
        if not sign or not path.startswith("/") or name.strip() not in set(Dialect):
            raise ValueError(f"promptweir_paths takes /path=dialect with one of {', '.join(Dialect)}, not {part!r}")
        paths[path.strip()] = Dialect(name.strip())
    return paths


def _origins(text: str) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        host, sign, url = part.partition("=")
        split = urlsplit(url.strip())
        try:
            port = split.port
        except ValueError:
            port = -1
        if not sign or not host.strip() or split.scheme not in {"http", "https"} or not split.hostname or port == -1:
            raise ValueError(
                f"promptweir_upstream takes host=origin such as api.openai.com=http://127.0.0.1:9100, not {part!r}"
            )
        if split.path not in {"", "/"} or split.query:
            raise ValueError(f"promptweir_upstream takes an origin without a path, not {url!r}")
        origins[host.strip().lower()] = Origin(
            scheme=split.scheme, host=split.hostname, port=port or (443 if split.scheme == "https" else 80)
        )
    return origins
