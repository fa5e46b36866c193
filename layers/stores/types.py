"""What the embedded store keeps: recorded answers (``Entry``), one row per call (``Trip``), and sums of them.

The store gives back what it was given.  It looks into none of it, apart from the few fields by which entries expire,
are listed and are purged.
"""

from dataclasses import dataclass, field

import msgspec

from promptweir.layers.contract import Usage

MAX_CLOCK_LEAD_NS = 3600 * 10**9
"""An entry made further in the future than this was made under a wrong clock, and is as good as expired."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One recorded answer under its exact key.

    Stored as an array, so a new field goes to the end and has a default; any other change needs a new schema version.
    """

    key: bytes
    tenant: bytes
    dialect: str
    model: str
    status: int
    content_type: str
    encoding: str
    body: bytes
    created_ns: int
    expires_ns: int
    atoms: tuple[tuple[str, str], ...] = ()
    """(kind, value) of each volatile atom of the recorded request, in order of appearance."""
    effect: str = "none"
    """The strongest effect of the tool calls in the answer."""
    ending: str = "clean"
    client: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    fingerprint: bytes = b""
    """What the request looked like, path by path; opaque to the store."""
    prompt_id: str = ""
    """The call that this answer was recorded from."""


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one call."""

    id: str
    at_ns: int
    layer: str
    """The layer that answered: ``l1a`` ... ``l3``."""
    tenant: bytes = b""
    client: str = ""
    session: str = ""
    dialect: str = ""
    provider: str = ""
    model: str = ""
    reason: str = ""
    status: int = 0
    deflected: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    elapsed_ns: int = 0
    upstream: bool = False
    """A call to the provider was made."""
    fingerprint: bytes = b""
    key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over calls."""

    calls: int = 0
    deflected: int = 0
    provider_calls: int = 0
    layers: dict[str, int] = field(default_factory=dict)
    """Calls by the layer that answered them; the values add up to ``calls``."""
    saved_input_tokens: int = 0
    """Over the deflected calls, as is the case with the other two."""
    saved_output_tokens: int = 0
    saved_cached_tokens: int = 0
    spent_input_tokens: int = 0
    """Over the calls that were made to a provider, as is the case with the other two."""
    spent_output_tokens: int = 0
    spent_cached_tokens: int = 0
    deflected_elapsed_ns: int = 0
    provider_elapsed_ns: int = 0

    @property
    def saved_elapsed_ns(self) -> int:
        """Estimate the time saved: each deflected call would have taken as long as the mean provider call."""
        if not self.provider_calls:
            return 0
        return max(0, self.provider_elapsed_ns * self.deflected // self.provider_calls - self.deflected_elapsed_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySummary:
    """An entry without its answer."""

    key: bytes
    tenant: bytes
    dialect: str
    model: str
    client: str
    created_ns: int
    expires_ns: int
    last_used_ns: int
    hits: int
    prompt_id: str
    fingerprint: bytes
    bytes: int
    """What the entry takes of ``max_bytes``: its size after compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries to purge: those that fit every filter given.  With no filter, and not ``all``: none."""

    tenant: bytes | None = None
    model: str | None = None
    older_than_ns: int | None = None
    """The instant before which an entry was made, not an age."""
    all: bool = False

    @property
    def empty(self) -> bool:
        """Whether this selects nothing whatever is stored."""
        return not self.all and self.tenant is None and self.model is None and self.older_than_ns is None

    def fits(self, entry: Entry) -> bool:
        """Tell whether *entry* is to be purged."""
        return (
            not self.empty
            and self.tenant in (None, entry.tenant)
            and self.model in (None, entry.model)
            and (self.older_than_ns is None or entry.created_ns < self.older_than_ns)
        )


class StoreBusy(Exception):  # noqa: N818 - it names a state that callers wait out or report, not a mistake
    """The store could not be changed: another process holds it, or its disk is full."""


def is_fresh(entry: Entry, now_ns: int) -> bool:
    """Tell whether *entry* may serve at *now_ns*, whichever way the clock was moved since it was made."""
    return entry.created_ns - MAX_CLOCK_LEAD_NS <= now_ns < entry.expires_ns
