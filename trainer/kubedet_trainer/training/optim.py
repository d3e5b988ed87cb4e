"""How weights move: the zoo's SGD, its learning-rate schedule, clipping, and the batch they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kubedet_trainer.config import OptimizerConfig, ScheduleConfig
from kubedet_trainer.contract import BatchPolicy
from kubedet_trainer.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How one optimiser step is shared by the ranks."""

    global_batch: int
    """Images of a step over all ranks."""
    accumulation_steps: int
    """Forward and backward passes of each rank in a step."""
    lr_scale: float
    """1 where the recipe's global batch is kept, else the linear rule of Goyal et al., 2017."""


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
    return BatchPlan(global_batch=actual, accumulation_steps=steps, lr_scale=actual / global_batch)


def build_optimizer(model: nn.Module, *, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD over all parameters in one group, weight decay on each (`docs/zoo.md`, 9.1).

    Frozen parameters take part without a gradient. The fused kernels also let a gradient scaler skip a step
    without asking the device. They begin from memory that nobody has written if the first step is one of
    those, so the momentum begins as zeros here.
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
    if config.momentum:
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def learning_rate(
    iteration: int, *, base: float, iterations_per_epoch: int, schedule: ScheduleConfig
) -> float:
    """The rate of the step that follows `iteration` finished ones.

    A step schedule: times `decay_factor` at the start of each of `decay_epochs`. During the first
    `warmup_iterations` the rate rises linearly from `warmup_ratio` of that: ``rate * (1 - (1 - t / T) *
    (1 - ratio))`` (`docs/zoo.md`, 9.1).
    """
    epoch = iteration // iterations_per_epoch
    decays = sum(epoch >= start for start in schedule.decay_epochs)
    rate = base * schedule.decay_factor**decays
    if iteration < schedule.warmup_iterations:
        rate *= 1 - (1 - iteration / schedule.warmup_iterations) * (1 - schedule.warmup_ratio)
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float | None) -> Tensor:
    """Scale all gradients so that their common L2 norm is at most `max_norm`; None only measures.

    Returns the norm before, a scalar on the device that nothing waits for. The zoo clipped all gradients
    together (`docs/zoo.md`, 9.1).
    """
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(learning, max_norm, norm, foreach=True)
    return norm
