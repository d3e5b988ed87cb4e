"""The ranks of a run: who they are, and the few things they say to one another.

The only module of the ranks that knows `torch.distributed`. Without torchrun there is one rank and no
process group: every function then works and costs nothing. Gradients travel over NCCL on GPUs and gloo on
CPUs; objects and flags always over a gloo group of their own, so that they never wait behind a gradient.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as c10d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kubedet_trainer.errors import PeerFailed, native

_Value = TypeVar("_Value")

_host_group: c10d.ProcessGroup | None = None

_HOST_TIMEOUT = timedelta(days=1)
"""How long a rank waits for others on the host: the launcher ends what hangs, long before this does."""

_POLL_SECONDS = 0.01
_CALL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks of the run; the only one unless told otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Index within the replica: the GPU to use."""
    device: torch.device
    restarts: int = 0
    """How often torchrun has restarted this worker's ranks in the same pod."""


def local_rank() -> int:
    """The number of this process among the ranks of its replica, 0 and up."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def initialise(device: torch.device) -> World:
    """Join the other ranks that torchrun started, with the device of this one; alone without torchrun.

    Raises:
        PeerFailed: another rank went away while joining.
    """
    world = World(
        rank=rank(),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank(),
        device=device,
        restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
    if world.size > 1:
        global _host_group
        with peer_failures():
            c10d.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            _host_group = cast(c10d.ProcessGroup, c10d.new_group(backend="gloo", timeout=_HOST_TIMEOUT))
    return world


def shut_down() -> None:
    """Leave the other ranks in order. After a failure do not call it: it would wait for them."""
    global _host_group
    if c10d.is_initialized():
        _host_group = None
        c10d.destroy_process_group()


def rank() -> int:
    """This process's number among all ranks, 0 and up."""
    return c10d.get_rank() if c10d.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many ranks train together."""
    return c10d.get_world_size() if c10d.is_initialized() else 1


def barrier(*, waiting: Callable[[], None]) -> None:
    """Wait until every rank is here, and call `waiting` about every second until then.

    Whoever waits for the work of another rank does nothing wrong: `waiting` is to show that this one lives.
    """
    if not c10d.is_initialized():
        return
    arrival = c10d.barrier(group=_host_group, async_op=True)
    called = time.monotonic()
    while not arrival.is_completed():
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - called > _CALL_SECONDS:
            called = time.monotonic()
            waiting()
    arrival.wait()


def gather(value: _Value) -> list[_Value]:
    """The value of every rank, in rank order, on rank 0; an empty list elsewhere."""
    if not c10d.is_initialized():
        return [value]
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    c10d.gather_object(value, gathered, dst=0, group=_host_group)
    return gathered or []


def broadcast(value: _Value, *, waiting: Callable[[], None]) -> _Value:
    """Rank 0's value, on every rank; what the others pass is ignored. `waiting` is as for `barrier`."""
    if not c10d.is_initialized():
        return value
    barrier(waiting=waiting)
    holder: list[Any] = [value]
    c10d.broadcast_object_list(holder, src=0, group=_host_group)
    return cast(_Value, holder[0])


def maximum(values: list[float]) -> list[float]:
    """The largest of each value over the ranks, on every rank."""
    tensor = torch.tensor(values, dtype=torch.float64)
    if c10d.is_initialized():
        c10d.all_reduce(tensor, op=c10d.ReduceOp.MAX, group=_host_group)
    return cast(list[float], tensor.tolist())


class Agreement:
    """Small integers whose maximum over the ranks becomes known one call later, without waiting for it.

    Every rank calls `exchange` once an iteration, all with the same number of values. What it returns was
    passed in the iteration before and is the same on every rank, so that all of them stop or save after the
    same iteration. The all-reduce overlaps the step in between.
    """

    def __init__(self, size: int) -> None:
        self._agreed = torch.zeros(size, dtype=torch.int32)
        self._work: c10d.Work | None = None

    def exchange(self, values: list[int]) -> list[int]:
        """Send this iteration's values, and return the maxima of the iteration before (zeros at first)."""
        if self._work is not None:
            self._work.wait()
        agreed = cast(list[int], self._agreed.tolist())
        self._agreed = torch.tensor(values, dtype=torch.int32)
        if c10d.is_initialized():
            self._work = c10d.all_reduce(self._agreed, op=c10d.ReduceOp.MAX, group=_host_group, async_op=True)
        return agreed

    def finish(self) -> None:
        """Wait for what is still under way; no rank may exchange afterwards."""
        if self._work is not None:
            self._work.wait()
            self._work = None


def wrap(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the ranks; the model itself when it is alone."""
    if not c10d.is_initialized():
        return model
    with warnings.catch_warnings():  # torch 2.14 advises an argument that older versions do not have
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def accumulating(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around one forward and backward of an accumulated step: only the last one exchanges gradients."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return cast(AbstractContextManager[None], model.no_sync())


def is_lost_peer(error: BaseException) -> bool:
    """Whether `error` is how gloo or NCCL report that another rank went away."""
    if isinstance(error, c10d.DistNetworkError | c10d.DistStoreError):
        return True
    verdict = native.judge(str(error)) if isinstance(error, RuntimeError) else None
    return verdict is not None and verdict.exit_code == PeerFailed.exit_code


@contextmanager
def peer_failures() -> Iterator[None]:
    """Turn what gloo and NCCL raise when a rank went away into `PeerFailed`."""
    try:
        yield
    except RuntimeError as error:
        if is_lost_peer(error):
            first_line = str(error).strip().splitlines()[0]
            raise PeerFailed(f"another rank went away: {first_line}") from error
        raise
