"""The loss of the validation split, so that it can be seen whether a detector overfits.

It takes a forward pass over at most `IMAGES` images, a small part of what an evaluation costs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kubedet_trainer import dist
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.structures import Batch

IMAGES = 100
"""Of a split, spread evenly, that the loss is the mean of."""


@torch.inference_mode()
def validation_loss(
    detector: Detector, batches: Iterable[Batch], *, device: torch.device, seed: int
) -> float | None:
    """The mean sum of losses over the batches of all ranks, one image each; every rank must call this.

    Anchors and regions are sampled as in training, by numbers that depend on the image alone, so that the
    losses of two evaluations differ only by the weights.

    Args:
        detector: left in the mode it was in.
        batches: this rank's share, with targets.
        device: where the detector is.
        seed: of the sampling.

    Returns:
        None where there is no batch at all, and on every rank but 0.
    """
    generator = torch.Generator(device=device)
    losses: list[float] = []
    was_training = detector.training
    detector.eval()
    try:
        for batch in batches:
            generator.manual_seed(seed + int(batch.image_ids[0]))
            batch = batch.to(device)
            terms = detector(batch.images, batch.targets, generator)
            losses.append(sum(float(value) for name, value in terms.items() if "loss" in name))
    finally:
        detector.train(was_training)
    gathered = [loss for share in dist.gather(losses) for loss in share]
    return sum(gathered) / len(gathered) if gathered else None
