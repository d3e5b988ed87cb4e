"""The trainer's part of the command `kubedet`. What needs torch is imported by the command that needs it."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from kubedet_trainer import contract
from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import TrainerError, UsageError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import DatasetSettings, read_dataset_settings

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_DATASET = DatasetSettings(uri="")


def _ends_with_contract_code(command: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Turn an understood error into its line and its exit code, without a traceback."""

    @functools.wraps(command)
    def guarded(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        try:
            return command(*arguments, **options)
        except TrainerError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)

    return guarded


def _dataset_options(command: _Command) -> _Command:
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


@click.command(
    epilog="Credentials of an object store are read from KUBEDET_DATASET_* and KUBEDET_CHECKPOINT_*."
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@_dataset_options
@click.option("--checkpoint", metavar="URI", help="Where state is kept.  [default: runs/RECIPE/checkpoints]")
@click.option(
    "--resume", default="Auto", show_default=True, help="Auto, Never, or the URI of one checkpoint."
)
@click.option("--pretrained", metavar="URI", help="Weights to start from.  [default: the recipe's]")
@click.option("--procs", type=click.IntRange(min=1), help="Processes.  [default: one a GPU, else 1]")
@click.option(
    "--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs; 0 trains on the CPU."
)
@click.option(
    "--work-directory", type=click.Path(path_type=Path), help="Scratch.  [default: runs/RECIPE/work]"
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port for /metrics and /progress; 0 takes any free one.",
)
@_ends_with_contract_code
def train(recipe: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Train RECIPE on this machine and print its row of the zoo.

    Ctrl-C saves the state and ends with 143; the same command continues from there.

    \b
    Examples:
      kubedet train smoke_faster_rcnn --dataset "synthetic://shapes?images=200"
      kubedet train faster_rcnn_r50_fpn_1x optimizer.lr=0.01 --dataset /data/coco --gpus 8
    """
    work_directory = (options["work_directory"] or Path("runs", recipe, "work")).resolve()
    environment = {**os.environ, **_run_environment(recipe, overrides, work_directory, options)}

    from rich.console import Console

    from kubedet_trainer import launch, terminal

    configure_logging()
    if sys.stderr.isatty():
        log = work_directory / contract.LOGS_DIRECTORY / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        logging.info("the ranks write to %s", log)
        with log.open("a") as output, terminal.ProgressBar(Console(stderr=True)) as bar:
            code = launch.run(environment, options=launch.Options(output=output, observe=bar.update))
    else:
        code = launch.run(environment)
    if code == 0:
        results = json.loads((work_directory / contract.RESULTS_FILE).read_text())
        console = Console()
        published = results.get("reference")
        rows = [(recipe, results), *([("published", published)] if published else [])]
        console.print(terminal.zoo_table(rows))
        for name in ("modelUri", "reportUri"):
            if results.get(name):
                console.print(f"{name}: {results[name]}", soft_wrap=True)
    sys.exit(code)


def _run_environment(
    recipe: str, overrides: tuple[str, ...], work_directory: Path, options: Mapping[str, Any]
) -> dict[str, str]:
    """The contract's variables for a run of one worker on this machine."""
    checkpoint = options["checkpoint"] or Path("runs", recipe, "checkpoints")
    variables: dict[str, object] = {
        Environment.JOB_NAME: recipe,
        Environment.RECIPE: recipe,
        Environment.OVERRIDES: json.dumps(dict(map(_parse_override, overrides))),
        **_dataset_variables(options),
        Environment.CHECKPOINT_URI: _as_uri(checkpoint),
        Environment.CHECKPOINT_RESUME: options["resume"],
        Environment.PRETRAINED_URI: _as_uri(options["pretrained"]) if options["pretrained"] else "",
        Environment.PROCS_PER_REPLICA: options["procs"] or options["gpus"] or 1,
        Environment.GPUS: options["gpus"],
        Environment.METRICS_PORT: options["metrics_port"],
        Environment.WORK_DIRECTORY: work_directory,
    }
    return {name: str(value) for name, value in variables.items()}


def _dataset_variables(options: Mapping[str, Any]) -> dict[str, str]:
    """The contract's variables for what `_dataset_options` were given."""
    return {
        Environment.DATASET_URI: _as_uri(options["dataset"]),
        Environment.TRAIN_IMAGES: options["train_images"],
        Environment.TRAIN_ANNOTATIONS: options["train_annotations"],
        Environment.VAL_IMAGES: options["val_images"],
        Environment.VAL_ANNOTATIONS: options["val_annotations"],
    }


def _parse_override(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UsageError(f"override: got '{text}', must be FIELD=VALUE, as in optimizer.lr=0.01")
    return field, value


def _as_uri(location: str | Path) -> str:
    """A URI as it is, a path as ``file://``."""
    return str(location) if "://" in str(location) else Path(location).resolve().as_uri()


@click.command("check-data")
@_dataset_options
@click.option(
    "--work-directory",
    type=click.Path(path_type=Path),
    default=Path("runs", "check-data"),
    show_default=True,
    help="Where an s3:// data set is downloaded to.",
)
@_ends_with_contract_code
def check_data(work_directory: Path, **options: str) -> None:
    """List everything that is wrong with a data set, file by file; ends with 65 where there is anything.

    Every annotation is held against the rules, and every image is decoded whole.

    \b
    Example:
      kubedet check-data --dataset /data/coco
    """
    from kubedet_trainer.data import coco, prepare

    settings = read_dataset_settings({**os.environ, **_dataset_variables(options)})
    root = prepare.prepare_dataset(settings, work_directory / contract.DATASET_DIRECTORY)
    splits = {
        settings.train_annotations: settings.train_images,
        settings.val_annotations: settings.val_images,
    }
    found = 0
    for file, images in splits.items():
        problems = coco.check_dataset(root, images, file)
        found += len(problems)
        for problem in problems:
            click.echo(str(problem))
        click.echo(f"{file}: {len(problems)} problems", err=True)
    sys.exit(contract.ExitCode.INVALID_INPUT if found else contract.ExitCode.DONE)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table or YAML.")
@_ends_with_contract_code
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes with their published figures, or print the recipe NAME completely.

    \b
    Examples:
      kubedet recipes
      kubedet recipes faster_rcnn_r50_fpn_1x
    """
    import yaml

    from kubedet_trainer import config
    from kubedet_trainer.recipes import RECIPES, read_recipe

    if name is not None:
        document = config.recipe_to_dict(read_recipe(name))
        click.echo(
            json.dumps(document, indent=2) if as_json else yaml.safe_dump(document, sort_keys=False),
            nl=as_json,
        )
    elif as_json:
        click.echo(json.dumps([config.recipe_to_dict(make()) for make in RECIPES.values()], indent=2))
    else:
        from rich.console import Console

        from kubedet_trainer import terminal

        Console().print(terminal.zoo_table([(recipe, make().reference) for recipe, make in RECIPES.items()]))
