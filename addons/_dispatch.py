"""Hook dispatch that looks the listeners up once.

Stock ``AddonManager.trigger_event`` asks every addon for every hook, wraps each in a context manager, and repeats all of
it for the ``update`` hook: almost half of the time of a request that is answered locally.  Which addons listen to a hook
only changes when an addon comes or goes, so it is remembered between those moments.

What stays the same: the order (chain order, a parent before its sub-addons), awaiting, ``AddonHalt`` ending the round,
``OptionsError`` going up to the caller, one failing addon not stopping the next one, a failing parent silencing its
sub-addons.  What differs: an error is one log line without a traceback, and an addon that grows a hook method after it
was added must be added again.  The synchronous ``trigger`` (``configure``) stays stock: scripts reload through it while
the chain is changing.
"""

import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import PurePath

from mitmproxy import addonmanager, exceptions, flow, hooks, master

logger = logging.getLogger("promptweir.dispatch")

type Listener = Callable[..., object]
type Group = tuple[Listener, ...]
"""The listeners of one addon of the chain: its own, then those of its sub-addons."""


class FastAddons(addonmanager.AddonManager):
    """An ``AddonManager`` that remembers who listens."""

    def __init__(self, owner: master.Master) -> None:
        super().__init__(owner)  # type: ignore[no-untyped-call]
        self._groups: dict[type[hooks.Hook], tuple[Group, ...]] = {}
        self._fields: dict[type[hooks.Hook], tuple[str, ...]] = {}

    def register(self, addon: object) -> object:
        """Register *addon* and forget who listens; script reloading comes this way too."""
        self._groups.clear()
        return super().register(addon)  # type: ignore[no-untyped-call]

    def remove(self, addon: object) -> None:
        """Remove *addon* and forget who listens."""
        self._groups.clear()
        super().remove(addon)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Remove all addons and forget who listens."""
        self._groups.clear()
        super().clear()  # type: ignore[no-untyped-call]

    def add(self, *addons: object) -> None:
        """Add *addons* at the end of the chain."""
        super().add(*addons)  # type: ignore[no-untyped-call]
        self._groups.clear()  # register() ran before the addon was in the chain

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        """Trigger a hook of the proxy, and ``update`` after it if it concerned a flow and anybody listens to that."""
        args = self._args(event)
        await self._call(type(event), args)
        if isinstance(args[0], flow.Flow) and self._listeners(hooks.UpdateHook):
            await self._call(hooks.UpdateHook, ([args[0]],))

    async def trigger_event(self, event: hooks.Hook) -> None:
        """Trigger *event* across all addons."""
        await self._call(type(event), self._args(event))

    def _args(self, event: hooks.Hook) -> Sequence[object]:
        kind = type(event)
        names = self._fields.get(kind)
        if names is None:
            if kind.args is not hooks.Hook.args:
                return event.args()
            names = self._fields[kind] = tuple(field.name for field in fields(event))  # type: ignore[arg-type]
        return [getattr(event, name) for name in names]

    def _listeners(self, kind: type[hooks.Hook]) -> tuple[Group, ...]:
        groups = self._groups.get(kind)
        if groups is None:
            groups = self._groups[kind] = tuple(filter(None, (self._group(addon, kind) for addon in self.chain)))
        return groups

    def _group(self, addon: object, kind: type[hooks.Hook]) -> Group:
        listeners: list[Listener] = []
        for part in addonmanager.traverse([addon]):  # type: ignore[no-untyped-call]
            listener = getattr(part, kind.name, None)
            if callable(listener):
                listeners.append(listener)
            elif listener and not inspect.ismodule(listener):
                # A module of that name (`from mitmproxy import log`) is no mistake; anything else is.
                logger.error("%s.%s is not callable, so it is no hook", type(part).__name__, kind.name)
                break
        return tuple(listeners)

    async def _call(self, kind: type[hooks.Hook], args: Sequence[object]) -> None:
        for group in self._listeners(kind):
            try:
                for listener in group:
                    result = listener(*args)
                    if result is not None and inspect.isawaitable(result):
                        await result
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception as error:  # noqa: BLE001 - as stock mitmproxy: a broken addon must not stop the others
                logger.error("addon error in %s: %s", kind.name, _describe(error, quotable=not args))


def _describe(error: Exception, *, quotable: bool) -> str:
    """Return what went wrong and where, in one line.

    The text of an exception may quote what was being handled, and with a flow at hand that is somebody's prompt.
    """
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} at {PurePath(where.filename).name}:{where.lineno}"
    return f"{place}: {error}" if quotable else place
