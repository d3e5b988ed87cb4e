"""The trained detector that a command uses: its argument, the options about it, and their translation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import RECIPES, published_files
from kubedet_trainer.recipes.published_classes import CLASSES
from kubedet_trainer.settings import StoreCredentials, read_checkpoint_settings

if TYPE_CHECKING:
    from kubedet_trainer.inference.trained import TrainedDetector
    from kubedet_trainer.storage.store import Store

_Command = TypeVar("_Command", bound=Callable[..., Any])

PUBLISHED = "published"
"""Stands for the URI of the weights that the zoo published for the recipe."""

mirror_option = click.option(
    "--weights-mirror",
    metavar="URL",
    envvar=Environment.WEIGHTS_MIRROR.value,
    help="Address of a mirror of the published weights, instead of their publishers.",
)
"""The option for commands that start from the recipe's own weights."""


def detector_options(command: _Command) -> _Command:
    """The argument of commands that use a trained detector, and what its weights may not say themselves."""
    parts = [
        click.argument("source", metavar="DETECTOR"),
        click.option("--recipe", metavar="RECIPE", help="Recipe of the weights, if they do not name it."),
        click.option(
            "--classes",
            metavar="NAMES",
            help="Classes of the weights in their order, if they do not name them: coco, voc, or names "
            "separated by commas.",
        ),
        mirror_option,
        options.inference_options,
    ]
    for part in reversed(parts):
        command = part(command)
    return command


def load_detector(given: Mapping[str, Any]) -> TrainedDetector:
    """The detector that the options of `detector_options` ask for.

    Raises:
        TrainerError: it cannot be had, or its recipe or classes are unknown.
    """
    from kubedet_trainer.inference import trained

    uri = source_uri(given["source"])
    return trained.load_detector(
        uri,
        recipe_name=given["recipe"],
        classes=parse_classes(given["classes"]),
        mirror=given["weights_mirror"],
        credentials=store_credentials(uri),
        cache=given["work_directory"] / contract.CACHE_DIRECTORY,
        device=trained.choose_device(given["device"]),
    )


def source_uri(given: str) -> str:
    """The URI of a detector: of the zoo's weights for a recipe's name, else what `given` says.

    Raises:
        InvalidInput: the zoo published no weights for that recipe.
    """
    is_recipe = given in RECIPES and not Path(given).exists()
    return published_files.published_uri(given) if is_recipe else options.as_uri(given)


def store_credentials(uri: str) -> StoreCredentials:
    """What ``KUBEDET_CHECKPOINT_*`` says about the store at `uri`.

    Raises:
        UsageError: a variable is malformed.
    """
    return read_checkpoint_settings({**os.environ, Environment.CHECKPOINT_URI: uri}).credentials


def open_place(uri: str) -> Store:
    """The store at `uri`, with the credentials of `store_credentials`."""
    from kubedet_trainer.storage.uris import open_store

    return open_store(uri, store_credentials(uri))


def shown(uri: str) -> str:
    """A URI as a terminal shows it: that of a file as its path."""
    return unquote(urlsplit(uri).path) if uri.startswith("file:") else uri


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """The classes of a known data set, or those whose names ``--classes`` lists; None without any.

    Raises:
        InvalidInput: a name is listed twice.
    """
    if text is None:
        return None
    if known := CLASSES.get(text.lower()):
        return known
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"classes: got '{name}' twice, must be different names")
    return names or None
