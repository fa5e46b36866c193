"""Who asks: the stable identity behind a credential.

The tenant is the first part of every key, so that nobody gets another's answer.  It is the API key itself, or, for
OAuth tokens that rotate, the account they belong to, so that a refresh does not empty the cache.

An account is only *claimed* by a request: the token beside it is checked by the provider, not by us.  Where the proxy
can be reached by others, a claim counts once the provider has accepted that very token (``Identity.proof``); until
then the token is an identity of its own.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

import msgspec

from promptweir.layers.contract import Fields
from promptweir.layers.keys import digest_of

CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token", "cookie")
_CREDENTIAL_QUERY = frozenset({"key", "access_token", "api-key"})
_OAUTH_PREFIXES = ("sk-ant-oat", "ya29.", "gho_", "ghu_")
_LEGACY_ACCOUNT = re.compile(r"_account_([0-9a-f-]{36})")
_AWS_KEY = re.compile(r"Credential=([A-Z0-9]{16,128})/")
_COPILOT_TRACKING = re.compile(r"(?:^|;)tid=([0-9a-zA-Z-]{8,64})(?:;|$)")
MAX_JWT_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request says it comes from."""

    secret: bytes
    """The credential itself, all its parts: an identity in any case."""
    account: bytes
    """The stable account behind a rotating credential; empty where the credential is the identity."""


def identity_of(headers: Mapping[str, str], query: str, fields: Fields) -> Identity:
    """Read the identity off a request; header names are lower case."""
    parts: list[bytes] = []
    for name in CREDENTIAL_HEADERS:
        if value := headers.get(name):
            # A SigV4 signature changes with every request; what stays is the access key.
            aws = _AWS_KEY.search(value) if name == "authorization" else None
            parts += [name.encode(), aws[1].encode() if aws else value.encode("utf-8", "surrogateescape")]
    for name, value in parse_qsl(query):
        if name in _CREDENTIAL_QUERY:
            parts += [b"?" + name.encode(), value.encode()]
    return Identity(secret=digest_of(parts), account=_account_of(headers, fields))


def tenant_of(pepper: bytes, identity: Identity, *, trusted: bool) -> bytes:
    """Return the tenant: 32 bytes that say nothing about the credential to anyone without *pepper*."""
    if identity.account and trusted:
        return digest_of((pepper, b"account", identity.account))
    return digest_of((pepper, b"secret", identity.secret))


def shared_tenant(pepper: bytes) -> bytes:
    """Return the tenant of a proxy whose credentials all belong to one person."""
    return digest_of((pepper, b"one person"))


def _account_of(headers: Mapping[str, str], fields: Fields) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or "x-api-key" in headers:
        return b""
    if account := headers.get("chatgpt-account-id"):
        subject = _jwt_subject(token)
        return digest_of((b"chatgpt", account.encode(), subject))
    if subject := _jwt_subject(token):
        return digest_of((b"jwt", subject))
    if tracking := _COPILOT_TRACKING.search(token):
        return digest_of((b"copilot", tracking[1].encode()))
    if token.startswith(_OAUTH_PREFIXES) and (account := _claude_account(fields)):
        return digest_of((b"claude", account.encode()))
    return b""


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
