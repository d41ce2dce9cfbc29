"""Who is next: namespaces take turns, and none of them can take everything.

Nothing here knows of an event loop. Whoever asks gives a function, which is called once it is
its turn: at once, or while another one is done.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable

Go = Callable[[], object]


class Turns:
    """So many turns at a time, shared out between namespaces.

    A namespace that asks often waits for itself: of those that ask each gets one turn, then each
    the next one. With ``spare`` it also leaves half of what the others leave: with n of them busy,
    one part in n + 1 stays free for whoever has asked for nothing yet, even if all others hang.
    """

    def __init__(self, width: int = 0, *, spare: bool = False) -> None:
        self._width = width
        self._spare = spare
        self._asking: OrderedDict[str, deque[Go]] = OrderedDict()
        """By namespace; the first is the next one."""
        self._held: defaultdict[str, int] = defaultdict(int)
        self._taken = 0
        self._giving = False

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._asking.values()))

    @property
    def taken(self) -> int:
        """How many have a turn now."""
        return self._taken

    def open(self, width: int) -> None:
        """Have so many turns from now on."""
        self._width = width
        self._give()

    def ask(self, namespace: str, go: Go, *, first: bool = False) -> None:
        """Call ``go`` when it is its turn; ``first`` of its namespace, as it has begun before."""
        waiting = self._asking.setdefault(namespace, deque())
        if first:
            waiting.appendleft(go)
        else:
            waiting.append(go)
        self._give()

    def done(self, namespace: str) -> None:
        """A turn of a namespace is over."""
        self._taken -= 1
        self._held[namespace] -= 1
        if not self._held[namespace]:
            del self._held[namespace]
        self._give()

    def _give(self) -> None:
        if self._giving:
            # Called by one whose turn it is: whoever called that one goes on.
            return
        self._giving = True
        try:
            while (namespace := self._next()) is not None:
                waiting = self._asking.pop(namespace)
                go = waiting.popleft()
                if waiting:
                    # The last in line from now on.
                    self._asking[namespace] = waiting
                self._taken += 1
                self._held[namespace] += 1
                go()
        finally:
            self._giving = False

    def _next(self) -> str | None:
        if self._taken >= self._width:
            return None
        if not self._spare:
            return next(iter(self._asking), None)
        for namespace in self._asking:
            if self._may_take(namespace):
                return namespace
        return None

    def _may_take(self, namespace: str) -> bool:
        held = self._held.get(namespace, 0)
        left_by_others = self._width - (self._taken - held)
        return 2 * held < left_by_others
