"""Keeps what holds connections, so that they are shared; the least used ones are closed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from kubetune.queue.outside import background


class Closable(Protocol):
    """Opens connections again when it is used after ``close``."""

    async def close(self) -> None:
        """Close the connections."""
        ...


T = TypeVar("T", bound=Closable)


class Pool(Generic[T]):
    """At most ``limit`` items, by key. Needs a running event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[str, T] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The item of a key, made when there is none; call this again for each use."""
        if key not in self._items:
            self._items[key] = make()
        self._items.move_to_end(key)
        if len(self._items) > self._limit:
            # A closed one that somebody still holds opens new connections when it is used.
            _, unused = self._items.popitem(last=False)
            task = background(unused.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._items[key]

    def items(self) -> list[T]:
        """All that are kept."""
        return list(self._items.values())

    async def close(self) -> None:
        """Close all connections."""
        items = list(self._items.values())
        self._items.clear()
        await asyncio.gather(*(item.close() for item in items), *self._closing)
