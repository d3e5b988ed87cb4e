"""Checks a recipe and its overrides: ``python -m kubedet_trainer.recipes RECIPE [FIELD=VALUE]...``.

It prints nothing if both are valid. `kubedet render` runs it as a program: the operator imports no recipe.
"""

from __future__ import annotations

import sys

from kubedet_trainer.config import apply_overrides
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.recipes import read_recipe


def main() -> int:
    """Read the recipe of the arguments and change its fields; returns the contract's exit code."""
    name, *overrides = sys.argv[1:]
    try:
        apply_overrides(read_recipe(name), dict(text.split("=", maxsplit=1) for text in overrides))
    except TrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
