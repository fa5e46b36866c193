"""What a test may ask the stand-in to do wrong, by header or for all calls.

Goal: every way in which a provider has been seen to fail, each under a short name; several are joined by commas, as in
``slow:0.5,cut``.

* ``NNN`` answers with that status; ``NNN:ra=S`` adds ``retry-after: S``, ``NNN:noretry`` adds ``x-should-retry: false``.
* ``slow:S`` waits before the head, ``trickle:S`` between the events, ``stall:S`` once in the middle; ``hang`` never answers.
* ``cut`` drops the connection in the middle of a chunked stream, ``cut-cl`` in the middle of a body with a length,
  ``cut-close`` ends a body that has neither after half of it; ``close`` sends a whole body that ends with the connection.
* ``garbage`` sends bytes that are no answer, ``empty`` nothing; ``sse_error`` an error event in the middle;
  ``noend`` ends cleanly but without the terminal event.
* ``thinking`` puts a signed block first; ``gzip`` encodes the answer.
* ``once:MODE`` applies MODE to the first call only; ``once:MODE#name`` does so for each name.

What this module does not do: it carries nothing out.
"""

from dataclasses import dataclass, replace

from promptweir.cli.standin_asks import Json
from promptweir.cli.standin_parts import fresh
from promptweir.cli.standin_wire import Api, Reply, error_event

MAX_HANG_S = 3600.0

_GARBAGE = b'event: message_start\ndata: {"type": "mess\xff\xfe\n\n<html>not an answer</html>\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A mode, read."""

    status: int = 0
    """The error to answer with; 0 for none."""
    headers: tuple[tuple[str, str], ...] = ()
    wait_s: float = 0.0
    event_wait_s: float = 0.0
    stall_s: float = 0.0
    cut: str = ""
    """``chunked``, ``length`` or ``close``: the framing that breaks off."""
    close: bool = False
    body: str = ""
    """``garbage``, ``empty``, ``error`` or ``noend``."""
    thinking: bool = False
    gzip: bool = False


def read_trouble(mode: str) -> Trouble:
    """Read a mode without its ``once:``; ``ValueError`` says which word is not one."""
    trouble = Trouble()
    for word in mode.split(","):
        trouble = _add(trouble, word.strip())
    return trouble


def _add(trouble: Trouble, word: str) -> Trouble:
    name, _, value = word.partition(":")
    match name:
        case "" | "normal":
            return trouble
        case "hang":
            return replace(trouble, wait_s=MAX_HANG_S)
        case "slow":
            return replace(trouble, wait_s=float(value))
        case "trickle":
            return replace(trouble, event_wait_s=float(value))
        case "stall":
            return replace(trouble, stall_s=float(value))
        case "cut":
            return replace(trouble, cut="chunked")
        case "cut-cl":
            return replace(trouble, cut="length")
        case "cut-close":
            return replace(trouble, cut="close", close=True)
        case "close":
            return replace(trouble, close=True)
        case "garbage" | "empty" | "noend":
            return replace(trouble, body=name)
        case "sse_error":
            return replace(trouble, body="error")
        case "thinking":
            return replace(trouble, thinking=True)
        case "gzip":
            return replace(trouble, gzip=True)
    if not (name.isdecimal() and 400 <= int(name) <= 599):
        raise ValueError(f"x-standin-mode has no {word}")
    headers: tuple[tuple[str, str], ...] = ()
    if value.startswith("ra="):
        headers = (("retry-after", value[3:]),)
    elif value == "noretry":
        headers = (("x-should-retry", "false"),)
    return replace(trouble, status=int(name), headers=headers)


_ANTHROPIC = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
              404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}  # fmt: skip
_GOOGLE = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
           429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip


def error_body(api: Api, status: int, message: str) -> dict[str, Json]:
    """Return the error document of *api* for *status*."""
    match api:
        case Api.MESSAGES:
            error: Json = {"type": _ANTHROPIC.get(status, "api_error"), "message": message}
            return {"type": "error", "error": error, "request_id": fresh("req_01", 22)}
        case Api.GEMINI:
            return {"error": {"code": status, "message": message, "status": _GOOGLE.get(status, "UNKNOWN")}}
        case _:
            kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
            code = "rate_limit_exceeded" if status == 429 else None
            return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def spoil(reply: Reply, api: Api, trouble: Trouble) -> list[bytes]:
    """Return the chunks of *reply* as *trouble* wants them."""
    chunks = list(reply.chunks)
    half = max(1, len(chunks) // 2)
    match trouble.body:
        case "garbage":
            return [_GARBAGE]
        case "empty":
            return [b""]
        case "error":
            return [*chunks[:half], error_event(api)]
        case "noend":
            return chunks[:-2] if api in (Api.CHAT, Api.MESSAGES) else chunks[:-1]
        case _:
            return chunks
