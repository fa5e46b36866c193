"""The store against a dictionary: any order of puts, gets, purges, restarts and turns of the clock."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from promptweir.layers.stores.purge import purge
from promptweir.layers.stores.reader import Reader
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry, Selection, is_fresh

START_NS = 1_700_000_000 * 10**9
MINUTE_NS = 60 * 10**9

keys = st.integers(0, 5).map(lambda number: number.to_bytes(32, "big"))
tenants = st.sampled_from([b"a", b"b"])
models = st.sampled_from(["m", "n"])
selections = st.builds(
    Selection,
    tenant=st.none() | tenants,
    model=st.none() | models,
    older_than_ns=st.none() | st.integers(-200, 200).map(lambda minutes: START_NS + minutes * MINUTE_NS),
    all=st.booleans(),
)


class Machine(RuleBasedStateMachine):
    """Limits are wide, so nothing is evicted and the dictionary is exact."""

    front_max_bytes = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.loop = asyncio.new_event_loop()
        self.now_ns = START_NS
        self.model: dict[bytes, Entry] = {}
        self.links: dict[tuple[bytes, str], tuple[bytes, int]] = {}
        self.store = self._open()

    def _open(self) -> SqliteStore:
        store = SqliteStore(
            self.folder,
            max_bytes=1 << 30,
            max_entries=1000,
            front_max_bytes=self.front_max_bytes,
            max_trips=10,
            now_ns=lambda: self.now_ns,
        )
        store.open()
        return store

    @rule(key=keys, tenant=tenants, model=models, body=st.binary(max_size=3000), ttl=st.integers(0, 200))
    def put(self, key: bytes, tenant: bytes, model: str, body: bytes, ttl: int) -> None:
        entry = Entry(
            key=key,
            tenant=tenant,
            dialect="d",
            model=model,
            status=200,
            content_type="t",
            encoding="json",
            body=body,
            created_ns=self.now_ns,
            expires_ns=self.now_ns + ttl * MINUTE_NS,
            fingerprint=body[:5],
        )
        self.store.put(entry)
        self.model[key] = entry

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        found = self.loop.run_until_complete(self.store.get(key))
        wanted = self.model.get(key)
        if wanted is not None and not is_fresh(wanted, self.now_ns):
            wanted = None
        assert found == wanted

    @rule(tenant=tenants, name=st.sampled_from(["r", "s"]), state=st.binary(max_size=20))
    def link(self, tenant: bytes, name: str, state: bytes) -> None:
        self.store.link(tenant, name, state)
        self.loop.run_until_complete(self.store.flush())  # a link is dated when it is written
        self.links[tenant, name] = (state, self.now_ns)

    @rule(tenant=tenants, name=st.sampled_from(["r", "s"]))
    def linked(self, tenant: bytes, name: str) -> None:
        found = self.loop.run_until_complete(self.store.linked(tenant, name))
        assert found == self.links.get((tenant, name), (None, 0))[0]

    @rule()
    def flush(self) -> None:
        self.loop.run_until_complete(self.store.flush())

    @rule(key=keys)
    def touch(self, key: bytes) -> None:
        self.store.touch(key)

    @rule(minutes=st.integers(-200, 200))
    def turn_the_clock(self, minutes: int) -> None:
        # What expired may or may not be deleted by the time the clock is set back, so the model forgets it for good.
        self.loop.run_until_complete(self.store.flush())
        self.now_ns += minutes * MINUTE_NS
        for key, entry in list(self.model.items()):
            if entry.expires_ns <= self.now_ns:
                del self.model[key]
                self._forget_expired(key)

    def _forget_expired(self, key: bytes) -> None:
        assert self.loop.run_until_complete(self.store.get(key)) is None
        self.store.prove(str(self.now_ns).encode() + key, "makes the writer delete what expired")
        self.loop.run_until_complete(self.store.flush())

    @rule(selection=selections)
    def purge_inside(self, selection: Selection) -> None:
        self._purged(selection)
        self.loop.run_until_complete(
            self.store.purge(selection.tenant, selection.model, selection.older_than_ns, selection.all)
        )

    @rule(selection=selections, settled=st.booleans())
    def purge_outside(self, selection: Selection, settled: bool) -> None:
        if not settled and selection.all:
            # Queued entries are purged as well; which ones were written by then is a matter of time.
            selection = Selection(all=True)
        else:
            self.loop.run_until_complete(self.store.flush())
        self._purged(selection)
        purge(
            self.folder,
            tenant=selection.tenant,
            model=selection.model,
            older_than_ns=selection.older_than_ns,
            all=selection.all,
        )

    def _purged(self, selection: Selection) -> None:
        self.model = {key: entry for key, entry in self.model.items() if not selection.fits(entry)}
        if selection.empty or selection.model is not None:
            return
        for (tenant, name), (_, created_ns) in list(self.links.items()):
            of_tenant = selection.tenant in (None, tenant)
            if of_tenant and (selection.older_than_ns is None or created_ns < selection.older_than_ns):
                del self.links[tenant, name]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()

    @invariant()
    def nothing_is_dropped(self) -> None:
        assert self.store.dropped == 0
        assert self.store.warnings == []

    def teardown(self) -> None:
        self.store.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        fresh = {key for key, entry in self.model.items() if is_fresh(entry, self.now_ns)}
        assert fresh <= {summary.key for summary in Reader(self.folder).entries(100)}
        shutil.rmtree(self.folder)


class MachineWithoutMemory(Machine):
    front_max_bytes = 0


TestStore = Machine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestStoreWithoutMemory = MachineWithoutMemory.TestCase
TestStoreWithoutMemory.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
