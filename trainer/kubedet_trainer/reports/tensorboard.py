"""The curves of a report as TensorBoard reads them, which W&B and MLflow import, too.

Needs tensorboardX, which the extra ``tensorboard`` installs and the trainer image has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kubedet_trainer.contract.times import parse_time
from kubedet_trainer.evaluation.scores import VALIDATION_LOSS

EVENTS_FILE = "tensorboard/events.out.tfevents.kubedet"
"""Next to the checkpoints. The folder is TensorBoard's ``--logdir``."""


def is_installed() -> bool:
    """Whether the writer is there."""
    return find_spec("tensorboardX") is not None


def build_events(document: Mapping[str, Any]) -> bytes:
    """The whole file: every point of the curves, at the time at which the report was written.

    It is built anew from the history each time, so a run that was restarted has no point twice.
    """
    from tensorboardX import SummaryWriter

    wall_time = parse_time(document["run"]["updateTime"]).timestamp()
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder, flush_secs=600) as writer:
            for tag, iteration, value in _scalars(document):
                writer.add_scalar(tag, value, iteration, walltime=wall_time)
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _scalars(document: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    for point in document.get("training", ()):
        iteration, losses = point["iteration"], point["losses"]
        yield "train/learning_rate", iteration, point["lr"]
        yield "train/loss", iteration, sum(losses.values())
        for name, value in losses.items():
            yield f"train/{name}", iteration, value
    for point in document.get("evaluations", ()):
        for name, value in point["metrics"].items():
            yield "validation/" + ("loss" if name == VALIDATION_LOSS else name), point["iteration"], value
