"""Who asks: the stable identity behind a credential.

The tenant is the first part of every key, so that nobody gets another's answer.  It is the API key itself, or, for
OAuth tokens that rotate, the account they belong to, so that a refresh does not empty the cache.

An account is only *claimed* by a request: the token beside it is checked by the provider, not by us.  Where the proxy
can be reached by others, a claim counts once that provider has accepted that very token (``proof_of``); until then the
token is an identity of its own.  Some claims no provider checks (Claude's ``metadata``), and some credentials show
only their public half (SigV4): what a stranger could write as well is never proven, and counts among friends only.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

import msgspec

from promptweir.layers.contract import Fields
from promptweir.layers.keys import digest_of

_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key")
CREDENTIAL_HEADERS = ("authorization", *_KEY_HEADERS, "x-amz-security-token", "cookie")
_ACCOUNT_HEADER = "chatgpt-account-id"
_CREDENTIAL_QUERY = frozenset({"key", "access_token", "api-key", "subscription-key"})
_CREDENTIAL_NAME = re.compile(r"(?:api|access|virtual|subscription|auth|secret)[-_]?key|authorization|auth[-_]?token")
"""Gateways have credentials of their own beside the provider's (``x-portkey-api-key``, ``cf-aig-authorization``)."""
_OAUTH_PREFIXES = ("sk-ant-oat", "ya29.", "gho_", "ghu_")
_LEGACY_ACCOUNT = re.compile(r"_account_([0-9a-f-]{36})")
_API_KEY_PREFIX = "sk-"
_TOKEN_ENDS = frozenset(" ,\t")
"""What no token holds: a header with more than one would be read by us one way and by the provider another."""
_AWS_KEY = re.compile(r"AWS4-[\w-]+\s+Credential=([A-Z0-9]{16,128})/")
_COPILOT_TRACKING = re.compile(r"(?:^|;)tid=([0-9a-zA-Z-]{8,64})(?:;|$)")
MAX_HEADER_SETS = 256
"""Sets of header names; a client uses a few."""
MAX_JWT_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request says it comes from."""

    secret: bytes
    """The credential itself, all its parts: an identity in any case."""
    account: bytes
    """The stable account behind a rotating credential; empty where the credential is the identity."""
    provable: bool = True
    """A provider that accepts the credential has also checked that the account is its own."""


def identity_of(headers: Mapping[str, str], query: str, fields: Fields) -> Identity:
    """Read the identity off a request; header names are lower case."""
    parts: list[bytes] = []
    for name in _unusual_credentials(tuple(headers)):
        parts += [name.encode("utf-8", "surrogateescape"), headers[name].encode("utf-8", "surrogateescape")]
    for name in (*CREDENTIAL_HEADERS, _ACCOUNT_HEADER):
        if value := headers.get(name):
            parts += [name.encode(), value.encode("utf-8", "surrogateescape")]
    keyed = any(headers.get(name) for name in _KEY_HEADERS)
    # Most queries are as short as ``beta=true``; an escape could hide a name.
    may_name = "%" in query or any(name in query for name in _CREDENTIAL_QUERY)
    for name, value in parse_qsl(query, errors="surrogateescape") if may_name else ():
        if name in _CREDENTIAL_QUERY:
            keyed = True
            parts += [b"?" + name.encode(), value.encode("utf-8", "surrogateescape")]
    secret = digest_of(parts)
    # Beside a key, which the provider may be the one to look at, a token proves nothing.
    if keyed:
        return Identity(secret, b"")
    account, provable = _account_of(headers, fields)
    return Identity(secret, account, provable)


@lru_cache(maxsize=MAX_HEADER_SETS)
def _unusual_credentials(names: tuple[str, ...]) -> list[str]:
    """Return those of the header *names* that look like a credential's and are not known as one."""
    return sorted(name for name in names if name not in CREDENTIAL_HEADERS and _CREDENTIAL_NAME.search(name))


def proof_of(identity: Identity, host: str) -> bytes:
    """Return the name under which it is remembered that *host* accepted the credential: another may accept any."""
    return digest_of((identity.secret, host.encode()))


def tenant_of(pepper: bytes, identity: Identity, *, trusted: bool) -> bytes:
    """Return the tenant: 32 bytes that say nothing about the credential to anyone without *pepper*."""
    if identity.account and trusted:
        return digest_of((pepper, b"account", identity.account))
    return digest_of((pepper, b"secret", identity.secret))


def shared_tenant(pepper: bytes) -> bytes:
    """Return the tenant of a proxy whose credentials all belong to one person."""
    return digest_of((pepper, b"one person"))


def _account_of(headers: Mapping[str, str], fields: Fields) -> tuple[bytes, bool]:
    """Return the account, if the request names one, and whether the provider checks it."""
    authorization = headers.get("authorization", "")
    # A SigV4 signature changes with every request; what stays is the access key, which is no secret.
    if aws := _AWS_KEY.match(authorization):
        return digest_of((b"aws", aws[1].encode())), False
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN_ENDS.isdisjoint(token):
        return b"", True
    if token.startswith(_OAUTH_PREFIXES) and (claude := _claude_account(fields)):
        return digest_of((b"claude", claude.encode())), False
    if token.startswith(_API_KEY_PREFIX):
        return b"", True
    subject = _jwt_subject(token)
    if account := headers.get(_ACCOUNT_HEADER):
        return digest_of((b"chatgpt", account.encode("utf-8", "surrogateescape"), subject)), True
    if subject:
        return digest_of((b"jwt", subject)), True
    if tracking := _COPILOT_TRACKING.search(token):
        return digest_of((b"copilot", tracking[1].encode())), True
    return b"", True


def _claude_account(fields: Fields) -> str:
    """``metadata.user_id`` is JSON with ``account_uuid`` since Claude Code 2.1.78, and a joined string before."""
    user_id = user_id_of(fields)
    if legacy := _LEGACY_ACCOUNT.search(user_id):
        return legacy[1]
    try:
        known = msgspec.json.decode(user_id, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return ""
    account = known.get("account_uuid")
    return account if isinstance(account, str) else ""


def user_id_of(fields: Fields) -> str:
    """Return Anthropic's ``metadata.user_id``, or an empty string."""
    if "metadata" not in fields:
        return ""
    try:
        metadata = msgspec.json.decode(fields["metadata"], type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
    user_id = metadata.get("user_id")
    return user_id if isinstance(user_id, str) else ""


def _jwt_subject(token: str) -> bytes:
    """Return issuer and subject of a JSON Web Token; empty when it is none.  The signature is the provider's to check."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_JWT_CHARS:
        return b""
    try:
        claims = msgspec.json.decode(
            base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=dict[str, object]
        )
    except (binascii.Error, msgspec.MsgspecError, RecursionError, ValueError):
        return b""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        return b""
    return digest_of((str(claims.get("iss", "")).encode(), subject.encode()))
