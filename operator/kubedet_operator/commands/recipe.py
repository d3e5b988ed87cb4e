"""Checks the recipe of a job for `kubedet render`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from kubedet_operator import recipes
from kubedet_operator.api.types import DetectionJobSpec
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode

_WORKER = "the worker checks the recipe"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known on this machine about a recipe and its overrides."""

    line: str = ""
    """Path, value, rule and remedy; empty if all is well."""
    is_refused: bool = False
    """False if all is well, or if only the worker can tell."""


def check_recipe(
    spec: DetectionJobSpec, settings: OperatorSettings, *, environment: Mapping[str, str]
) -> Verdict:
    """Judge a recipe as the operator does, and a recipe of the user's own if its module is on this machine.

    Such a module is looked for among the packages, in the folders of PYTHONPATH in `environment` and in the
    current folder. It is imported in a process of its own.
    """
    if recipes.is_own(spec):
        return _check_own(spec, environment)
    fault = recipes.find_fault(spec)
    if fault is None:
        return Verdict()
    if recipes.is_of_this_version(spec, settings):
        return Verdict(line=fault, is_refused=True)
    return Verdict(line=f"{fault} spec.worker.image is of another version: {_WORKER}")


def _check_own(spec: DetectionJobSpec, environment: Mapping[str, str]) -> Verdict:
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
        return Verdict()
    if done.returncode == ExitCode.MISSING_INPUT:
        return Verdict(line=f"{recipes.locate(line)}; {_WORKER}")
    return Verdict(line=recipes.locate(line), is_refused=True)
