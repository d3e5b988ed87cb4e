"""Which images make up which batch: grouped by aspect, reproducible, and the same at any number of processes.

The zoo's distributed group sampler (`docs/zoo.md`, 1.3), in its order: an epoch's permutation depends on the
epoch (and the seed) alone. The global batch of an iteration is what the zoo's processes would have taken
together at that iteration; here its chunks are dealt to the processes that there are. So a run may stop at
any iteration and continue with more or fewer processes, and sees exactly the images it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from kubedet_trainer.errors import InvalidInput

_DIGITS = 6
"""A sum of chances is above a whole number if it is so by more than this."""


class SampleKey(NamedTuple):
    """One image of one epoch; with the seed it fixes all random choices about the image."""

    epoch: int
    position: int
    """In the list of images that is sampled from."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sampled, the same on all ranks."""

    aspect_groups: NDArray[np.int64]
    """(N,) group of each image; a chunk never mixes groups."""
    images_per_process: int
    """Images of a chunk: what one process passes through the model together."""
    global_batch: int
    """Images of an iteration over all processes; a multiple of `images_per_process`."""
    chances: NDArray[np.float64] | None = None
    """(N,) how likely each image is to appear in an epoch; None where all do in each."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.global_batch % self.images_per_process:
            raise InvalidInput(
                f"global_batch: got {self.global_batch}, must be a multiple of images_per_process "
                f"({self.images_per_process})"
            )
        if not len(self.aspect_groups):
            raise InvalidInput("training images: got none, must be at least one with an annotation")

    @property
    def chunks_per_iteration(self) -> int:
        """Chunks of a global batch."""
        return self.global_batch // self.images_per_process

    @cached_property
    def iterations_per_epoch(self) -> int:
        """Sum over the groups of ceil(images / global batch), the same in every epoch."""
        return sum(map(self.group_iterations, np.unique(self.aspect_groups).tolist()))

    def group_iterations(self, group: int) -> int:
        """Iterations that the images of one group fill."""
        members = self.aspect_groups == group
        count = members.sum() if self.chances is None else self.chances[members].sum().round(_DIGITS)
        return int(np.ceil(count / self.global_batch))


def epoch_batches(plan: Plan, *, epoch: int) -> NDArray[np.int64]:
    """(iterations, chunks, images per process) indices of one epoch; costs a permutation of the data set."""
    generator = torch.Generator()
    generator.manual_seed(plan.seed + epoch)
    parts = []
    for group in np.unique(plan.aspect_groups):
        members = np.flatnonzero(plan.aspect_groups == group)
        if plan.chances is not None:
            members = members[_appear(plan.chances[members], generator)]
        members = members[torch.randperm(len(members), generator=generator).numpy()]
        # Wrapped around as often as needed: a group may be smaller than one global batch.
        parts.append(np.resize(members, plan.group_iterations(int(group)) * plan.global_batch))
    chunks = np.concatenate(parts).reshape(-1, plan.images_per_process)
    chunks = chunks[torch.randperm(len(chunks), generator=generator).numpy()]
    # The zoo gave process r the r-th contiguous block of chunks: iteration t holds the t-th of every block.
    blocks = chunks.reshape(plan.chunks_per_iteration, -1, plan.images_per_process)
    return np.ascontiguousarray(blocks.swapaxes(0, 1))


def _appear(chances: NDArray[np.float64], generator: torch.Generator) -> NDArray[np.int64]:
    """Places of those that appear, each as likely as its chance.

    Systematic sampling: one random offset for all, in random order, so that their number differs by at most
    one from epoch to epoch.
    """
    uncertain = np.flatnonzero(chances < 1)
    uncertain = uncertain[torch.randperm(len(uncertain), generator=generator).numpy()]
    offset = torch.rand(1, generator=generator, dtype=torch.float64).item()
    marks = np.floor(np.concatenate(([0.0], np.cumsum(chances[uncertain]))) + offset)
    return np.sort(np.concatenate((np.flatnonzero(chances >= 1), uncertain[np.diff(marks) > 0])))


class ChunkSampler(Sampler[list[SampleKey]]):
    """This rank's images, in order, from one global iteration up to another, across epochs.

    Chunk c of a global batch belongs to rank c modulo the world size. The rank's share of an iteration is the
    same however many of its images it takes at a time: by default a chunk, else `images_per_pass`, those of
    one aspect next to each other, so that few of them are padded to the shape of others.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        rank: int,
        world_size: int,
        images_per_pass: int | None = None,
        start_iteration: int = 0,
        end_iteration: int,
    ) -> None:
        if plan.chunks_per_iteration % world_size:
            raise InvalidInput(
                f"global_batch: got {plan.global_batch}, must be a multiple of images_per_process "
                f"({plan.images_per_process}) times the number of processes ({world_size})"
            )
        self._plan = plan
        self._rank = rank
        self._world_size = world_size
        self._images_per_pass = images_per_pass or plan.images_per_process
        share = plan.global_batch // world_size
        if share % self._images_per_pass:
            raise InvalidInput(
                f"images_per_pass: got {self._images_per_pass}, must divide the {share} images of a process"
            )
        self._iterations = range(start_iteration, end_iteration)

    @property
    def accumulation_steps(self) -> int:
        """Passes of this rank in each iteration."""
        return self._plan.global_batch // self._world_size // self._images_per_pass

    def __len__(self) -> int:
        return len(self._iterations) * self.accumulation_steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch_of = lru_cache(maxsize=1)(lambda epoch: epoch_batches(self._plan, epoch=epoch))
        for iteration in self._iterations:
            epoch, step = divmod(iteration, self._plan.iterations_per_epoch)
            chunks = epoch_of(epoch)[step, self._rank :: self._world_size]
            for images in self._passes(chunks).tolist():
                yield [SampleKey(epoch, position) for position in images]

    def _passes(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(passes, images) of this rank's (chunks, images) of an iteration."""
        if self._images_per_pass == self._plan.images_per_process:
            return chunks
        share = chunks.reshape(-1)
        by_aspect = share[np.argsort(self._plan.aspect_groups[share], kind="stable")]
        return by_aspect.reshape(-1, self._images_per_pass)
