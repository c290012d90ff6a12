"""The signal that ends a command which goes on and on: the work under way is finished first."""

import signal
import time
from collections.abc import Callable, Iterable

SLICE = 0.2  # seconds of sleep between two looks at whether a signal has come


class EndingSignal:
    """Whether a signal has come, from now on and in the whole process. Made in the main thread.

    A signal that the process was told to ignore, such as SIGHUP under nohup, stays ignored.

    Args:
        numbers: the signals.
        on_signal: called with the signal's number when one comes. It must take no lock: the line that it interrupts may
            hold it.

    Attributes:
        came: the number of the last one that came; 0 before.
    """

    def __init__(
        self,
        numbers: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        on_signal: Callable[[int], object] = lambda number: None,
    ):
        self.came, self._on_signal = 0, on_signal
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self.came = number
        self._on_signal(number)

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not after a signal; Python's own sleep would go on after it."""
        due = time.monotonic() + seconds
        while not self.came and (left := due - time.monotonic()) > 0:
            time.sleep(min(SLICE, left))
