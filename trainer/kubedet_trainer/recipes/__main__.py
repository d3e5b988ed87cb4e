"""Checks a recipe and its overrides: ``python -m kubedet_trainer.recipes RECIPE [FIELD=VALUE]...``.

It prints nothing if both are valid. `kubedet render` runs it as a program for recipes of the user's own,
whose module may do anything when it is imported.
"""

from __future__ import annotations

import sys

from kubedet_trainer.contract import ExitCode
from kubedet_trainer.errors import MissingInput
from kubedet_trainer.recipes import find_fault


def main() -> int:
    """Check the recipe and the changes of the arguments; returns the contract's exit code."""
    name, *overrides = sys.argv[1:]
    try:
        fault = find_fault(name, dict(text.split("=", maxsplit=1) for text in overrides))
    except MissingInput as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if fault is None:
        return ExitCode.DONE
    print(fault, file=sys.stderr)
    return ExitCode.INVALID_INPUT


if __name__ == "__main__":
    sys.exit(main())
