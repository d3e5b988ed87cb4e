"""How each target of the chaos matrix is hit, and set going again where nobody else does that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from chaos_world import Daemon, World
from kubedet_operator.api import names
from kubedet_trainer.telemetry.processes import read_stat
from kubelet import Container
from pod_network import Host

_AWAY_SECONDS = 3
"""How long a server that was ended stays away."""


def find_victim(target: str, *, world: World, job: str, first: Container) -> Victim:
    """What is to be hit.

    Args:
        target: one of `chaos_cells.TARGETS`.
        world: where it is.
        job: whose rendezvous it is, if it is that.
        first: the worker with rank 0.
    """
    return _VICTIMS[target](world, job, first)


def find_rank(container: Container) -> int | None:
    """The process of the rank of a worker of one rank: the first one that writes into the rank's log."""
    for pid in container.pids():
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/2").endswith("/0/stderr.log"):
                return pid
    return None


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie has ended: only its parent has not asked for its exit code yet."""
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


class Victim:
    """Something made of processes and hosts."""

    def __init__(self, world: World, job: str, first: Container) -> None:
        self.world = world
        self.job = job
        self.first = first

    def pids(self) -> Sequence[int]:
        """The processes that a signal goes to."""
        return ()

    def hosts(self) -> Sequence[Host]:
        """The hosts that are cut off."""
        raise NotImplementedError

    async def terminate(self) -> None:
        """Ask it to end."""
        self.send(signal.SIGTERM)

    async def kill(self) -> None:
        """End it without asking."""
        self.send(signal.SIGKILL)

    async def freeze(self) -> None:
        """Stop it."""
        self.send(signal.SIGSTOP)

    async def wake(self) -> None:
        """Let it continue; children first, for a parent must not see them stopped."""
        self.send(signal.SIGCONT)

    async def revive(self) -> None:
        """Start it again after its end, unless the cluster does that."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        order = reversed if number == signal.SIGCONT else iter
        for pid in order(self.pids()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def meet(self, means: str, seconds: float | None) -> None:
        """Hit it by one of `chaos_cells.MEANS`. Returns when the fault is over, as far as it ends by itself.

        STOP and cut last for `seconds`; None for ever.
        """
        if means == "cut":
            hosts = self.hosts()
            for host in hosts:
                host.cut()
            await asyncio.sleep(seconds or 0)
            for host in hosts:
                host.heal()
        elif means == "STOP":
            await self.freeze()
            if seconds is not None:
                await asyncio.sleep(seconds)
                await self.wake()
        else:
            await (self.terminate() if means == "TERM" else self.kill())
            await self.revive()


class _Rank(Victim):
    def pids(self) -> Sequence[int]:
        pid = find_rank(self.first)
        assert pid is not None, "rank 0 does not run"
        return [pid]


class _Launcher(Victim):
    def pids(self) -> Sequence[int]:
        return self.first.pids()[:1]


class _Pod(Victim):
    def pids(self) -> Sequence[int]:
        return self.first.pids()

    def hosts(self) -> Sequence[Host]:
        return [self.first.host]

    async def terminate(self) -> None:
        await self.world.delete_pod(self.first.pod)


class _Worker(_Pod):
    async def kill(self) -> None:
        await self.world.delete_pod(self.first.pod, grace=0)
        self.first.kill()


class _Rendezvous(_Pod):
    def __init__(self, world: World, job: str, first: Container) -> None:
        name = names.rendezvous_name(job)
        super().__init__(world, job, next(found for found in world.pods_of(job) if found.pod == name))


class _Daemon(Victim):
    def daemon(self) -> Daemon:
        raise NotImplementedError

    def __init__(self, world: World, job: str, first: Container) -> None:
        super().__init__(world, job, first)
        self.found = self.daemon()

    def pids(self) -> Sequence[int]:
        assert self.found.process is not None
        return [self.found.process.pid]

    def hosts(self) -> Sequence[Host]:
        return [self.found.host]

    async def revive(self) -> None:
        assert self.found.process is not None
        await asyncio.to_thread(self.found.process.wait)
        await asyncio.sleep(_AWAY_SECONDS)
        self.found.start()


class _Operator(_Daemon):
    def daemon(self) -> Daemon:
        return self.world.leader()


class _ObjectStore(_Daemon):
    def daemon(self) -> Daemon:
        return self.world.s3


class _ApiServer(Victim):
    def hosts(self) -> Sequence[Host]:
        return [operator.host for operator in self.world.operators]

    async def terminate(self) -> None:
        await self.act("stop")

    async def kill(self) -> None:
        await self.act("kill")

    async def freeze(self) -> None:
        await self.act("pause")

    async def wake(self) -> None:
        await self.act("resume")

    async def revive(self) -> None:
        await asyncio.sleep(_AWAY_SECONDS)
        await self.act("start")

    async def act(self, action: str) -> None:
        await asyncio.to_thread(self.world.component, action)


_VICTIMS: dict[str, type[Victim]] = {
    "rank": _Rank,
    "PID 1": _Launcher,
    "worker pod": _Worker,
    "rendezvous": _Rendezvous,
    "operator leader": _Operator,
    "API server": _ApiServer,
    "S3": _ObjectStore,
}
