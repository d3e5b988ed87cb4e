"""The start of a training from a file of weights: a backbone, or a detector of these or other classes.

What depends on the classes is taken row by row for the classes that both have by name, and stays as the model
initialised it for the others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kubedet_trainer.models.class_rows import ClassRows, class_rows, of_other_form
from kubedet_trainer.weights.load import COUNTER, Weights, require_fit, some

_BACKBONE = "backbone."
_NO_PART_OF_A_BACKBONE = re.compile(r"^(fc|classifier)\.|(^|\.)conv\d\.bias$")
"""What a classifier's file has besides: its last layers, and biases that caffe folded into the norms."""
_FRESH_IN_A_BACKBONE = re.compile(r"conv2_offset\.|\.extra\.|\.l2_norm\.|\.features\.(31|33)\.")
"""What no classifier has: offsets of deformable convolutions, and what stands behind VGG in SSD."""
_REMEDY = (
    "check that the recipe and its model are those that it was trained with; only the classes may be others"
)

_BACKGROUND = "background"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Which tensors of a model came from a file of weights. Counters of batches are left out."""

    file: str
    loaded: tuple[str, ...]
    """Tensors that the file has for the same classes, or that do not depend on the classes."""
    rows_by_name: tuple[str, ...] = ()
    """Tensors of which only the rows of `kept_classes` are the file's."""
    initialised: tuple[str, ...] = ()
    """Tensors that are as the model initialised them."""
    unused: tuple[str, ...] = ()
    """Tensors of the file that the model has no place for."""
    kept_classes: tuple[str, ...] = ()
    """Classes in `rows_by_name`. The background, which every detector with a row for it knows, is one."""

    def record(self) -> dict[str, Any]:
        """All of it as what JSON can hold: the number and the names of each kind."""
        kinds = {
            "loaded": self.loaded,
            "rowsByName": self.rows_by_name,
            "initialised": self.initialised,
            "unused": self.unused,
            "keptClasses": self.kept_classes,
        }
        return {
            "file": self.file,
            **{kind: {"count": len(found), "names": list(found)} for kind, found in kinds.items()},
        }

    def describe(self) -> str:
        """One line for the log."""
        parts = [f"loaded {len(self.loaded)} tensors of {self.file}"]
        if self.rows_by_name:
            kept = f"{_counted(len(self.kept_classes), 'class', 'classes')} ({some(self.kept_classes)})"
            tensors = f"{_counted(len(self.rows_by_name), 'tensor', 'tensors')} ({some(self.rows_by_name)})"
            parts.append(f"kept the rows of {kept} in {tensors}")
        if self.initialised:
            parts.append(f"freshly initialised {len(self.initialised)} ({some(self.initialised)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file are unused ({some(self.unused)})")
        return "; ".join(parts)


def start_from(model: nn.Module, *, weights: Weights, file: str, classes: Sequence[str]) -> Origins:
    """Fill a fresh `model` with a whole detector's weights, or its backbone with a classifier's.

    Everything that fits is loaded. Where the detector has other classes, or the same in another order, the
    rows of equally named classes move to their place, and the others stay as they were initialised. So does a
    layer that all classes share in one of the two detectors only.

    Args:
        model: freshly initialised.
        weights: whose classes, if unknown, count as the model's if there are as many.
        file: its name in errors and in the record.
        classes: the model's, without the background.

    Raises:
        InvalidInput: the tensors are neither such a detector's nor such a backbone's; nothing is loaded then.
    """
    wanted = model.state_dict()
    found = weights.named_for(wanted)
    if not found.keys() & wanted.keys():
        return _start_backbone(model, found=found, file=file)
    rows = {
        name: kind
        for name, kind in class_rows(model).items()
        if name in found and found[name].shape[1:] == wanted[name].shape[1:]
    }
    renewed = of_other_form(model, found)
    kept_rows = {name: kind for name, kind in rows.items() if name not in renewed}
    if _num_classes(found, kept_rows) is None:
        renewed = set()  # a detector of no classes, or another one: all that differs is told
    else:
        rows, found = kept_rows, {name: value for name, value in found.items() if name not in renewed}
    num_theirs = _num_classes(found, rows)
    require_fit(
        found,
        wanted,
        optional={name for name in wanted if name.endswith(COUNTER)} | renewed,
        file=file,
        remedy=_REMEDY,
        fitting=() if num_theirs is None else rows,
    )
    values = {name: value for name, value in found.items() if name in wanted}
    places = _places(classes, _their_classes(weights, num_theirs, ours=classes, file=file))
    if num_theirs is None or places == list(range(num_theirs)):
        rows = {}
    values |= {name: _mix(wanted[name], found[name], kind=kind, places=places) for name, kind in rows.items()}
    model.load_state_dict(values, strict=False)
    kept = [name for name, place in zip(classes, places, strict=True) if place is not None]
    return _origins(found, wanted, rows=rows, renewed=renewed, kept=kept, file=file)


