"""How fast a detector is in use: images a second, as the zoo measured (`docs/zoo.md`, 10)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from kubedet_trainer.evaluation.evaluate import detect
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.structures import Batch

_WARM_UP_IMAGES = 5


@torch.inference_mode()
def measure_fps(
    model: Detector,
    batches: Iterable[Batch],
    *,
    num_images: int,
    device: torch.device,
) -> float | None:
    """Images a second over the batches that hold the first `num_images`, those for warming up left out.

    Loading, transfer, the network and post-processing up to boxes and pasted masks in host memory are all
    included. None where `num_images` is 0.
    """
    warm_up = min(_WARM_UP_IMAGES, num_images // 2)
    started = time.perf_counter()
    done, untimed = 0, 0
    with _evaluating(model):
        for batch in batches:
            if done >= num_images:
                break
            if untimed == 0 and done >= warm_up:
                started, untimed = time.perf_counter(), done
            detect(model, batch, device=device)
            done += len(batch.image_ids)
    return (done - untimed) / (time.perf_counter() - started) if done > untimed else None


@contextmanager
def _evaluating(model: Detector) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()
