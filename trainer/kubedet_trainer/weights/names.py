"""What other times called the same tensors: names and class order of MMDetection to those of early 2019.

Ours are the names of the zoo's first files. Later ones renamed parts; version 2 moved the background from the
first class to the last and dropped its unused boxes and masks (`docs/zoo.md`, 11). What version 2 trained was
also measured with other anchors and another pooling, so that its detectors lose some tenths of AP here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

_RENAMES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"^roi_head\."), ""),
    (re.compile(r"\.conv2\.conv_offset\."), ".conv2_offset."),
    (re.compile(r"^(bbox_head\.(?:cls|reg)_convs\.\d+)\.(?:conv|0)\."), r"\1."),
    (re.compile(r"^neck\.l2_norm\."), "backbone.l2_norm."),
    (
        re.compile(r"^neck\.extra_layers\.(\d+)\.(\d)\.conv\."),
        lambda match: f"backbone.extra.{2 * int(match[1]) + int(match[2])}.",
    ),
)


def early_names(
    tensors: Mapping[str, Tensor], *, meta: Mapping[str, Any], known: Collection[str] = ()
) -> dict[str, Tensor]:
    """`tensors` under the names, and with the class order, of early 2019; what is unknown stays as it is.

    Args:
        tensors: a state dict.
        meta: what its file says about it.
        known: names that stay as they are, whatever other times used them for.
    """
    renamed = {name if name in known else _rename(name): value for name, value in tensors.items()}
    if not is_second_version(tensors, meta=meta):
        return renamed
    return {name: _background_first(name, value, renamed) for name, value in renamed.items()}


def is_second_version(tensors: Mapping[str, Tensor], *, meta: Mapping[str, Any]) -> bool:
    """Whether MMDetection 2 wrote a file: by its `meta`, or by what only that version calls a tensor."""
    return str(meta.get("mmdet_version", "")).startswith("2.") or any(
        name.removeprefix("module.").startswith("roi_head.") for name in tensors
    )


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _background_first(name: str, value: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor called `name` with the background as class 0, its unused slots filled with zeros."""
    layer, _, kind = name.rpartition(".")
    layer = re.sub(
        r"\.\d+(\.|$)", r"\1", layer
    )  # a cascade counts its heads, a single shot detector its maps
    if layer == "bbox_head.fc_cls":
        return value.roll(1, dims=0)
    if layer == "bbox_head.fc_reg" and len(value) > 4:  # four are of all classes together
        return torch.cat([value.new_zeros(4, *value.shape[1:]), value])
    if layer == "mask_head.conv_logits":
        return torch.cat([value.new_zeros(1, *value.shape[1:]), value])
    boxes = tensors.get(re.sub(r"\.cls_convs\.", ".reg_convs.", name)) if kind in ("weight", "bias") else None
    if layer == "bbox_head.cls_convs" and boxes is not None and "bbox_head.retina_cls.weight" not in tensors:
        num_anchors = len(boxes) // 4
        return value.view(num_anchors, -1, *value.shape[1:]).roll(1, dims=1).view(value.shape)
    return value