def _start_backbone(model: nn.Module, *, found: Mapping[str, Tensor], file: str) -> Origins:
    ignored = [name for name in found if _NO_PART_OF_A_BACKBONE.search(name)]
    values = {f"{_BACKBONE}{name}": value for name, value in found.items() if name not in ignored}
    whole = model.state_dict()
    wanted = {name: value for name, value in whole.items() if name.startswith(_BACKBONE)}
    optional = {name for name in wanted if name.endswith(COUNTER) or _FRESH_IN_A_BACKBONE.search(name)}
    require_fit(values, wanted, optional=optional, file=file, remedy=_REMEDY)
    model.load_state_dict({name: value for name, value in values.items() if name in wanted}, strict=False)
    return Origins(
        file=file,
        loaded=_tensors(name for name in values if name in wanted),
        initialised=_tensors(name for name in whole if name not in values),
        unused=_tensors(ignored),
    )


def _num_classes(found: Mapping[str, Tensor], rows: Mapping[str, ClassRows]) -> int | None:
    """The classes, without the background, that all tensors of `rows` agree on; None if they do not."""
    counts = {kind.num_classes(found[name]) for name, kind in rows.items()}
    return counts.pop() if len(counts) == 1 else None


def _their_classes(weights: Weights, number: int | None, *, ours: Sequence[str], file: str) -> Sequence[str]:
    """The names of the `number` classes of a file; none where nobody knows them."""
    if number is None:
        return ()
    if weights.classes is not None and len(weights.classes) == number:
        return weights.classes
    if weights.classes is not None:
        _log.warning(
            "%s names its classes (%d), but has rows for %d: the names are not used",
            file,
            len(weights.classes),
            number,
        )
    if number == len(ours):
        _log.warning(
            "%s does not name its classes (%d): they are taken for those of the data set", file, number
        )
        return ours
    _log.warning("%s does not name its classes (%d): none of them is kept", file, number)
    return ()


def _places(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Where each of our classes stands among theirs. Case matters only if it tells two of theirs apart."""
    exact = {name: place for place, name in enumerate(theirs)}
    alike = {_normalised(name): place for place, name in enumerate(theirs)}
    return [exact.get(name, alike.get(_normalised(name))) for name in ours]


def _normalised(name: str) -> str:
    """As files of 2019 and of later years both have it: ``traffic_light`` is ``traffic light``."""
    return name.casefold().replace("_", " ").strip()


def _mix(fresh: Tensor, theirs: Tensor, *, kind: ClassRows, places: Sequence[int | None]) -> Tensor:
    """`fresh` with the rows of `theirs` for the background, and for our classes that have a place there."""
    mixed = fresh.detach().cpu().clone()
    into, taken = kind.by_class(mixed), kind.by_class(theirs)
    shift = int(kind.has_background)
    into[:, :shift] = taken[:, :shift]
    for ours, place in enumerate(places):
        if place is not None:
            into[:, shift + ours] = taken[:, shift + place]
    return mixed


def _origins(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    rows: Mapping[str, ClassRows],
    renewed: Collection[str],
    kept: Sequence[str],
    file: str,
) -> Origins:
    by_name = [name for name, kind in rows.items() if kept or kind.has_background]
    background = [_BACKGROUND] if any(rows[name].has_background for name in by_name) else []
    return Origins(
        file=file,
        loaded=_tensors(name for name in found if name in wanted and name not in rows),
        rows_by_name=tuple(by_name),
        initialised=_tensors([*(name for name in rows if name not in by_name), *sorted(renewed)]),
        unused=_tensors(name for name in found if name not in wanted),
        kept_classes=(*background, *kept) if by_name else (),
    )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _tensors(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.endswith(COUNTER))
