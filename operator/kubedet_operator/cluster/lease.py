"""Which of the replicas acts: the one that holds the Lease and renews it in time.

The official client's election marks local time as UTC, ends at the first network error and keeps the Lease
when the process ends; hence ours. As in client-go, no clocks are compared: a Lease has run out when a replica
has not seen it change for its duration, and its holder gives it up by itself well before that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import Cluster
from kubedet_trainer.contract.times import format_now

logger = logging.getLogger(__name__)

DURATION_SECONDS = 10
"""Without a renewal for this long, another replica takes the Lease."""

GIVE_UP_SECONDS = 7
"""Without a renewal for this long, the holder stops: before another one can begin."""

RENEW_SECONDS = 3.0
RETRY_SECONDS = 1.5
"""Between two looks of a standby, and after a renewal that failed."""


class Leadership:
    """Whether this replica is the one that acts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        """Seconds that never go back."""
        self.held = asyncio.Event()
        """Set from the moment at which the Lease is taken until it is lost."""
        self._renewed_at = float("-inf")

    def holds(self) -> bool:
        """Whether the Lease is ours beyond doubt, at this very moment."""
        if self.held.is_set() and self.clock() - self._renewed_at > GIVE_UP_SECONDS:
            self.lose(f"it could not be renewed for {GIVE_UP_SECONDS} s")
        return self.held.is_set()

    def renew(self, at: float) -> None:
        """Note that the Lease is ours, by a request that was sent `at` this time of the clock."""
        self._renewed_at = at
        if not self.held.is_set():
            self.held.set()
            logger.info("this replica leads: it holds the Lease")

    def lose(self, cause: str) -> None:
        """Note that the Lease is not ours any more."""
        self.held.clear()
        logger.warning("this replica no longer leads: %s", cause)


class Election:
    """Campaigns for one Lease, for as long as `run` runs."""

    def __init__(
        self, cluster: Cluster, leadership: Leadership, *, namespace: str, name: str, identity: str
    ) -> None:
        self._cluster = cluster
        self._leadership = leadership
        self._clock = leadership.clock
        self._metadata = {"namespace": namespace, "name": name}
        self._identity = identity
        self._held: dict[str, Any] | None = None
        """The Lease as it was last written by us: the next renewal needs no look at it."""
        self._seen: dict[str, Any] = {}
        self._seen_at = 0.0

    async def run(self) -> None:
        """Take the Lease when it is free and renew it, for ever; give it back when cancelled."""
        try:
            while True:
                try:
                    await self._try()
                    pause = RENEW_SECONDS if self._leadership.held.is_set() else RETRY_SECONDS
                except errors.OperatorError as error:
                    self._complain(error)
                    pause = RETRY_SECONDS
                self._leadership.holds()
                await asyncio.sleep(pause)
        finally:
            if self._leadership.held.is_set():
                self._leadership.lose("this process ends")
                await self._release()

    async def _try(self) -> None:
        """Look at the Lease, and take or renew it where it is free or ours."""
        asked_at = self._clock()
        lease, self._held = self._held or await self._read(), None
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_at = spec, self._clock()
        holder = spec.get("holderIdentity")
        duration = spec.get("leaseDurationSeconds") or DURATION_SECONDS
        if holder not in (None, "", self._identity):
            if self._leadership.held.is_set():
                self._leadership.lose(f"{holder} has taken it")
            if self._clock() - self._seen_at < duration:
                return
        try:
            written = await self._cluster.write_lease(self._renew(lease, is_new=holder != self._identity))
        except errors.Conflict:
            return  # somebody was faster
        self._held = written
        self._leadership.renew(asked_at)

    async def _read(self) -> dict[str, Any]:
        try:
            return await self._cluster.read_lease(**self._metadata)
        except errors.NotFound:
            return {"metadata": self._metadata}

    def _renew(self, lease: dict[str, Any], *, is_new: bool) -> dict[str, Any]:
        now = format_now(timespec="microseconds")
        spec = {
            **(lease.get("spec") or {}),
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": now,
        }
        if is_new:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease["metadata"],
            "spec": spec,
        }

    async def _release(self) -> None:
        """Let another replica begin at once."""
        try:
            lease = await self._cluster.read_lease(**self._metadata)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._cluster.write_lease(lease)
        except errors.OperatorError as error:
            logger.info("the Lease was not released: %s", error)

    def _complain(self, error: errors.OperatorError) -> None:
        # The watches report an API server that is unreachable.
        level = logging.DEBUG if isinstance(error, errors.ApiUnreachable | errors.ApiBusy) else logging.ERROR
        logger.log(level, "the Lease %s/%s: %s", *self._metadata.values(), error)
