"""Options that several of the trainer's commands share, and their translation into settings."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import TrainerError, UsageError, native
from kubedet_trainer.recipes import own
from kubedet_trainer.settings import DATASET_DEFAULTS

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_PATHS = {
    "train_images": Environment.TRAIN_IMAGES,
    "train_annotations": Environment.TRAIN_ANNOTATIONS,
    "val_images": Environment.VAL_IMAGES,
    "val_annotations": Environment.VAL_ANNOTATIONS,
    "test_images": Environment.TEST_IMAGES,
    "test_annotations": Environment.TEST_ANNOTATIONS,
}
"""Options whose default depends on the format, and their variables. Each is a field of `DatasetSettings`."""


def ends_with_contract_code(command: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Turn a `TrainerError`, or what CUDA says, into its message and its exit code, without a traceback."""

    @functools.wraps(command)
    def guarded(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        try:
            return command(*arguments, **options)
        except TrainerError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)
        except RuntimeError as error:
            if (verdict := native.judge(str(error))) is None:
                raise
            click.echo(f"Error: {verdict.explain(str(error))}", err=True)
            sys.exit(verdict.exit_code)

    return guarded


def dataset_options(command: _Command, *, required: bool = True) -> _Command:
    """The options for the location of a data set, as in `spec.dataset`."""
    options = [
        click.option(
            "--dataset",
            required=required,
            metavar="URI",
            help="Data set: a folder, s3://bucket/prefix or synthetic://shapes?images=N.",
        ),
        click.option(
            "--format",
            type=click.Choice(list(DATASET_DEFAULTS)),
            default="COCO",
            show_default=True,
            help="Format of the annotations. COCO takes JSON files and VOC image sets, separated by commas. "
            "YOLO takes a data.yaml.",
        ),
        click.option(
            "--val/--no-val",
            "validate",
            default=True,
            show_default=True,
            help="Whether to evaluate on a validation split. Without one there is no average precision.",
        ),
        *(
            click.option(
                f"--{name.replace('_', '-')}", show_default=_default_paths(name) or False, metavar="PATH"
            )
            for name in _PATHS
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def proposals_option(command: _Command) -> _Command:
    """The option for the proposals that Fast R-CNN needs."""
    return click.option(
        "--proposals",
        metavar="URI",
        help="Proposals for Fast R-CNN: the folder or s3://bucket/prefix that `kubedet propose` wrote.",
    )(command)


def _default_paths(name: str) -> str:
    paths = {form: getattr(defaults, name) for form, defaults in DATASET_DEFAULTS.items()}
    return "; ".join(f"{form}: {path}" for form, path in paths.items() if path)


class _Folder(click.Path):
    """A folder that is there or can be made: neither it nor one that it lies in is a file."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        folder = Path(value)
        nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
        if not nearest.is_dir():
            self.fail(f"got '{value}', must be a folder, but {nearest} is a file", param, ctx)
        return folder


FOLDER = _Folder()
"""What a command writes into."""


class _Share(click.FloatRange):
    """A number from 0 to 1. Every comparison with NaN is false, so click takes it for one."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        share = super().convert(value, param, ctx)
        if math.isnan(share):
            self.fail(f"got {value}, must be from 0 to 1", param, ctx)
        return share


SHARE = _Share()


def work_directory_option(name: str) -> Callable[[_Command], _Command]:
    """The option that says where a command keeps downloads and caches, `name` below ``runs`` by default."""
    return click.option(
        "--work-directory",
        type=FOLDER,
        default=Path("runs", name),
        show_default=True,
        help="Folder for downloads and caches.",
    )


def run_directory_option(name: str) -> Callable[[_Command], _Command]:
    """The option that says where a command that trains RECIPE works, ``runs/RECIPE/`` `name` by default."""
    return click.option(
        "--work-directory",
        type=FOLDER,
        help=f"Folder for temporary files.  [default: runs/RECIPE/{name}]",
    )


def process_options(command: _Command) -> _Command:
    """The options that say how many ranks train, and on what."""
    procs = click.option(
        "--procs", type=click.IntRange(min=1), help="Number of ranks.  [default: one for each GPU, else 1]"
    )
    gpus = click.option(
        "--gpus",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of GPUs. 0 uses the CPU.",
    )
    return procs(gpus(command))


def inference_options(command: _Command) -> _Command:
    """The options of commands that use a trained detector."""
    options = [
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Device to compute on. auto uses a GPU if there is one.",
        ),
        work_directory_option("inference"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def dataset_variables(options: Mapping[str, Any]) -> dict[str, str]:
    """The contract's variables for the values of `dataset_options`."""
    return {
        Environment.DATASET_URI: as_uri(options["dataset"]),
        Environment.DATASET_FORMAT: options["format"],
        Environment.VALIDATE: str(options["validate"]).lower(),
        **{variable: options[name] or "" for name, variable in _PATHS.items()},
        **({Environment.PROPOSALS_URI: as_uri(options["proposals"])} if options.get("proposals") else {}),
    }


def run_folder(recipe: str) -> Path:
    """Where a run of `recipe` is kept unless the user says otherwise."""
    return Path("runs", own.short_name(recipe))


def parse_override(text: str) -> tuple[str, str]:
    """Field and value of ``FIELD=VALUE``.

    Raises:
        UsageError: the text has another form.
    """
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UsageError(f"override: got '{text}', must be FIELD=VALUE, as in optimizer.lr=0.01")
    return field, value


def as_uri(location: str | Path) -> str:
    """A URI unchanged, a path as ``file://``."""
    return str(location) if "://" in str(location) else Path(location).resolve().as_uri()
