"""The one way a config refuses a value: path, value, rule, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from kubedet_trainer.errors import InvalidInput


def require(holds: bool, *, path: str, got: object, rule: str) -> None:
    """Refuse the value `got` of the field `path` unless `holds`.

    Raises:
        InvalidInput: ``path: got got, rule``.
    """
    if not holds:
        raise InvalidInput(f"{path}: got {got!r}, {rule}")


def require_positive(path: str, **values: float) -> None:
    """Refuse every value that is not > 0; the keyword is the field's name below `path`."""
    for name, value in values.items():
        require(value > 0, path=f"{path}.{name}", got=value, rule="must be > 0")


def require_fraction(path: str, **values: float) -> None:
    """Refuse every value outside [0, 1]; the keyword is the field's name below `path`."""
    for name, value in values.items():
        require(0 <= value <= 1, path=f"{path}.{name}", got=value, rule="must be from 0 to 1")


def require_choice(path: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of `choices`."""
    require(value in choices, path=path, got=value, rule=f"must be one of {', '.join(choices)}")
