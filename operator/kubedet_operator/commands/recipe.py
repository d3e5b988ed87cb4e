"""Has the trainer check the recipe of a job before anything runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from kubedet_operator.api.types import DetectionJobSpec
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the trainer of this machine says about a recipe and its overrides."""

    line: str
    """Path, value, rule and remedy; empty if all is well."""
    is_refused: bool
    """False if all is well, or if the recipe is in a module that only the worker has."""


def check_recipe(spec: DetectionJobSpec, *, environment: Mapping[str, str]) -> Verdict:
    """Run the check as a program with this `environment`, as the operator imports no recipe.

    A module of the user's own is looked for on this machine: among the packages, in the folders of PYTHONPATH
    and in the current folder.
    """
    overrides = [f"{field}={value}" for field, value in spec.overrides.items()]
    done = subprocess.run(
        [sys.executable, "-m", contract.RECIPES_MODULE, spec.recipe, *overrides],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    line = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == ExitCode.DONE:
        return Verdict(line="", is_refused=False)
    if done.returncode == ExitCode.MISSING_INPUT:
        return Verdict(line=f"spec.{line}; the worker checks the recipe", is_refused=False)
    about = "spec" if line.startswith(("recipe:", "overrides:")) else "spec.overrides"
    return Verdict(line=f"{about}.{line}", is_refused=True)
