"""Everything that a resumed run needs to continue as if nothing had happened, in one state dict.

There is no generator state: all randomness is counted from (seed, iteration, chunk), see `chunk_seed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn


@dataclass(kw_only=True)
class History:
    """What was measured so far, for curves and the row: plain numbers, so that restarts lose none of them."""

    training: list[dict[str, Any]] = field(default_factory=list)
    """A point every few iterations: ``{"iteration": 50, "lr": 0.02, "losses": {"loss_rpn_cls": 0.3}}``."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """A point an evaluation: ``{"iteration": 300, "metrics": {"boxAP": 21.5, ...}}``."""
    timed_iterations: int = 0
    """Iterations in `timed_seconds`; the first ones of every process are left out."""
    timed_seconds: float = 0.0
    """Wall time of these iterations, data wait included, evaluation and checkpoints excluded."""

    starts: list[dict[str, Any]] = field(default_factory=list)
    """Each time that rank 0 began, and where its time went, see `training.reporting.note_start`."""
    spent: list[dict[str, float]] = field(default_factory=list)
    """What had been spent at each evaluation, see `training.reporting.spent`."""
    peak_bytes: int = 0
    """The most memory that training has held, by `telemetry.memory.peak_bytes`; 0 if nothing was noted."""

    pretrained: dict[str, Any] = field(default_factory=dict)
    """Which tensors the first weights took from a file, as `weights.start.Origins.record`; empty without."""

    def note_evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Add what an evaluation gave."""
        self.evaluations.append({"iteration": iteration, "metrics": dict(metrics)})

    def was_evaluated(self, iteration: int) -> bool:
        """Whether the weights after `iteration` steps have been evaluated."""
        return any(point["iteration"] == iteration for point in self.evaluations)


@dataclass(kw_only=True)
class TrainState:
    """The model, its optimiser and how far they are."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    global_batch: int
    """Images per iteration of this run."""
    iteration: int = 0
    """Optimiser steps done."""
    history: History = field(default_factory=History)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads without running any code."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "global_batch": self.global_batch,
            "history": vars(self.history).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. With another global batch, after the same number of images.

        Momenta come from `state`; what the recipe says of the optimiser and of the precision stays.
        """
        self.model.load_state_dict(state["model"])
        [group] = self.optimizer.param_groups
        settings = {name: value for name, value in group.items() if name != "params"}
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0].update(settings)
        if state["scaler"]:  # empty where the run that saved it had another precision than fp16
            self.scaler.load_state_dict(state["scaler"])
        self.iteration = state["iteration"] * state["global_batch"] // self.global_batch
        known = {field.name for field in fields(History)}
        # A newer version may have noted more.
        self.history = History(**{name: state["history"][name] for name in known & state["history"].keys()})


def chunk_seed(seed: int, *, iteration: int, chunk: int) -> int:
    """The seed of all random choices that the model makes for one chunk of one global batch.

    It depends on the chunk and not on the rank that works on it, so that a run is the same at any world size.
    """
    digest = hashlib.blake2b(f"{seed}/{iteration}/{chunk}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
