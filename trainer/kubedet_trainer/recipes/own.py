"""Recipes of the user's own, such as ``my_package.recipes:my_faster_rcnn``, from any module of theirs.

Python looks for the module among the installed packages, in the folders of ``PYTHONPATH`` and in the current
folder. Every process of a run imports it, the first one to check the recipe before any work. The module need
not import torch, because detectors are built later.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from dataclasses import replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import OWN_RECIPE
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput, MissingInput

WHAT_COUNTS = "a Recipe, or a function that is annotated to return one and needs no arguments"
"""What `list_own` takes for a recipe."""


def is_own(name: str) -> bool:
    """Whether `name` has the form ``module:attribute``."""
    return re.fullmatch(OWN_RECIPE, name) is not None


def short_name(name: str) -> str:
    """What files and folders are called after: the name of a recipe, or its attribute in a module."""
    return name.rpartition(":")[2]


def read_own(name: str) -> Recipe:
    """The recipe ``module:attribute``, one of those that `list_own` finds.

    Raises:
        MissingInput: there is no such module here.
        InvalidInput: the module fails, or has no such recipe, or the recipe breaks a rule.
    """
    module_name, _, attribute = name.partition(":")
    module = import_module(module_name)
    known = list_own(module)
    if attribute not in known:  # a checkpoint names its recipe, so nothing else of a module may be called
        near = did_you_mean(attribute, known) or f" It has {', '.join(known) or 'none'}."
        raise InvalidInput(f"recipe: got '{name}', must be {WHAT_COUNTS}.{near}")
    found = getattr(module, attribute)
    try:
        recipe: Recipe = found if isinstance(found, Recipe) else found()
    except InvalidInput as error:
        raise InvalidInput(f"recipe: {name} breaks a rule: {error}") from error
    except Exception as error:
        raise InvalidInput(f"recipe: {name} fails: {_describe(error)}") from error
    return replace(recipe, name=name)


def has_module(name: str) -> bool:
    """Whether there is a module called `name` here."""
    _look_in_current_folder()
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def import_module(name: str) -> ModuleType:
    """The module called `name`.

    Raises:
        MissingInput: there is none here.
        InvalidInput: it fails when imported.
    """
    _look_in_current_folder()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InvalidInput(f"recipe: the module {name} fails: {_describe(error)}") from error
        raise MissingInput(
            f"recipe: there is no module '{error.name}' here, must be an installed package or in a folder of "
            "PYTHONPATH"
        ) from error
    except Exception as error:
        raise InvalidInput(f"recipe: the module {name} fails: {_describe(error)}") from error


def _look_in_current_folder() -> None:
    """As `python -m` does; a console script has only the folder of its own file on the path."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def list_own(module: ModuleType) -> list[str]:
    """The names of all recipes that a module or its package defines, as `WHAT_COUNTS` says."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (isinstance(value, Recipe) or _makes_recipe(value, module))
    ]


def _makes_recipe(value: Any, module: ModuleType) -> bool:
    if not isinstance(value, FunctionType | partial):
        return False
    package = module.__name__.partition(".")[0]
    if isinstance(value, FunctionType) and value.__module__.partition(".")[0] != package:
        return False  # imported from elsewhere
    try:
        signature = inspect.signature(value, eval_str=True)
    except NameError:  # an annotation that only type checkers can read
        return False
    needed = [item for item in signature.parameters.values() if item.default is inspect.Parameter.empty]
    return signature.return_annotation is Recipe and not needed


def _describe(error: BaseException) -> str:
    """What went wrong, and the line that it happened in."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
