"""What is known about one LLM call while it is under way."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from promptweir.addons._tee import Tee
from promptweir.layers.contract import CacheControl, Dialect, Prompt
from promptweir.layers.flight import Lead
from promptweir.layers.stores.types import Trip
from promptweir.layers.tenants import Identity


@dataclass(slots=True)
class Call:
    """One call; mutable, and never in ``flow.metadata``, which mitmproxy copies deeply."""

    id: str
    dialect: Dialect
    provider: str
    host: str
    """As the client addressed it."""
    headers: Mapping[str, str]
    """Those of the request, by lower-case name."""
    header_fields: tuple[tuple[bytes, bytes], ...]
    """What ``headers`` was read from: while the request has this very object, they have not changed."""
    origin: str = ""
    """Where it goes, when that is not the host's own https port."""
    control: CacheControl = CacheControl.DEFAULT
    started_ns: int = field(default_factory=time.perf_counter_ns)
    prompt: Prompt | None = None
    identity: Identity | None = None
    reason: str = ""
    """The stack's last word; a metric label."""
    local: bool = False
    """Answered by us."""
    lead: Lead | None = None
    flight_key: bytes = b""
    tee: Tee | None = None

    def trip(
        self, *, layer: str, status: int, at_ns: int, deflected: bool, upstream: bool, fingerprint: bytes = b""
    ) -> Trip:
        """Return the row for the record of calls; token counts are filled in by who knows them."""
        prompt = self.prompt
        return Trip(
            id=self.id,
            at_ns=at_ns,
            layer=layer,
            tenant=prompt.tenant if prompt else b"",
            client=prompt.client if prompt else "",
            session=prompt.session if prompt else "",
            dialect=self.dialect.value,
            provider=self.provider,
            model=prompt.facts.model if prompt else "",
            reason=self.reason,
            status=status,
            deflected=deflected,
            elapsed_ns=time.perf_counter_ns() - self.started_ns,
            upstream=upstream,
            fingerprint=fingerprint,
        )
