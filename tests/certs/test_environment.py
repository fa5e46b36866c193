import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptweir.certs import bundle, ca, environment

PROXY = "http://127.0.0.1:8080"

GET = """
import socket, ssl, sys
plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
ssl.create_default_context().wrap_socket(plain, server_hostname=sys.argv[2]).close()
"""


@pytest.fixture
def corporate(tmp_path: Path) -> ca.Authority:
    return ca.ensure(tmp_path / "corporate", ["corp.example"])


def test_a_clean_environment_gets_proxy_bundle_and_ca(authority: ca.Authority) -> None:
    found = environment.for_child(authority, {}, PROXY)

    plain = str(authority.folder / "bundle.pem")
    assert found["HTTPS_PROXY"] == found["https_proxy"] == PROXY
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1"
    assert found["NODE_USE_ENV_PROXY"] == "1"
    assert found["NODE_EXTRA_CA_CERTS"] == found["DENO_CERT"] == str(authority.cert_path)
    for name in (
        "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CODEX_CA_CERTIFICATE", "AWS_CA_BUNDLE", "PIP_CERT",
        "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "BUN_CA_BUNDLE",
    ):  # fmt: skip
        assert found[name] == plain, name
    assert Path(plain).is_file()
    assert not {"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_DIR"} & found.keys()


def test_every_variable_is_named_once_and_has_a_reason() -> None:
    names = [variable.name for variable in environment.VARIABLES]

    assert len(names) == len(set(names))
    assert all(variable.reason for variable in environment.VARIABLES)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"])
def test_a_corporate_ca_that_the_user_has_set_is_in_every_bundle(
    name: str, authority: ca.Authority, corporate: ca.Authority
) -> None:
    found = environment.for_child(authority, {name: str(corporate.cert_path)}, PROXY)

    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CODEX_CA_CERTIFICATE", name):
        held = bundle.certificates(Path(found[variable]))
        assert {authority.sha256, corporate.sha256} <= held.keys(), variable


def test_two_corporate_files_are_merged(authority: ca.Authority, corporate: ca.Authority, tmp_path: Path) -> None:
    second = ca.ensure(tmp_path / "second", ["second.example"])
    environ = {"SSL_CERT_FILE": str(corporate.cert_path), "NODE_EXTRA_CA_CERTS": str(second.cert_path)}

    found = environment.for_child(authority, environ, PROXY)

    assert {corporate.sha256, second.sha256} <= bundle.certificates(Path(found["SSL_CERT_FILE"])).keys()


@pytest.mark.parametrize(("client", "variable"), [("python", "SSL_CERT_FILE"), ("curl", ""), ("node", "")])
def test_a_real_client_with_that_environment_trusts_our_ca_and_the_companys(
    client: str,
    variable: str,
    authority: ca.Authority,
    corporate: ca.Authority,
    serve: Callable,
    clean_environ: dict[str, str],
    node_script: str,
) -> None:
    if client != "python" and shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    environ = clean_environ | {(variable or "NODE_EXTRA_CA_CERTS"): str(corporate.cert_path)}
    environ |= environment.for_child(authority, environ, PROXY)
    ours, theirs = serve(authority, ["api.anthropic.com"]), serve(corporate, ["git.corp.example"])

    for host, port in (("api.anthropic.com", ours.port), ("git.corp.example", theirs.port)):
        match client:
            case "python":
                argv = [sys.executable, "-c", GET, str(port), host]
            case "curl":
                argv = ["curl", "-sS", "--noproxy", "*", "--resolve", f"{host}:{port}:127.0.0.1"]
                argv.append(f"https://{host}:{port}/")
            case _:
                argv = ["node", "-e", node_script, str(port), host]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


def test_a_run_within_a_run_changes_nothing_but_the_proxy(authority: ca.Authority, corporate: ca.Authority) -> None:
    outer = environment.for_child(authority, {"SSL_CERT_FILE": str(corporate.cert_path)}, PROXY)

    inner = environment.for_child(authority, outer, "http://127.0.0.1:9090")

    proxies = ("HTTPS_PROXY", "https_proxy")
    assert {k: v for k, v in inner.items() if k not in proxies} == {k: v for k, v in outer.items() if k not in proxies}


@pytest.mark.parametrize(
    ("environ", "upper", "lower"),
    [
        ({"NO_PROXY": ".corp.example, 10.0.0.0/8"}, ".corp.example,10.0.0.0/8,localhost,127.0.0.1,::1", None),
        ({"no_proxy": "a.example"}, "a.example,localhost,127.0.0.1,::1", None),
        (
            {"NO_PROXY": "a.example", "no_proxy": "b.example"},
            "a.example,localhost,127.0.0.1,::1",
            "b.example,localhost,127.0.0.1,::1",
        ),
        ({"NO_PROXY": "127.0.0.1,api.openai.com"}, "127.0.0.1,api.openai.com,localhost,::1", None),
        ({"NO_PROXY": "*"}, "*", None),
        ({"NO_PROXY": " , "}, "localhost,127.0.0.1,::1", None),
    ],
)
def test_the_users_exemptions_are_kept_and_loopback_is_added(
    environ: dict[str, str], upper: str, lower: str | None, tmp_path: Path
) -> None:
    found = environment.environment(environ, bundle=tmp_path, ca=tmp_path, proxy_url=PROXY)

    assert (found["NO_PROXY"], found["no_proxy"]) == (upper, upper if lower is None else lower)


def test_httpx_understands_the_exemptions(monkeypatch: pytest.MonkeyPatch, authority: ca.Authority) -> None:
    """Some of its releases fail on IPv6 entries that are written otherwise."""
    httpx = pytest.importorskip("httpx")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.for_child(authority, {}, PROXY).items():
        monkeypatch.setenv(name, value)

    with httpx.Client() as client:
        direct = [client._transport_for_url(httpx.URL(f"https://{host}/")) for host in ("localhost", "[::1]")]
        proxied = client._transport_for_url(httpx.URL("https://api.anthropic.com/"))

    assert direct == [client._transport, client._transport]
    assert proxied is not client._transport


def test_exempted_names_the_hosts_that_would_bypass_the_proxy() -> None:
    hosts = ["api.openai.com", "api.anthropic.com", "chatgpt.com"]

    assert environment.exempted({"NO_PROXY": ".openai.com", "no_proxy": "chatgpt.com"}, hosts) == (
        "api.openai.com",
        "chatgpt.com",
    )
    assert environment.exempted({"no_proxy": "*"}, hosts) == tuple(hosts)
    assert environment.exempted({"NO_PROXY": "*.anthropic.com"}, hosts) == ("api.anthropic.com",)
    assert environment.exempted({"NO_PROXY": "ai.com,10.0.0.1"}, hosts) == ()
    assert environment.exempted({}, hosts) == ()
