"""Which parameters of a detector depend on its classes, and how their rows belong to them.

Each head that has such parameters declares them, so that a detector can start from one of other classes. The
order of the rows is that of the zoo's tensors (`docs/zoo.md`, 5.2, 5.5, 7 and 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ClassRows:
    """How the rows (the first dimension) of a layer's weight and bias belong to the classes.

    They are ordered by group, then by class, then by row of that class.
    """

    num_groups: int = 1
    """How often the classes are repeated: once for each anchor of a cell in dense heads."""
    rows_per_class: int = 1
    """Rows of one class in a group: four for the regression of boxes."""
    has_background: bool = True
    """Whether the first class of a group is the background."""

    def by_class(self, value: Tensor) -> Tensor:
        """(rows, ...) `value` as a view (num_groups, classes, rows_per_class, ...)."""
        return value.view(self.num_groups, -1, self.rows_per_class, *value.shape[1:])

    def num_classes(self, value: Tensor) -> int | None:
        """How many classes, the background apart, `value` has rows for; None if it cannot have such rows."""
        if value.ndim == 0 or len(value) % (self.num_groups * self.rows_per_class):
            return None
        number = len(value) // (self.num_groups * self.rows_per_class) - self.has_background
        return number if number > 0 else None


class ClassHead(nn.Module):
    """A head with layers that have rows for each class."""

    def class_rows(self) -> Mapping[str, ClassRows]:
        """Name of each such layer, relative to the head, to how its rows belong to the classes."""
        raise NotImplementedError

    def shared_rows(self) -> Mapping[str, int]:
        """Name of each layer that all classes may share, to the rows that it has then; none by default."""
        return {}


def class_rows(model: nn.Module) -> dict[str, ClassRows]:
    """Name of each parameter of `model` that depends on the classes to how its rows belong to them."""
    return {
        f"{prefix}.{layer}.{kind}": rows
        for prefix, head in model.named_modules()
        if isinstance(head, ClassHead)
        for layer, rows in head.class_rows().items()
        for kind, _ in head.get_submodule(layer).named_parameters()
    }


def of_other_form(model: nn.Module, found: Mapping[str, Tensor]) -> set[str]:
    """Parameters of layers that all classes share in `found` and not in `model`, or the other way round."""
    own = class_rows(model)
    others: set[str] = set()
    for prefix, head in model.named_modules():
        for layer, rows in head.shared_rows().items() if isinstance(head, ClassHead) else ():
            parameters = {
                f"{prefix}.{layer}.{kind}": value
                for kind, value in head.get_submodule(layer).named_parameters()
            }
            if all(
                name in found
                and found[name].ndim
                and found[name].shape[1:] == value.shape[1:]
                and len(found[name]) % rows == 0
                and (len(found[name]) == rows) == (name in own)
                for name, value in parameters.items()
            ):
                others |= parameters.keys()
    return others
