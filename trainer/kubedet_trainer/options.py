"""Options that several of the trainer's commands share, and what becomes of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import TrainerError, UsageError
from kubedet_trainer.settings import DatasetSettings

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_DATASET = DatasetSettings(uri="")


def ends_with_contract_code(command: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Turn an understood error into its line and its exit code, without a traceback."""

    @functools.wraps(command)
    def guarded(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        try:
            return command(*arguments, **options)
        except TrainerError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)

    return guarded


def dataset_options(command: _Command) -> _Command:
    """The options that say where a data set lies, as in `spec.dataset`."""
    options = [
        click.option(
            "--dataset",
            required=True,
            metavar="URI",
            help="Folder or s3://bucket/prefix of the data set, or synthetic://shapes?images=N.",
        ),
        click.option("--train-images", default=_DATASET.train_images, show_default=True, metavar="PATH"),
        click.option(
            "--train-annotations", default=_DATASET.train_annotations, show_default=True, metavar="PATH"
        ),
        click.option("--val-images", default=_DATASET.val_images, show_default=True, metavar="PATH"),
        click.option(
            "--val-annotations", default=_DATASET.val_annotations, show_default=True, metavar="PATH"
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def inference_options(command: _Command) -> _Command:
    """The options of commands that use a detector and train none."""
    options = [
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where to compute; auto takes a GPU where there is one.",
        ),
        click.option(
            "--work-directory",
            type=click.Path(path_type=Path),
            default=Path("runs", "inference"),
            show_default=True,
            help="Scratch: downloads and caches.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def dataset_variables(options: Mapping[str, Any]) -> dict[str, str]:
    """The contract's variables for what `dataset_options` were given."""
    return {
        Environment.DATASET_URI: as_uri(options["dataset"]),
        Environment.TRAIN_IMAGES: options["train_images"],
        Environment.TRAIN_ANNOTATIONS: options["train_annotations"],
        Environment.VAL_IMAGES: options["val_images"],
        Environment.VAL_ANNOTATIONS: options["val_annotations"],
    }


def parse_override(text: str) -> tuple[str, str]:
    """Field and value of ``FIELD=VALUE``.

    Raises:
        UsageError: it is not of that form.
    """
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UsageError(f"override: got '{text}', must be FIELD=VALUE, as in optimizer.lr=0.01")
    return field, value


def as_uri(location: str | Path) -> str:
    """A URI as it is, a path as ``file://``."""
    return str(location) if "://" in str(location) else Path(location).resolve().as_uri()
