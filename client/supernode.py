"""Flower's SuperNode, which looks more often for messages while a run is under way (flwr 1.41).

Flower's own waits three seconds whenever no message is there, and half a second between looks for
the runner's reply. An exchange that computes nothing then takes about four seconds, and a secure
sum, which needs two exchanges where a visible one needs one, pays that twice. Started as
`python -P client/supernode.py` with the options of `flower-supernode`; all else is Flower's own.
What crosses the hospital's boundary: what a SuperNode sends; no other bytes, at other times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

IDLE_S = 2.0
"""Flower sleeps longer than this only when no message was there (3 s in flwr 1.41)."""

BUSY_S = 60.0
"""For so long after a message the next one is expected soon."""

LOOK_S, REPLY_S = 0.5, 0.1
"""Between two looks for a message while one is expected soon, and for the runner's reply."""


class Pace:
    """Stands for `time.sleep` in Flower's loop: short while there is work, long when idle.

    Args:
        sleep: really waits so many seconds.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self._busy_until = clock()

    def sleep(self, seconds: float) -> None:
        """Wait as long as Flower says, or less while a run is under way."""
        if seconds < IDLE_S:  # a message is in hand
            self._busy_until = self._clock() + BUSY_S
            self._sleep(min(seconds, REPLY_S))
        else:
            self._sleep(min(seconds, LOOK_S) if self._clock() < self._busy_until else seconds)


def main() -> None:
    """Run a SuperNode with this process's arguments until it is told to stop."""
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    vars(start_client_internal)["time"] = SimpleNamespace(sleep=Pace().sleep)
    flower_supernode()


if __name__ == "__main__":
    main()
