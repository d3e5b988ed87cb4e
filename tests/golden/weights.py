"""Weights that any implementation can draw: the goldens were made with these (README, "Weights")."""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_NORM = r"(^|\.)(bn\d?|gn\d?|downsample\.1)\."
_Rule = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
_RULES: tuple[tuple[str, _Rule], ...] = (
    (r"running_mean$", lambda noise: 0.05 * noise),
    (r"running_var$", lambda noise: 1 + 0.1 * np.abs(noise)),
    (r"l2_norm\.weight$", lambda noise: 20 + 0.1 * noise),
    (_NORM + "weight$", lambda noise: 1 + 0.05 * noise),
    (_NORM + "bias$", lambda noise: 0.05 * noise),
    (r"retina_cls\.bias$", lambda noise: -4 + 0.01 * noise),
    (r"bias$", lambda noise: 0.01 * noise),
    (r"", lambda noise: noise * np.float32(math.sqrt(1 / math.prod(noise.shape[1:])))),
)
"""What becomes of unit noise, by the first expression that a parameter's name matches."""

_GAINS = (
    (r"\.(bn3|gn3)\.weight$", r"", 0.3),
    (r"\.downsample\.1\.weight$", r"", 1.4),
    (r"^backbone\.(conv1|features\.0)\.weight$", r"gn$|ssd", 1 / 64),
    (r"^backbone\.features\.\d+\.weight$", r"ssd", 1.4),
    (r"^backbone\.extra\.\d+\.weight$", r"ssd", 1.4),
    (r"conv2_offset\.weight$", r"", 2.0),
    (r"^rpn_head\.rpn_cls\.weight$", r"", 1.2),
    (r"^rpn_head\.rpn_reg\.weight$", r"", 0.6),
    (r"^bbox_head(\.\d)?\.fc_cls\.weight$", r"", 3.0),
    (r"^bbox_head(\.\d)?\.fc_reg\.weight$", r"", 0.7),
    (r"^bbox_head\.(cls|reg)_convs\.\d\.weight$", r"retina", 1.4),
    (r"^bbox_head\.retina_cls\.weight$", r"", 0.9),
    (r"^bbox_head\.retina_reg\.weight$", r"", 0.4),
    (r"^mask_head(\.\d)?\.convs\.\d\.conv\.weight$", r"", 1.4),
    (r"^mask_head(\.\d)?\.upsample\.weight$", r"", 2.0),
    (r"^mask_head(\.\d)?\.conv_logits\.weight$", r"", 2.0),
)
"""Factors that keep activations in range. A parameter takes each whose expressions match its name and its
architecture. The 1/64 is for inputs that are not divided by their standard deviation."""


def fill(detector: nn.Module, architecture: str) -> float:
    """Give `detector` the golden weights; returns the sum of their absolute values, integers left out."""
    state = {
        name: torch.from_numpy(_draw(name, tuple(value.shape), _gain(name, architecture)))
        for name, value in detector.state_dict().items()
    }
    detector.load_state_dict(state)
    return sum(float(value.double().abs().sum()) for value in state.values() if value.is_floating_point())


def _gain(name: str, architecture: str) -> float:
    factors = [
        factor
        for parameter, architectures, factor in _GAINS
        if re.search(parameter, name) and re.search(architectures, architecture)
    ]
    return math.prod(factors)


@functools.cache  # architectures share most of their parameters
def _draw(name: str, shape: tuple[int, ...], gain: float) -> NDArray[np.generic]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    noise = random.standard_normal(shape).astype(np.float32)
    rule = next(rule for expression, rule in _RULES if re.search(expression, name))
    return (rule(noise) * np.float32(gain)).astype(np.float32)
