"""The recipes of this version: what is wrong with the one that a job names, before the job has any pod.

Only this module imports the trainer's recipes, which need no torch. It knows those of its own version: it
leaves a job with another image, and a recipe in a module of the user's own, to the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from kubedet_operator.api import types
from kubedet_operator.decision import facts
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import recipes
from kubedet_trainer.contract.catalogue import has_published_weights
from kubedet_trainer.recipes.estimate import describe_known
from kubedet_trainer.recipes.fields import RecipeField, list_fields

__all__ = [
    "RecipeField",
    "WrongRecipe",
    "estimate",
    "find_fault",
    "is_of_this_version",
    "is_own",
    "list_fields",
    "locate",
    "parse_spec",
]


class WrongRecipe(ValueError):
    """A job's recipe or an override breaks a rule: path, value, rule and remedy."""


def parse_spec(manifest: Mapping[str, Any], settings: OperatorSettings) -> facts.Parsed:
    """`facts.parse_spec`, with what is wrong with the recipe where this version can tell."""
    parsed = facts.parse_spec(manifest, own_account=settings.service_account)
    job, violations, training, _ = parsed
    if job is None or not is_of_this_version(job.spec, settings):
        return parsed
    return facts.Parsed(job, violations, training, find_fault(job.spec))


def find_fault(spec: types.DetectionJobSpec) -> str | None:
    """Path, value, rule and remedy of what is wrong with recipe, overrides or absent weights, if anything.

    A recipe of the user's own is not looked at.
    """
    if is_own(spec):
        return None
    fault = _find_fault(spec.recipe, tuple(spec.overrides.items()))
    if fault is not None:
        return locate(fault)
    if spec.task == "Measure" and not spec.pretrained and not has_published_weights(spec.recipe):
        rule = f"must be set to measure {spec.recipe}: the zoo published no weights for it"
        return f"spec.pretrained: absent, {rule}"
    return None


@lru_cache(maxsize=256)
def _find_fault(name: str, overrides: tuple[tuple[str, str], ...]) -> str | None:
    """Takes two milliseconds, and the jobs of a fleet have few different recipes."""
    return recipes.find_fault(name, dict(overrides))


def estimate(spec: types.DetectionJobSpec) -> str | None:
    """What the training of a job needs and takes, in one line; None on CPUs, or where nothing is known.

    A recipe of the user's own is not looked at, nor one that this version refuses.
    """
    worker = spec.worker
    if not worker.gpus or is_own(spec) or find_fault(spec) is not None:
        return None
    ranks = worker.replicas * (worker.procsPerReplica or worker.gpus)
    return describe_known(spec.recipe, spec.overrides, gpus=ranks)


def is_own(spec: types.DetectionJobSpec) -> bool:
    """Whether the recipe is in a module of the user's own."""
    return ":" in spec.recipe


def locate(fault: str) -> str:
    """What the trainer says about a recipe, with the path in the job."""
    return f"spec.{fault}" if fault.startswith("recipe:") else f"spec.overrides.{fault}"


def is_of_this_version(spec: types.DetectionJobSpec, settings: OperatorSettings) -> bool:
    """Whether the tag of the job's image is the version of this program."""
    name, _, _ = (spec.worker.image or settings.trainer_image).partition("@")
    return name.rpartition("/")[2].partition(":")[2] == _version()


@cache
def _version() -> str:
    return version("kubedet")
