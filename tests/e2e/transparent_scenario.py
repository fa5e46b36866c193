"""Runs inside a network namespace: a proxy in transparent mode, and clients whose connections are redirected to it.

203.0.113.1 is some host on the internet; 203.0.113.2 is where the clients believe that Anthropic lives.  Only the
clients' group is redirected, else the proxy would meet itself.
"""

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

from promptweir.cli.standin import StandIn
from tests.e2e import harness, pki
from tests.e2e.counting import Calls
from tests.e2e.harness import Loop, Proxy
from tests.e2e.origin import Origin

CLIENTS_GROUP = 51966
ADDRESS, ANTHROPIC = "203.0.113.1", "203.0.113.2"

ASK = """
import json, socket, ssl, sys
address, name, ca = sys.argv[1:]
body = json.dumps({"model": "claude-next", "max_tokens": 99, "messages": [{"role": "user", "content": "Why?"}]})
context = ssl.create_default_context(cafile=ca)
with context.wrap_socket(socket.create_connection((address, 443), 20), server_hostname=name) as link:
    link.sendall((f"POST /v1/messages HTTP/1.1\\r\\nHost: {name}\\r\\nx-api-key: k\\r\\nconnection: close\\r\\n"
                  f"content-type: application/json\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}").encode())
    head, _, rest = b"".join(iter(lambda: link.recv(65536), b"")).partition(b"\\r\\n\\r\\n")
headers = dict(line.split(": ", 1) for line in head.decode().split("\\r\\n")[1:])
print(json.dumps({"deflected": headers["x-promptweir-deflected"], "text": json.loads(rest)["content"][0]["text"]}))
"""

LOOK = """
import hashlib, socket, ssl, sys
address, name = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with context.wrap_socket(socket.create_connection((address, 443), 20), server_hostname=name or None) as link:
    link.sendall(b"hello\\n")
    print(link.getpeercert(binary_form=True).hex(), link.recv(100) == b"HELLO\\n")
"""


def client(program: str, *words: str) -> str:
    """Run a program whose connections are redirected."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: os.setgid(CLIENTS_GROUP),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"client: {done.stderr}")
    return done.stdout.strip()


def redirect(port: int) -> None:
    rule = ["-p", "tcp", "--dport", "443", "-m", "owner", "--gid-owner", str(CLIENTS_GROUP)]
    jump = ["-j", "REDIRECT", "--to-ports", str(port)]
    subprocess.run(["iptables", "-t", "nat", "-A", "OUTPUT", *rule, *jump], check=True)


def run(proxy: Proxy, provider: StandIn, cert: Path) -> dict[str, object]:
    redirect(proxy.port)
    calls = Calls(proxy, provider)
    with calls.cold():
        cold = json.loads(client(ASK, ANTHROPIC, "api.anthropic.com", str(proxy.ca)))
    with calls.warm():
        warm = json.loads(client(ASK, ANTHROPIC, "api.anthropic.com", str(proxy.ca)))
    expected = f"{ssl.PEM_cert_to_DER_cert(cert.read_text()).hex()} True"
    return {
        "cold": cold,
        "warm": warm,
        "provider_calls": len(provider.llm_calls),
        "other_host_untouched": client(LOOK, ADDRESS, "files.example.com") == expected,
        "no_name_untouched": client(LOOK, ADDRESS, "") == expected,
    }


def main(kind: str, folder: Path) -> None:
    loop, provider = Loop(), StandIn()
    loop.run(provider.start())
    cert, key = pki.self_signed(folder / "origin", "files.example.com")
    origin = Origin()
    loop.run(origin.start(pki.server_context(cert, key), ADDRESS, 443))
    options = {"promptweir_upstream": f"api.anthropic.com={provider.origin}"}
    with (
        harness.own(folder / "state", options, words=("--mode", "transparent"))
        if kind == "own"
        else harness.stock(folder, options, mode="transparent")
    ) as proxy:
        print(json.dumps(run(proxy, provider, cert)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
