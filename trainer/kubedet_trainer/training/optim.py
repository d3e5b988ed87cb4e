"""How weights move: the zoo's SGD, its learning-rate schedule, and clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kubedet_trainer.config import OptimizerConfig, ScheduleConfig


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
