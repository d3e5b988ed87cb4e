"""Who leads, when, and for how long, against a Lease that several replicas want."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.lease import DURATION_SECONDS, GIVE_UP_SECONDS, Election


class Leases:
    """An API server with one Lease and optimistic locking."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.down = False

    async def read_lease(self, namespace: str, name: str) -> dict[str, Any]:
        self._check()
        if self.lease is None:
            raise errors.NotFound("no such Lease")
        return {**self.lease, "spec": dict(self.lease["spec"])}

    async def write_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        self._check()
        known = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if lease["metadata"].get("resourceVersion") != known:
            raise errors.Conflict("changed")
        metadata = {**lease["metadata"], "resourceVersion": str(int(known or 0) + 1)}
        self.lease = {**lease, "metadata": metadata}
        return {**self.lease, "spec": dict(self.lease["spec"])}

    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])

    def _check(self) -> None:
        if self.down:
            raise errors.ApiUnreachable("down")


class Replicas:
    """Two replicas with one clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.leases = Leases()
        self.first, self.second = (self._make(name) for name in ("first", "second"))

    def _make(self, identity: str) -> Election:
        return Election(
            cast(Cluster, self.leases),
            namespace="n",
            name="lease",
            identity=identity,
            clock=lambda: self.now,
        )


@pytest.fixture
async def replicas() -> Replicas:
    return Replicas()


async def test_the_first_one_leads_and_the_other_waits_while_it_renews(replicas: Replicas) -> None:
    await replicas.first._try()
    for _ in range(20):
        await replicas.second._try()
        replicas.now += 3
        await replicas.first._try()
    assert replicas.first.is_leading()
    assert not replicas.second.is_leading()


async def test_the_other_takes_over_when_the_leader_falls_silent(replicas: Replicas) -> None:
    await replicas.first._try()
    await replicas.second._try()
    replicas.now += DURATION_SECONDS - 0.1
    await replicas.second._try()
    assert not replicas.second.is_leading()
    replicas.now += 0.2
    await replicas.second._try()
    assert replicas.second.is_leading()
    assert replicas.leases.lease is not None
    assert replicas.leases.lease["spec"]["leaseTransitions"] == 2


async def test_a_leader_that_cannot_renew_stops_before_another_can_begin(replicas: Replicas) -> None:
    await replicas.first._try()
    await replicas.second._try()
    replicas.leases.down = True
    replicas.now += GIVE_UP_SECONDS + 0.1
    assert not replicas.first.is_leading()
    replicas.leases.down = False
    await replicas.second._try()
    assert not replicas.second.is_leading()


async def test_a_leader_whose_lease_was_taken_steps_down(replicas: Replicas) -> None:
    await replicas.first._try()
    assert replicas.leases.lease is not None
    spec = {**replicas.leases.lease["spec"], "holderIdentity": "thief"}
    metadata = {**replicas.leases.lease["metadata"], "resourceVersion": "9"}
    replicas.leases.lease = {"metadata": metadata, "spec": spec}
    await replicas.first._try()  # its renewal finds the other one's version
    await replicas.first._try()
    assert not replicas.first.is_leading()


async def test_of_two_that_want_a_free_lease_one_gets_it(replicas: Replicas) -> None:
    await asyncio.gather(replicas.first._try(), replicas.second._try())
    assert replicas.first.is_leading() != replicas.second.is_leading()


async def test_a_leader_that_ends_gives_the_lease_back(replicas: Replicas) -> None:
    running = asyncio.create_task(replicas.first.run())
    await asyncio.wait_for(replicas.first.leading.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert replicas.leases.holder() == ""
    await replicas.second._try()
    assert replicas.second.is_leading()
