"""Fixtures of the store's tests: a clock that a test turns, stores that are always closed, entries made in a line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptweir.layers.contract import Usage
from promptweir.layers.stores.sqlite import SqliteStore
from promptweir.layers.stores.types import Entry

HOUR_NS = 3600 * 10**9


class Clock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_entry(clock: Clock) -> Callable[..., Entry]:
    def make(number: int = 0, *, body: bytes = b'{"ok":true}', **changes: object) -> Entry:
        values: dict[str, object] = {
            "key": number.to_bytes(32, "big"),
            "tenant": b"tenant-a",
            "dialect": "openai-chat",
            "model": "model-a",
            "status": 200,
            "content_type": "application/json",
            "encoding": "json",
            "body": body,
            "created_ns": clock.ns,
            "expires_ns": clock.ns + HOUR_NS,
            "atoms": (("path", "/home/alice/app"), ("uuid", "ünïcode")),
            "effect": "read-only",
            "ending": "clean",
            "client": "tests/1",
            "usage": Usage(input_tokens=11, output_tokens=7, cached_tokens=3),
            "fingerprint": b"\x00\xff fingerprint",
            "prompt_id": f"p{number}",
        }
        return Entry(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., SqliteStore]]:
    stores: list[SqliteStore] = []

    def open_one(folder: Path | None = None, **changes: int) -> SqliteStore:
        limits = {"max_bytes": 1 << 30, "max_entries": 10_000, "front_max_bytes": 1 << 20, "max_trips": 1000} | changes
        store = SqliteStore(folder or tmp_path / "state", now_ns=clock, **limits)
        store.open()
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()
