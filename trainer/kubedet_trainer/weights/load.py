"""A file of weights into a model: a whole detector or its backbone, strictly, never run as code."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.weights import names

_BACKBONE = "backbone."
_COUNTER = "num_batches_tracked"
"""Files of before 2018 have none, and normalisation with fixed statistics never reads it."""
_NO_PART_OF_A_BACKBONE = re.compile(r"^(fc|classifier)\.|(^|\.)conv\d\.bias$")
"""What a classifier's file has besides: its last layers, and biases that caffe folded into the norms."""
_FRESH_IN_A_BACKBONE = re.compile(r"conv2_offset\.|\.extra\.|\.l2_norm\.|\.features\.(31|33)\.")
"""What no classifier has: offsets of deformable convolutions, and what stands behind VGG in SSD."""
_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The content of a file of weights."""

    tensors: dict[str, Tensor]
    """Names as of early 2019 to values, on the CPU."""
    meta: Mapping[str, Any]
    """What the file says about them: the zoo's have version, time and configuration of their training."""


def load_weights(model: nn.Module, *, file: Path) -> None:
    """Load a whole detector's weights into `model`, or a classifier's into its backbone.

    Every tensor of what is loaded must be in the file with its shape, and nothing else may be, but for
    counters of batches and, with a backbone, what classifiers and detectors do not share.

    Raises:
        InvalidInput: the file holds other things than tensors, or other tensors than these; nothing is
            loaded then.
    """
    found = read_weights(file).tensors
    wanted = model.state_dict()
    is_backbone = not found.keys() & wanted.keys()
    optional = {name for name in wanted if name.endswith(_COUNTER)}
    if is_backbone:
        ignored = {name for name in found if _NO_PART_OF_A_BACKBONE.search(name)}
        found = {f"{_BACKBONE}{name}": value for name, value in found.items() if name not in ignored}
        wanted = {name: value for name, value in wanted.items() if name.startswith(_BACKBONE)}
        optional |= {name for name in wanted if _FRESH_IN_A_BACKBONE.search(name)}
    _require_fit(found, wanted, optional=optional, file=file)
    model.load_state_dict({name: value for name, value in found.items() if name in wanted}, strict=False)
    fresh = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    _log.info(
        "loaded %d tensors of %s from %s%s",
        len(found),
        "a backbone" if is_backbone else "a model",
        file,
        f"; freshly initialised: {_some(fresh)}" if fresh else "",
    )


def read_weights(file: Path) -> Weights:
    """The tensors in `file`, of any time and wrapping: bare, ``{"state_dict": ...}`` or ``{"model": ...}``.

    Raises:
        InvalidInput: the file holds more than tensors and plain values, so maybe code, or no state dict.
    """
    try:
        document: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f": it would run {found[1]}" if found else ""
        raise InvalidInput(
            f"pretrained: {file} is not a PyTorch file of tensors alone{reason}; nothing in it was run, and "
            "it is not loaded"
        ) from error
    meta: Any = document.get("meta") if isinstance(document, Mapping) else None
    for key in ("model", "state_dict"):
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if not isinstance(document, Mapping) or not all(isinstance(value, Tensor) for value in document.values()):
        raise InvalidInput(f"pretrained: {file} must contain a state dict (names to tensors)")
    meta = meta if isinstance(meta, Mapping) else {}
    if names.is_second_version(document, meta=meta):
        _log.warning(
            "%s is from MMDetection 2, trained for different anchors and pooling, and loses some AP", file
        )
    return Weights(tensors=names.early_names(document, meta=meta), meta=meta)


def _require_fit(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, optional: set[str], file: Path
) -> None:
    """Refuse the file's tensors unless they match the model's; the message lists all differences."""
    missing = [name for name in wanted if name not in found and name not in optional]
    unexpected = [name for name in found if name not in wanted and not name.endswith(_COUNTER)]
    misshapen = [
        f"{name} is {tuple(value.shape)}, must be {tuple(wanted[name].shape)}"
        for name, value in found.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    report = "; ".join(f"{len(items)} {kind} ({_some(items)})" for kind, items in kinds.items() if items)
    if report:
        raise InvalidInput(
            f"pretrained: {file.name} does not fit the model: {report}; check that the recipe and the number "
            "of classes are those that it was trained with"
        )


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
