"""Limits of a dataclass field, kept in the field itself: stated once, next to its type and default."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar, overload

_Value = TypeVar("_Value")
KEY = "bounds"
"""Of a dataclass field's metadata."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a number, or of each number of a tuple; None where there is none."""

    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    exclusive_maximum: float | None = None
    min_items: int = 0
    """Of a tuple of any length."""

    def allows(self, value: float) -> bool:
        """Whether `value` keeps to all limits."""
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.exclusive_minimum is None or value > self.exclusive_minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.exclusive_maximum is None or value < self.exclusive_maximum)
        )

    def __str__(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"from {self.minimum} to {self.maximum}"
        limits = {
            ">=": self.minimum,
            ">": self.exclusive_minimum,
            "<=": self.maximum,
            "<": self.exclusive_maximum,
        }
        return " and ".join(f"{sign} {limit}" for sign, limit in limits.items() if limit is not None)


_NO_BOUNDS = Bounds()


@overload
def bounded(*, default: _Value, **limits: float) -> _Value: ...


@overload
def bounded(**limits: float) -> Any: ...


def bounded(*, default: Any = MISSING, **limits: Any) -> Any:
    """A dataclass field with the limits that `Bounds` names; without a default it has to be given."""
    return dataclasses.field(default=default, metadata={KEY: Bounds(**limits)})


def bounds_of(field: dataclasses.Field[Any]) -> Bounds:
    """The limits of a dataclass field."""
    bounds: Bounds = field.metadata.get(KEY, _NO_BOUNDS)
    return bounds
