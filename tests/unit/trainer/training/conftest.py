"""A run of a tiny detector on generated shapes, ready for its first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from kubedet_trainer import config, recipes
from kubedet_trainer.config import Recipe
from kubedet_trainer.dist import World
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.training import reporting, setup
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.signals import StopRequest

TINY = {
    "data.scale": "96,64",
    "data.images_per_process": "2",
    "data.num_workers": "0",
    "global_batch": "4",
    "model.backbone.stem_channels": "8",
    "model.neck.channels": "16",
    "model.rpn_head.nms_pre": "16",
    "model.rpn_head.nms_post": "16",
    "model.rpn_head.num_proposals": "16",
    "model.box_head.fc_channels": "16",
    "model.box_head.num_samples": "8",
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(*, name: str = "checkpoints", resume: str = "Auto", **overrides: str) -> Run:
        recipe = config.apply_overrides(recipes.read_recipe("smoke_faster_rcnn"), {**TINY, **overrides})
        settings = RunSettings(
            recipe=recipe.name,
            dataset=DatasetSettings(uri="synthetic://shapes?images=8&val_images=2&size=96x64"),
            checkpoint=CheckpointSettings(uri=(tmp_path / name).as_uri(), resume=resume),
            work_directory=tmp_path / "work",
        )
        return _prepare(settings, recipe)

    return make


def _prepare(settings: RunSettings, recipe: Recipe) -> Run:
    run = setup.prepare(
        settings,
        recipe,
        world=World(device=torch.device("cpu")),
        stop=StopRequest(),
        metrics=Metrics(CollectorRegistry()),
    )
    reporting.note_start(run)
    return run
