"""A file of weights, read as tensors alone and never run as code, and a whole detector filled from one."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import published_files
from kubedet_trainer.recipes.published import PUBLISHED
from kubedet_trainer.recipes.published_classes import CLASSES
from kubedet_trainer.weights import names

COUNTER = "num_batches_tracked"
"""Files of before 2018 have none, and normalisation with fixed statistics never reads it."""
_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The content of a file of weights."""

    tensors: dict[str, Tensor]
    """Names as in the file to values, on the CPU."""
    meta: Mapping[str, Any]
    """What the file says about them: the zoo's have version, time and configuration of their training."""
    classes: tuple[str, ...] | None
    """Names of the labels 1, 2, ... by `meta`, or because the zoo published the file; None if unknown."""

    def named_for(self, model: Collection[str]) -> dict[str, Tensor]:
        """The tensors under the names of early 2019. Names in `model`, those of a state dict, are kept."""
        return names.early_names(self.tensors, meta=self.meta, known=model)


def load_weights(model: nn.Module, *, weights: Weights, file: str) -> None:
    """Fill `model` with the weights of exactly such a detector, named `file` in errors.

    Counters of batches may be missing or left over.

    Raises:
        InvalidInput: the file has other tensors than the model; nothing is loaded then.
    """
    wanted = model.state_dict()
    found = weights.named_for(wanted)
    require_fit(
        found,
        wanted,
        optional={name for name in wanted if name.endswith(COUNTER)},
        file=file,
        remedy="check that the recipe and the number of classes are those that it was trained with",
    )
    model.load_state_dict({name: value for name, value in found.items() if name in wanted}, strict=False)


def read_weights(file: Path, *, called: str | None = None) -> Weights:
    """The tensors in `file`, of any time and wrapping: bare, ``{"state_dict": ...}`` or ``{"model": ...}``.

    Args:
        file: a copy of what the user named.
        called: what the user named, for errors; None for `file` itself.

    Raises:
        InvalidInput: the file holds more than tensors and plain values, so maybe code, or no state dict.
    """
    called = called or str(file)
    try:
        document: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f": it would run {found[1]}" if found else ""
        raise InvalidInput(
            f"pretrained: {called} is not a PyTorch file of tensors alone{reason}; nothing in it was run, "
            "and it is not loaded"
        ) from error
    meta: Any = document.get("meta") if isinstance(document, Mapping) else None
    for key in ("model", "state_dict"):
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if not isinstance(document, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in document.items()
    ):
        raise InvalidInput(f"pretrained: {called} must contain a state dict (names to tensors)")
    meta = meta if isinstance(meta, Mapping) else {}
    if names.is_second_version(document, meta=meta):
        _log.warning(
            "%s is from MMDetection 2, trained for different anchors and pooling, and loses some AP", file
        )
    return Weights(tensors=dict(document), meta=meta, classes=_classes(file.name, meta=meta))


def _classes(file_name: str, *, meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What the labels are called; the zoo's own files are known by name, whatever they say."""
    if recipe := published_files.recipe_of(file_name):
        return CLASSES[PUBLISHED[recipe].dataset]
    found = meta.get("CLASSES")
    if isinstance(found, str):  # a tuple of one name without its comma
        return (found,)
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return None


def require_fit(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    optional: Collection[str],
    file: str,
    remedy: str,
    fitting: Collection[str] = (),
) -> None:
    """Refuse a file's tensors unless they match the model's; the message lists all differences.

    Args:
        found: the tensors of the file.
        wanted: those of the model.
        optional: names that may be missing.
        file: its name.
        remedy: the end of the message.
        fitting: names whose shape may differ.

    Raises:
        InvalidInput: they do not match.
    """
    missing = [name for name in wanted if name not in found and name not in optional]
    unexpected = [name for name in found if name not in wanted and not name.endswith(COUNTER)]
    misshapen = [
        f"{name} is {tuple(value.shape)}, must be {tuple(wanted[name].shape)}"
        for name, value in found.items()
        if name in wanted and name not in fitting and value.shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    report = "; ".join(f"{len(items)} {kind} ({some(items)})" for kind, items in kinds.items() if items)
    if report:
        raise InvalidInput(f"pretrained: {file} does not fit the model: {report}; {remedy}")


def some(items: Iterable[str]) -> str:
    """The first of `items`, and how many more there are."""
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
