"""Who asks: nobody shares with anybody, and a rotated token stays who it was."""

import base64
import json
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.tenants import Identity, identity_of, proof_of, shared_tenant, tenant_of, user_id_of

PEPPER = b"p" * 32
ALICE, BOB = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"


def fields(doc: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(msgspec.json.encode(doc), type=dict[str, msgspec.Raw])


def identity(query: str = "", doc: Mapping[str, object] | None = None, **headers: str) -> Identity:
    return identity_of({name.replace("_", "-"): value for name, value in headers.items()}, query, fields(doc or {}))


def tenant(query: str = "", doc: Mapping[str, object] | None = None, *, trusted: bool = True, **headers: str) -> bytes:
    return tenant_of(PEPPER, identity(query, doc, **headers), trusted=trusted)


def claude(account: str, session: str = "s") -> dict[str, object]:
    told = {"device_id": "0" * 64, "account_uuid": account, "session_id": session}
    return {"metadata": {"user_id": json.dumps(told)}}


def jwt(subject: object = "alice", issuer: object = "https://auth.example", nonce: str = "1") -> str:
    def part(doc: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(doc).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part({'iss': issuer, 'sub': subject, 'jti': nonce})}.c2ln{nonce}"


def bearer(token: str) -> str:
    return f"Bearer {token}"


def sigv4(key: str, signature: str, scheme: str = "AWS4-HMAC-SHA256") -> str:
    return (
        f"{scheme} Credential={key}/20261122/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature={signature}"
    )


CREDENTIALS: dict[str, tuple[str, dict[str, str]]] = {
    "nothing": ("", {}),
    "Anthropic key": ("", {"x_api_key": "sk-ant-api-a"}),
    "other Anthropic key": ("", {"x_api_key": "sk-ant-api-b"}),
    "OpenAI key": ("", {"authorization": bearer("sk-proj-a")}),
    "other OpenAI key": ("", {"authorization": bearer("sk-proj-b")}),
    "Azure key": ("", {"api_key": "a"}),
    "other Azure key": ("", {"api_key": "b"}),
    "Azure subscription key": ("", {"ocp_apim_subscription_key": "a"}),
    "other Azure subscription key": ("", {"ocp_apim_subscription_key": "b"}),
    "Gemini key": ("", {"x_goog_api_key": "a"}),
    "other Gemini key": ("", {"x_goog_api_key": "b"}),
    "Gemini key in the query": ("key=a", {}),
    "other Gemini key in the query": ("key=b", {}),
    "two keys in the query": ("key=a&key=b", {}),
    "a key of odd bytes": ("key=%ff", {}),
    "another key of odd bytes": ("key=%fe", {}),
    "access token in the query": ("access_token=a", {}),
    "Google OAuth": ("", {"authorization": bearer("ya29.a")}),
    "other Google OAuth": ("", {"authorization": bearer("ya29.b")}),
    "Claude OAuth without account": ("", {"authorization": bearer("sk-ant-oat01-a")}),
    "other Claude OAuth without account": ("", {"authorization": bearer("sk-ant-oat01-b")}),
    "JWT": ("", {"authorization": bearer(jwt("alice"))}),
    "other JWT": ("", {"authorization": bearer(jwt("bob"))}),
    "JWT of another issuer": ("", {"authorization": bearer(jwt("alice", "https://other.example"))}),
    "ChatGPT account": ("", {"authorization": bearer(jwt("alice")), "chatgpt_account_id": "acct"}),
    "same ChatGPT workspace, other person": ("", {"authorization": bearer(jwt("bob")), "chatgpt_account_id": "acct"}),
    "other ChatGPT workspace": ("", {"authorization": bearer(jwt("alice")), "chatgpt_account_id": "other"}),
    "Copilot": ("", {"authorization": bearer("tid=aaaaaaaaaaaaaaaa;exp=1;sku=x:mac1")}),
    "other Copilot": ("", {"authorization": bearer("tid=bbbbbbbbbbbbbbbb;exp=1;sku=x:mac1")}),
    "AWS": ("", {"authorization": sigv4("AKIAAAAAAAAAAAAAAAAA", "00")}),
    "other AWS": ("", {"authorization": sigv4("AKIABBBBBBBBBBBBBBBB", "00")}),
    "cookie": ("", {"cookie": "session=a"}),
    "other cookie": ("", {"cookie": "session=b"}),
    "Basic": ("", {"authorization": "Basic YTpi"}),
    "no scheme": ("", {"authorization": "sk-proj-a"}),
}


@pytest.mark.parametrize("trusted", [True, False])
def test_two_credentials_never_share(trusted: bool) -> None:
    tenants = {name: tenant(query, trusted=trusted, **headers) for name, (query, headers) in CREDENTIALS.items()}

    assert len(set(tenants.values())) == len(tenants)


@pytest.mark.parametrize("name", list(CREDENTIALS))
def test_the_same_credential_is_the_same_tenant(name: str) -> None:
    query, headers = CREDENTIALS[name]

    assert tenant(query, **headers) == tenant(query, **headers)
    assert tenant_of(b"q" * 32, identity(query, **headers), trusted=True) != tenant(query, **headers)


ROTATIONS: dict[str, tuple[dict[str, object], dict[str, str], dict[str, str]]] = {
    "Claude": (claude(ALICE), {"authorization": bearer("sk-ant-oat01-a")}, {"authorization": bearer("sk-ant-oat01-b")}),
    "JWT": ({}, {"authorization": bearer(jwt(nonce="1"))}, {"authorization": bearer(jwt(nonce="2"))}),
    "ChatGPT": (
        {},
        {"authorization": bearer(jwt(nonce="1")), "chatgpt_account_id": "acct"},
        {"authorization": bearer(jwt(nonce="2")), "chatgpt_account_id": "acct"},
    ),
    "ChatGPT, opaque token": (
        {},
        {"authorization": bearer("opaque-a"), "chatgpt_account_id": "acct"},
        {"authorization": bearer("opaque-b"), "chatgpt_account_id": "acct"},
    ),
    "Copilot": (
        {},
        {"authorization": bearer("tid=aaaaaaaaaaaaaaaa;exp=1;sku=x:mac1")},
        {"authorization": bearer("tid=aaaaaaaaaaaaaaaa;exp=2;sku=x:mac2")},
    ),
    "AWS": (
        {},
        {"authorization": sigv4("AKIAAAAAAAAAAAAAAAAA", "00")},
        {"authorization": sigv4("AKIAAAAAAAAAAAAAAAAA", "11")},
    ),
    "a new cookie beside a token": (
        {},
        {"authorization": bearer(jwt(nonce="1")), "cookie": "__cf_bm=1"},
        {"authorization": bearer(jwt(nonce="1")), "cookie": "__cf_bm=2"},
    ),
}


@pytest.mark.parametrize("name", list(ROTATIONS))
def test_a_rotated_token_is_still_its_account(name: str) -> None:
    doc, before, after = ROTATIONS[name]

    assert tenant("", doc, **before) == tenant("", doc, **after)
    assert tenant("", doc, trusted=False, **before) != tenant("", doc, trusted=False, **after)


def test_both_spellings_of_claudes_account_are_one() -> None:
    old = {"metadata": {"user_id": f"user_{'0' * 64}_account_{ALICE}_session_{BOB}"}}
    token = {"authorization": bearer("sk-ant-oat01-a")}

    assert tenant("", old, **token) == tenant("", claude(ALICE), **token)
    assert tenant("", claude(ALICE), **token) != tenant("", claude(BOB), **token)


FORGERIES: dict[str, tuple[str, dict[str, object], dict[str, str]]] = {
    "a key beside Claude's account": ("", claude(ALICE), {"x_api_key": "sk-ant-api-m"}),
    "a key and a token beside Claude's account": (
        "", claude(ALICE), {"x_api_key": "sk-ant-api-m", "authorization": bearer("sk-ant-oat01-m")},
    ),
    "a plain bearer key beside Claude's account": ("", claude(ALICE), {"authorization": bearer("sk-ant-api-m")}),
    "an Azure key beside a JWT": ("", {}, {"api_key": "m", "authorization": bearer(jwt("alice"))}),
    "an Azure subscription beside a JWT": (
        "", {}, {"ocp_apim_subscription_key": "m", "authorization": bearer(jwt("alice"))},
    ),
    "a Gemini key beside a JWT": ("", {}, {"x_goog_api_key": "m", "authorization": bearer(jwt("alice"))}),
    "a key in the query beside a JWT": ("key=m", {}, {"authorization": bearer(jwt("alice"))}),
    "an OpenAI key beside an account header": (
        "", {}, {"authorization": bearer("sk-proj-m"), "chatgpt_account_id": "acct"},
    ),
    "an account header alone": ("", {}, {"chatgpt_account_id": "acct"}),
    "two tokens in one header": ("", {}, {"authorization": bearer(f"{jwt('alice')}, Bearer mine")}),
    "a token after a blank": ("", {}, {"authorization": bearer(f"{jwt('alice')} mine")}),
    "an empty subject": ("", {}, {"authorization": bearer(jwt(""))}),
    "a subject that is no text": ("", {}, {"authorization": bearer(jwt(7))}),
    "an account that is no text": (
        "", {"metadata": {"user_id": '{"account_uuid": 7}'}}, {"authorization": bearer("sk-ant-oat01-m")},
    ),
    "an empty account": ("", claude(""), {"authorization": bearer("sk-ant-oat01-m")}),
    "a user id that is no text": ("", {"metadata": {"user_id": 7}}, {"authorization": bearer("sk-ant-oat01-m")}),
    "metadata that is no object": ("", {"metadata": [1]}, {"authorization": bearer("sk-ant-oat01-m")}),
    "a tracking id inside a word": ("", {}, {"authorization": bearer("xtid=aaaaaaaaaaaaaaaa")}),
    "another scheme": ("", {}, {"authorization": f"Token {jwt('alice')}"}),
    "a credential named in a query only": ("x=Credential%3DAKIAAAAAAAAAAAAAAAAA%2F", {}, {"cookie": "a"}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORGERIES))
def test_what_is_only_claimed_beside_a_key_counts_for_nothing(name: str) -> None:
    query, doc, headers = FORGERIES[name]
    found = identity(query, doc, **headers)

    assert found.account == b""
    assert tenant_of(PEPPER, found, trusted=True) == tenant_of(PEPPER, found, trusted=False)


def test_what_no_provider_checks_is_never_proven() -> None:
    assert not identity("", claude(ALICE), authorization=bearer("sk-ant-oat01-a")).provable
    assert not identity(authorization=sigv4("AKIAAAAAAAAAAAAAAAAA", "00")).provable
    assert identity(authorization=bearer(jwt())).provable


def test_a_proof_of_one_host_or_token_is_none_of_another() -> None:
    one, other = identity(authorization=bearer(jwt(nonce="1"))), identity(authorization=bearer(jwt(nonce="2")))

    assert proof_of(one, "api.openai.com") == proof_of(one, "api.openai.com")
    assert len({proof_of(one, "a"), proof_of(one, "b"), proof_of(other, "a")}) == 3


def test_the_shared_tenant_is_nobodys() -> None:
    assert shared_tenant(PEPPER) not in {tenant(query, **headers) for query, headers in CREDENTIALS.values()}
    assert shared_tenant(PEPPER) != shared_tenant(b"q" * 32)


def test_a_tenant_does_not_show_the_credential() -> None:
    assert b"sk-ant" not in tenant(x_api_key="sk-ant-api-a")
    assert len(tenant(x_api_key="sk-ant-api-a")) == 32


@pytest.mark.parametrize("raw", [b"7", b"null", b'"x"', b"[" * 9999, b'{"user_id":"\xff"}', b"{"])
def test_a_user_id_is_read_from_anything_without_an_error(raw: bytes) -> None:
    assert user_id_of({"metadata": msgspec.Raw(raw)}) == ""


def test_odd_bytes_in_headers_are_no_error() -> None:
    odd = "\udcff"

    assert tenant(x_api_key=odd) != tenant(x_api_key=odd + odd)
    assert identity(authorization=bearer("t"), chatgpt_account_id=odd).account
    assert identity(authorization=bearer(f"a.{odd}.c")).account == b""


_PART = st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=12)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["authorization", "x_api_key", "api_key", "x_goog_api_key", "cookie"]), _PART),
    st.dictionaries(st.sampled_from(["authorization", "x_api_key", "api_key", "x_goog_api_key", "cookie"]), _PART),
)
def test_no_two_sets_of_credentials_share_a_secret(a: dict[str, str], b: dict[str, str]) -> None:
    first, second = ({name: value for name, value in headers.items() if value} for headers in (a, b))

    assert (identity(**a).secret == identity(**b).secret) is (first == second)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60))
def test_any_token_is_read_without_an_error(token: str) -> None:
    assert isinstance(identity(authorization=bearer(token)), Identity)
    assert isinstance(identity(authorization=bearer(f"a.{token}.b")), Identity)
