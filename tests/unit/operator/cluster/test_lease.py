"""Who leads, when, and for how long, against a Lease that several replicas want."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.lease import DURATION_SECONDS, GIVE_UP_SECONDS, Election, Leadership


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
        self.first, self.second = (Replica(self, name) for name in ("first", "second"))


class Replica:
    """One that wants to lead."""

    def __init__(self, replicas: Replicas, identity: str) -> None:
        self.leadership = Leadership(lambda: replicas.now)
        cluster = cast(Cluster, replicas.leases)
        self.election = Election(cluster, self.leadership, namespace="n", name="lease", identity=identity)

    async def attempt(self) -> None:
        await self.election._try()

    def leads(self) -> bool:
        return self.leadership.holds()


@pytest.fixture
async def replicas() -> Replicas:
    return Replicas()


async def test_the_first_one_leads_and_the_other_waits_while_it_renews(replicas: Replicas) -> None:
    await replicas.first.attempt()
    for _ in range(20):
        await replicas.second.attempt()
        replicas.now += 3
        await replicas.first.attempt()
    assert replicas.first.leads()
    assert not replicas.second.leads()


async def test_the_other_takes_over_when_the_leader_falls_silent(replicas: Replicas) -> None:
    await replicas.first.attempt()
    await replicas.second.attempt()
    replicas.now += DURATION_SECONDS - 0.1
    await replicas.second.attempt()
    assert not replicas.second.leads()
    replicas.now += 0.2
    await replicas.second.attempt()
    assert replicas.second.leads()
    assert replicas.leases.lease is not None
    assert replicas.leases.lease["spec"]["leaseTransitions"] == 2


async def test_a_leader_that_cannot_renew_stops_before_another_can_begin(replicas: Replicas) -> None:
    await replicas.first.attempt()
    await replicas.second.attempt()
    replicas.leases.down = True
    replicas.now += GIVE_UP_SECONDS + 0.1
    assert not replicas.first.leads()
    replicas.leases.down = False
    await replicas.second.attempt()
    assert not replicas.second.leads()


async def test_a_leader_whose_lease_was_taken_steps_down(replicas: Replicas) -> None:
    await replicas.first.attempt()
    assert replicas.leases.lease is not None
    spec = {**replicas.leases.lease["spec"], "holderIdentity": "thief"}
    metadata = {**replicas.leases.lease["metadata"], "resourceVersion": "9"}
    replicas.leases.lease = {"metadata": metadata, "spec": spec}
    await replicas.first.attempt()  # its renewal finds the other one's version
    await replicas.first.attempt()
    assert not replicas.first.leads()


async def test_of_two_that_want_a_free_lease_one_gets_it(replicas: Replicas) -> None:
    await asyncio.gather(replicas.first.attempt(), replicas.second.attempt())
    assert replicas.first.leads() != replicas.second.leads()


async def test_a_leader_that_ends_gives_the_lease_back(replicas: Replicas) -> None:
    running = asyncio.create_task(replicas.first.election.run())
    await asyncio.wait_for(replicas.first.leadership.held.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert replicas.leases.holder() == ""
    await replicas.second.attempt()
    assert replicas.second.leads()
