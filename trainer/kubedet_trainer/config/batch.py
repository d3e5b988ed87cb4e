"""How the images of one optimiser step are shared by the ranks, and taken one after another by each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kubedet_trainer.contract import BatchPolicy
from kubedet_trainer.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How one optimiser step is shared by the ranks."""

    global_batch: int
    """Images of a step over all ranks."""
    images_per_pass: int
    """Images of one forward and backward pass of a rank."""
    accumulation_steps: int
    """Forward and backward passes of each rank in a step."""
    lr_scale: float
    """1 where the recipe's global batch is kept, else the linear rule of Goyal et al., 2017."""

    def filling(self, most: int) -> BatchPlan:
        """The same step with as many images a pass as divide a rank's share, but at most `most`."""
        share = self.images_per_pass * self.accumulation_steps
        images = max(count for count in range(1, max(1, min(most, share)) + 1) if share % count == 0)
        return replace(self, images_per_pass=images, accumulation_steps=share // images)


def plan_batch(
    *,
    global_batch: int,
    images_per_process: int,
    world_size: int,
    policy: BatchPolicy = BatchPolicy.KEEP_GLOBAL,
) -> BatchPlan:
    """Keep the global batch at this world size if its chunks divide, else take the nearest that does.

    By the other policy every process takes one chunk a step, and nothing is accumulated.

    Raises:
        InvalidInput: `images_per_process` does not divide `global_batch`.
    """
    if global_batch % images_per_process:
        raise InvalidInput(
            f"global_batch: got {global_batch}, must be a multiple of data.images_per_process = "
            f"{images_per_process}"
        )
    chunks = global_batch // images_per_process
    is_kept = policy is BatchPolicy.KEEP_GLOBAL
    steps = max(1, round(chunks / world_size)) if is_kept else 1
    actual = steps * world_size * images_per_process
    return BatchPlan(
        global_batch=actual,
        images_per_pass=images_per_process,
        accumulation_steps=steps,
        lr_scale=actual / global_batch,
    )
