"""A least-recently-used map bounded by bytes: the part of the store that answers without touching the disk.

Only the thread of the event loop uses it, so it has no lock.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator


class Front[K: Hashable, V]:
    """Values by key, the least recently used of them forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value itself, not a copy, and make it the most recently used."""
        item = self._items.get(key)
        if item is None:
            return None
        self._items.move_to_end(key)
        return item[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep *value*; one that is larger than the whole front only removes what it replaces."""
        self.drop(key)
        if size_bytes > self._max_bytes:
            return
        self._items[key] = (value, size_bytes)
        self.bytes += size_bytes
        while self.bytes > self._max_bytes:
            _, (_, freed) = self._items.popitem(last=False)
            self.bytes -= freed

    def drop(self, key: K) -> None:
        """Forget *key*."""
        item = self._items.pop(key, None)
        if item is not None:
            self.bytes -= item[1]

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.bytes = 0

    def values(self) -> Iterator[V]:
        """Iterate over the values, the least recently used first."""
        return (value for value, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)
