"""What a detector is built for: the classes of its data set, and the pixels of its backbone."""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.contract.bounds import bounded


@dataclass(frozen=True, kw_only=True)
class NormalisationOptions:
    """How pixels are normalised: ``(x - mean) / std`` for each channel (`docs/zoo.md`, 1.1)."""

    mean: tuple[float, float, float]
    """In the channel order that the network sees."""
    std: tuple[float, float, float] = bounded(exclusive_minimum=0)
    """In the channel order that the network sees."""
    to_rgb: bool
    """Whether the network sees RGB; False leaves OpenCV's BGR."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a detector must know that its own options do not say."""

    num_classes: int
    """With the background, which is class 0."""
    normalisation: NormalisationOptions | None = None
    """Fits the pretrained backbone. Without it, images must come normalised."""
