"""Ranks that compile their detectors exchange gradients, as real processes."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainer_builders
from kubedet_trainer import dist
from kubedet_trainer.training import compiling
from rank_processes import run_ranks

STEPS = 2
CPU = torch.device("cpu")


def train_on(rank: int, port: int, folder: Path) -> None:
    """Train with and without compilation, each rank on images of its own; note the losses and the weights."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)  # ranks write theirs to the log of the run
    dist.initialise(CPU)
    compiling.BACKEND = "aot_eager"
    found = {name: _train(rank, compiled=name == "compiled") for name in ("plain", "compiled")}
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.shut_down()


def _train(rank: int, *, compiled: bool) -> dict[str, object]:
    detector = trainer_builders.make_detector("ssd").train()
    recipe = replace(trainer_builders.SMALL["ssd"], compile=compiled)
    compilation = compiling.compile_detector(detector, recipe, images=2, device=CPU)
    assert (compilation is not None and compilation.obstacle is None) == compiled
    model = dist.wrap(detector)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for chunk in range(2):  # two passes, of which the second one exchanges the gradients
            images = trainer_builders.make_images("ssd", seed=10 * rank + chunk)
            objects = trainer_builders.TWO_OBJECTS
            targets = trainer_builders.make_targets([objects, objects[:1]], size=images.pixels.shape[2:])
            with dist.accumulating(model, last=chunk == 1):
                terms = model(images, targets, torch.Generator().manual_seed(step))
                torch.autograd.backward(torch.stack(list(terms.values())).sum())
            losses += [value.item() for value in terms.values()]
        optimizer.step()
    return {"losses": losses, "weights": detector.state_dict()}


def test_ranks_that_compile_learn_what_ranks_learn_that_do_not(tmp_path: Path) -> None:
    run_ranks(train_on, tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    for own in (first, second):
        assert own["compiled"]["losses"] == pytest.approx(own["plain"]["losses"], rel=1e-4)
        assert own["compiled"]["weights"].keys() == own["plain"]["weights"].keys()
    assert first["compiled"]["losses"] != second["compiled"]["losses"]
    for name, weight in first["compiled"]["weights"].items():
        assert torch.equal(weight, second["compiled"]["weights"][name]), name
