"""How golden numbers are compared: samples of large tensors, relative errors, matched boxes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]


def sample(tensor: Tensor, count: int) -> Array:
    """`count` elements at equal distances in the order of memory."""
    flat = tensor.detach().flatten().double()
    steps = 2 * torch.arange(count) + 1
    return np.asarray(flat[steps * flat.numel() // (2 * count)])


def samples(tensors: Iterable[Tensor], count: int) -> Array:
    """A row of `count` elements of each tensor."""
    return np.stack([sample(tensor, count) for tensor in tensors])


def statistics(tensor: Tensor) -> Array:
    """Mean, standard deviation of the population, largest magnitude."""
    values = tensor.detach().double()
    return np.array([values.mean(), values.std(unbiased=False), values.abs().max()])


class Differences(list[str]):
    """What is not as it should be, one line each, so that a failure tells all of it at once."""

    def equal(self, what: str, found: object, expected: object) -> None:
        """Note a value that is not the expected one."""
        if found != expected:
            self.append(f"{what}: got {found}, want {expected}")

    def close(
        self, what: str, found: ArrayLike, expected: ArrayLike, *, within: float, floor: float = 1e-6
    ) -> None:
        """Note an error above `within` of the largest expected magnitude, which is at least `floor`."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        if found.shape != expected.shape:
            self.append(f"{what}: got shape {found.shape}, want {expected.shape}")
            return
        error = np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), floor)
        if not error <= within:
            self.append(f"{what}: relative error {error:.3g}, want at most {within:.1g}")

    def matched(
        self,
        what: str,
        found: tuple[Array, Array],
        expected: tuple[Array, Array],
        *,
        box: float,
        score: float,
        share: float,
    ) -> None:
        """Note that less than `share` of the expected boxes (k, 5 with the score) and labels (k) was found.

        A box counts once, when its corners are within `box` pixels and its score is within `score`.
        """
        boxes, labels = found
        left = np.ones(len(boxes), bool)
        hits = 0
        for wanted, label in zip(*expected, strict=True):
            distance = np.abs(boxes[:, :4] - wanted[:4]).max(axis=1)
            near = left & (labels == label) & (distance <= box) & (np.abs(boxes[:, 4] - wanted[4]) <= score)
            if near.any():
                left[np.where(near, distance, np.inf).argmin()] = False
                hits += 1
        if hits < int(share * len(expected[0])):
            self.append(f"{what}: {hits} of {len(expected[0])} boxes found, want {share:.0%}")
