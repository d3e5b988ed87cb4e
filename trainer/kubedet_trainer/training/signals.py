"""SIGTERM becomes a flag that is read between steps: a signal must not cut a step or a save in two."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

from kubedet_trainer.errors import PeerFailed, TerminatedSaved

_Item = TypeVar("_Item")


class StopRequest:
    """Whether this process was asked to stop, by SIGTERM or Ctrl-C."""

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0

    def listen(self) -> StopRequest:
        """Take the signals of this process from now on; the first one is enough."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)
        return self

    def watch(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items, for work that is simply done again later: a request ends it between two of them.

        Raises:
            TerminatedSaved: a stop was requested. Only for loops whose state is durable beforehand.
        """
        for item in items:
            if self.requested:
                raise TerminatedSaved("stopped as asked; the training state had been saved before")
            yield item

    def end(self, iteration: int) -> NoReturn:
        """End this rank after all ranks agreed to stop and the state of `iteration` became durable.

        Raises:
            TerminatedSaved: this process was asked to stop.
            PeerFailed: it was not; its peers are about to go away, and it may start again with others.
        """
        where = f"the state of iteration {iteration} is saved"
        if self.requested:
            raise TerminatedSaved(f"stopped as asked; {where}")
        raise PeerFailed(f"another worker was asked to stop; {where}")

    def seconds_since(self) -> float:
        """Seconds since this process was asked to stop; 0 if it was not."""
        return time.monotonic() - self._requested_at if self.requested else 0.0

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self._requested_at = time.monotonic()
        self.requested = True
