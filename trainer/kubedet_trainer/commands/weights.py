"""Options for weights that several commands share, and their translation into URIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kubedet_trainer.commands import options
from kubedet_trainer.contract import Environment
from kubedet_trainer.recipes import published_files

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


def weights_options(command: _Command) -> _Command:
    """The options of commands that take a recipe with weights instead of a checkpoint."""
    return click.option(
        "--weights",
        metavar="URI",
        help="Weights of RECIPE (a file, s3:// or https://), or 'published' for the zoo's.",
    )(mirror_option(command))


def weights_uri(given: str, *, recipe: str) -> str:
    """The URI that the option ``--weights`` names.

    Raises:
        InvalidInput: the zoo published no weights for `recipe`.
    """
    return published_files.published_uri(recipe) if given == PUBLISHED else options.as_uri(given)
