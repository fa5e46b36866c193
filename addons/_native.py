"""The shell of the native call: point the flow at the provider that its model means, and translate the answer back."""

from mitmproxy import http

from promptweir.addons import _routes
from promptweir.layers.config import Config
from promptweir.layers.contract import Prompt
from promptweir.layers.native import Question, question_of, reply_of
from promptweir.layers.providers import NATIVE

_KEPT_HEADERS = frozenset({"user-agent"})


def send_on(flow: http.HTTPFlow, prompt: Prompt | None, config: Config) -> None:
    """Put a missed native call to its provider; a call that is none gets a 400."""
    try:
        if prompt is None:
            raise ValueError('send {"prompt": "..."} as JSON')
        question = question_of(prompt.fields, config.native_model)
    except ValueError as error:
        flow.response = _routes.problem(400, f"Not a native call: {error}.")
        return
    credential = _credential_of(flow.request.headers)
    flow.request.headers = http.Headers(
        [pair for pair in flow.request.headers.fields if pair[0].lower().decode("latin-1") in _KEPT_HEADERS]
    )
    flow.request.headers["host"] = question.host  # the setters below keep it in step, but only if it is there
    flow.request.headers["content-type"] = "application/json"
    if credential:
        bearer = question.credential_header == "authorization"
        flow.request.headers[question.credential_header] = f"Bearer {credential}" if bearer else credential
    if question.provider == "anthropic":
        flow.request.headers["anthropic-version"] = "2023-06-01"
    flow.request.path = question.path
    flow.request.scheme, flow.request.host, flow.request.port = "https", question.host, 443
    _routes.direct(flow, _routes.Target(question.provider, question.host), config)
    flow.request.headers["content-length"] = str(len(question.body))
    flow.request.content = question.body  # and with it the length


def translate_back(flow: http.HTTPFlow, prompt: Prompt | None, config: Config) -> bytes | None:
    """Turn the provider's answer into the native one; return it, or None where the answer was no success."""
    response = flow.response
    if response is None or prompt is None or response.status_code != 200:
        return None
    question: Question = question_of(prompt.fields, config.native_model)
    try:
        body = reply_of(response.get_content(strict=False) or b"", "l3", question.model)
    except ValueError:
        flow.response = _routes.problem(502, "The provider's answer holds no whole text.")
        return None
    flow.response = http.Response.make(200, body, {"content-type": "application/json"})
    return body


def is_native(provider: str) -> bool:
    """Tell whether a call came in on the native surface."""
    return provider == NATIVE.name


def _credential_of(headers: http.Headers) -> str:
    bearer: str = headers.get("authorization", "")
    if bearer.lower().startswith("bearer "):
        return bearer[len("bearer ") :].strip()
    key: str = headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")
    return key
