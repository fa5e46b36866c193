"""Leaves of our own making for mitmproxy's TLS addon.

Goals: every leaf has both key identifiers and a fast key (``promptweir.certs.leaf``), and names nothing that the CA may
not sign for. mitmproxy puts into a leaf all that it knows of a server: its address, and every name of the certificate
that the server showed. One IP address among them and a name-constrained CA's leaf is refused as a whole.

Plan: ``install`` puts a store in front of the one that mitmproxy's ``TlsConfig`` made. It answers for the names that the
CA covers and asks the other store for the rest: certificates that the user gave by ``--certs`` and hosts out of reach.

What it does not do: QUIC and TLS share the entries; there is nothing here about either.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from mitmproxy import certs
from mitmproxy.addons.tlsconfig import TlsConfig

from promptweir.certs import files, leaf
from promptweir.certs.ca import Authority

MAX_LEAVES = 512
"""One leaf per set of names; the registry of hosts has a few hundred, and a leaf takes some 2 kB."""
MAX_LEAF_NAMES = 100
"""More than any provider's certificate names; a bound on what a server's certificate can make us sign."""
RENEW_BEFORE = timedelta(days=1)
"""A leaf is made anew this long before its end, so that none ends within a long-lived connection's handshake."""
DHPARAM_FILE = "mitmproxy-dhparam.pem"


class LeafStore(certs.CertStore):
    """mitmproxy's store of certificates, with leaves of *authority* for the hosts that it covers."""

    def __init__(self, inner: certs.CertStore, authority: Authority, clock: Callable[[], datetime]) -> None:
        # Not CertStore's constructor: all its state is the inner store's, which also goes on to serve.
        self.__dict__.update(inner.__dict__)
        self.inner = inner
        self.authority = authority
        self._clock = clock
        self._leaves: OrderedDict[tuple[str, ...], certs.CertStoreEntry] = OrderedDict()

    def get_cert(
        self,
        commonname: str | None,
        sans: Iterable[x509.GeneralName],
        organization: str | None = None,
        crl_url: str | None = None,
    ) -> certs.CertStoreEntry:
        """Return the certificate for a connection, made now or before."""
        names = list(sans)
        covered = self._covered(names)
        now = self._clock()
        # An expired CA has no leaves that a client takes; mitmproxy's own at least lets the client say why.
        if not covered or self._given(commonname, names) or self.authority.expired(now):
            return self.inner.get_cert(commonname, x509.GeneralNames(names), organization, crl_url)
        entry = self._leaves.get(covered)
        if entry is None or not entry.cert.notbefore <= now < entry.cert.notafter - RENEW_BEFORE:
            entry = self._mint(covered, now)
            self._leaves[covered] = entry
        self._leaves.move_to_end(covered)
        if len(self._leaves) > MAX_LEAVES:
            self._leaves.popitem(last=False)
        return entry

    def _covered(self, names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
        hosts = (name.value.lower().rstrip(".") for name in names if isinstance(name, x509.DNSName))
        return tuple(dict.fromkeys(host for host in hosts if self.authority.covers(host)))[:MAX_LEAF_NAMES]

    def _given(self, commonname: str | None, names: Iterable[x509.GeneralName]) -> bool:
        """Return whether the user has given a certificate of his own for one of the names."""
        forms = [] if commonname is None else self.asterisk_forms(commonname)
        for name in names:
            forms += self.asterisk_forms(name)
        return any(form in self.inner.certs for form in (*forms, "*"))

    def _mint(self, hosts: tuple[str, ...], now: datetime) -> certs.CertStoreEntry:
        key = leaf.process_key()
        return certs.CertStoreEntry(
            cert=certs.Cert(leaf.mint(self.authority, hosts, now, key)),
            # mitmproxy declares RSA and hands the key to OpenSSL (and to aioquic), which take either kind.
            privatekey=cast(rsa.RSAPrivateKey, key),
            chain_file=None,
            chain_certs=[certs.Cert(self.authority.cert)],
        )


def install(
    tlsconfig: TlsConfig, authority: Authority | None = None, clock: Callable[[], datetime] | None = None
) -> None:
    """Make *tlsconfig* show leaves of *authority*, or of the CA that it has loaded itself when that is None.

    Once is enough, at any time; calling it again replaces the authority.
    """

    def front() -> None:
        store = tlsconfig.certstore
        if store is None:  # not configured yet
            return
        if isinstance(store, LeafStore):
            store = store.inner
        signer = authority or Authority.of(Path(), store.default_privatekey, store.default_ca.to_cryptography())
        tlsconfig.certstore = LeafStore(store, signer, clock or _now)

    def configure(updated: set[str]) -> None:
        TlsConfig.configure(tlsconfig, updated)  # type: ignore[no-untyped-call]
        front()

    # mitmproxy makes a new store when certs, confdir, key_size or cert_passphrase changes, and once more by itself when
    # it begins to run (12.2: TlsConfig.running calls configure). All of it goes by the instance's attribute.
    tlsconfig.configure = configure  # type: ignore[method-assign]
    front()


def write_dhparams(folder: Path) -> None:
    """Write mitmproxy's Diffie-Hellman parameters into *folder*, whole.

    mitmproxy does so itself, but not atomically: of two proxies that start at once, one may read half a file and stop.
    """
    if not (folder / DHPARAM_FILE).exists():
        files.write_new(folder / DHPARAM_FILE, certs.DEFAULT_DHPARAM, files.PUBLIC_FILE_MODE)


def _now() -> datetime:
    return datetime.now(UTC)
