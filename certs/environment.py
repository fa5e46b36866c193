"""The environment that makes a program use the proxy and trust its CA, whatever TLS stack it brings.

Goals: one table with a reason for each variable; nothing that the user has set is lost. A variable that names a PEM
file (a company's CA, as a rule) is overwritten, but with a bundle that holds that file's certificates too.

Plan: some stacks *add* the named file to their roots, most *replace* their roots by it. The first get our CA's
certificate, the second a bundle. ``NO_PROXY`` keeps its entries and gains the loopback names.

What it does not do: it sets neither ``HTTP_PROXY`` nor ``ALL_PROXY``. LLM APIs are https; plain http is somebody's
local model or the gateway, and everything else need not come by. ``SSL_CERT_DIR`` stays as it is: OpenSSL, Go and
rustls read it besides ``SSL_CERT_FILE``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from promptweir.certs import bundle as bundles
from promptweir.certs.ca import Authority

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Holds(Enum):
    """What a variable has to hold."""

    PROXY = auto()
    """The proxy's address."""
    EXEMPT = auto()
    """Hosts that are reached without the proxy."""
    ADDED = auto()
    """A PEM file whose certificates count besides the built-in ones: our CA."""
    ROOTS = auto()
    """A PEM file that takes the place of the built-in ones: a bundle."""
    SWITCH = auto()
    """``1``"""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the environment and the reason for setting it."""

    name: str
    holds: Holds
    reason: str


VARIABLES = (
    Variable("HTTPS_PROXY", Holds.PROXY, "nearly every HTTP client"),
    Variable("https_proxy", Holds.PROXY, "the older spelling; it wins over the other one in curl and requests"),
    Variable("NO_PROXY", Holds.EXEMPT, "calls to the program's own machine (local models, MCP servers) stay direct"),
    Variable("no_proxy", Holds.EXEMPT, "the older spelling"),
    Variable("NODE_USE_ENV_PROXY", Holds.SWITCH, "fetch of Node 24 and 22.21: it reads HTTPS_PROXY only if told to"),
    Variable("NODE_EXTRA_CA_CERTS", Holds.ADDED, "Node and Bun: Claude Code, Gemini CLI, OpenCode, Copilot CLI"),
    Variable("DENO_CERT", Holds.ADDED, "Deno"),
    Variable(
        "SSL_CERT_FILE", Holds.ROOTS, "OpenSSL, Go, rustls, Python's ssl and httpx: the OpenAI and Anthropic SDKs"
    ),
    Variable("REQUESTS_CA_BUNDLE", Holds.ROOTS, "Python's requests, which does not read SSL_CERT_FILE: aider"),
    Variable("CURL_CA_BUNDLE", Holds.ROOTS, "curl, and requests in second place"),
    Variable("CODEX_CA_CERTIFICATE", Holds.ROOTS, "Codex CLI; it wins over SSL_CERT_FILE there"),
    Variable("BUN_CA_BUNDLE", Holds.ROOTS, "programs compiled with Bun"),
    Variable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Holds.ROOTS, "gRPC, which brings its own roots: Google's SDKs"),
    Variable("AWS_CA_BUNDLE", Holds.ROOTS, "boto3 and the AWS CLI: Bedrock"),
    Variable("HTTPLIB2_CA_CERTS", Holds.ROOTS, "httplib2: older Google API clients"),
    Variable("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", Holds.ROOTS, "gcloud, which mints Vertex's tokens"),
    Variable("NIX_SSL_CERT_FILE", Holds.ROOTS, "programs from Nix, whose OpenSSL prefers it to SSL_CERT_FILE"),
    Variable("PIP_CERT", Holds.ROOTS, "pip, started by an agent"),
    Variable("GIT_SSL_CAINFO", Holds.ROOTS, "git, started by an agent"),
    Variable("CARGO_HTTP_CAINFO", Holds.ROOTS, "cargo, started by an agent"),
)
"""Hosts that are no LLM API are tunnelled blind, so the tools that an agent starts see the same certificates as ever.
They are here because a bundle that lacked nothing does no harm, and a stack with half of the variables set does."""


def pem_sources(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the PEM files and folders that *environ* already points to, in the order of the table."""
    named = (environ.get(variable.name) for variable in VARIABLES if variable.holds in (Holds.ADDED, Holds.ROOTS))
    return tuple(dict.fromkeys(Path(text) for text in named if text))


def environment(environ: Mapping[str, str], *, bundle: Path, ca: Path, proxy_url: str) -> dict[str, str]:
    """Return the variables to set on top of *environ*.

    *bundle* holds our CA, the public roots and what ``pem_sources`` found; *ca* holds our CA alone.
    """
    return {variable.name: _value(variable, environ, bundle, ca, proxy_url) for variable in VARIABLES}


def for_child(authority: Authority, environ: Mapping[str, str], proxy_url: str) -> dict[str, str]:
    """Return the variables for a program under the proxy at *proxy_url*, their bundle written."""
    path = bundles.merge(authority.folder, pem_sources(environ))
    return environment(environ, bundle=path, ca=authority.cert_path, proxy_url=proxy_url)


def exempted(environ: Mapping[str, str], hosts: Sequence[str]) -> tuple[str, ...]:
    """Return which of *hosts* the user's own ``NO_PROXY`` keeps away from any proxy, ours included."""
    entries = [entry.lstrip("*").lstrip(".").lower() for entry in _entries(environ, "no_proxy")]
    entries += [entry.lstrip("*").lstrip(".").lower() for entry in _entries(environ, "NO_PROXY")]
    return tuple(host for host in hosts if any(not e or host == e or host.endswith("." + e) for e in entries))


def _value(variable: Variable, environ: Mapping[str, str], bundle: Path, ca: Path, proxy_url: str) -> str:
    match variable.holds:
        case Holds.PROXY:
            return proxy_url
        case Holds.EXEMPT:
            return _exempt(environ, variable.name)
        case Holds.ADDED:
            # A file that the user named here goes on to count only as part of the bundle.
            return str(bundle if environ.get(variable.name, str(ca)) not in ("", str(ca)) else ca)
        case Holds.ROOTS:
            return str(bundle)
        case Holds.SWITCH:
            return "1"


def _exempt(environ: Mapping[str, str], name: str) -> str:
    """Return the user's entries with the loopback names at the end; the other spelling's where this one is not set."""
    entries = _entries(environ, name) or _entries(environ, name.swapcase())
    if entries == ["*"]:  # clients know the star only where it stands alone
        return "*"
    return ",".join(dict.fromkeys([*entries, *LOOPBACK]))


def _entries(environ: Mapping[str, str], name: str) -> list[str]:
    return [entry for part in environ.get(name, "").split(",") if (entry := part.strip())]
