"""Measuring a recipe on this machine, from the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from kubedet_trainer import config, contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import mirror_option, source_uri, store_credentials
from kubedet_trainer.contract import Environment
from kubedet_trainer.logs import configure_logging, stderr_console
from kubedet_trainer.recipes import is_recipe, published_files, read_recipe
from kubedet_trainer.recipes.published_classes import CLASSES

_TRAINING_IMAGES = 256
_PUBLISHED = "published"
"""Stands for the weights that the zoo published for the recipe."""


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is measured: a recipe, its changes, and the weights it starts from."""

    recipe: str
    changes: dict[str, str]
    weights: str | None
    """None leaves them random."""
    num_classes: int | None
    """None where nothing says how many."""


@click.command()
@click.argument("subject", metavar="RECIPE|DETECTOR")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@partial(options.dataset_options, required=False)
@options.proposals_option
@click.option(
    "--weights",
    metavar="URI",
    help="Weights of RECIPE: whatever can be a DETECTOR, or 'published' for the zoo's.",
)
@mirror_option
@options.process_options
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Number of training steps. The first 50 are not timed; of fewer than 100 the first half.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Number of validation images to time.",
)
@options.run_directory_option("benchmark")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@options.ends_with_contract_code
def benchmark(subject: str, overrides: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Measure seconds per training step, memory and frames per second of a recipe, as the zoo did.

    A DETECTOR is a file of weights that names its recipe, a checkpoint, or a folder or URI with checkpoints.

    The real training loop runs for some steps, without evaluation and checkpoints. Memory is counted as in
    the recipe's published row: the most that the allocator of any GPU reserved or allocated; on CPU the
    resident memory of a process. Frames per second are for batch size 1 (and 8, if the row has it). They
    include loading, post-processing and pasting masks. Of a RECIPE without --weights the weights are random
    and find little to process.

    Without --dataset the data is generated shapes, as large as photographs, with as many classes as the
    detector or the data set of the published row has.

    \b
    Examples:
      kubedet benchmark faster_rcnn_r50_fpn_1x --gpus 8
      kubedet benchmark smoke_faster_rcnn --iterations 40 --images 50
      kubedet benchmark runs/smoke_faster_rcnn --iterations 40 --images 50
    """
    from rich.console import Console

    from kubedet_trainer.commands import terminal

    changes = dict(map(options.parse_override, overrides))
    recipe, directory = _find_subject(subject, changes, given)
    results = _measure(_run_environment(recipe, directory, given), directory=directory)
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    console = Console()
    hardware = results["hardware"]
    console.print(terminal.comparison_table(results, results.get("reference", {}), heading="here"))
    console.print(
        f"here: {hardware['worldSize']} x {hardware['accelerator']}, {hardware['globalBatch']} images per "
        f"step in {hardware['accumulationSteps']} passes, the mean of {hardware['timedIterations']} steps, "
        f"{hardware['memoryKind']}",
        soft_wrap=True,
        highlight=False,
    )


def _measure(environment: Mapping[str, str], *, directory: Path) -> dict[str, Any]:
    """The results of the run that `environment` describes. Ends the command if it fails."""
    from kubedet_trainer.commands import terminal
    from kubedet_trainer.worker import launch
    from kubedet_trainer.worker.programs import Options

    configure_logging(level=logging.WARNING)
    log = directory / contract.LOGS_DIRECTORY / "run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a") as output, terminal.ProgressBar(stderr_console()) as bar:
            code = launch.run(
                {**os.environ, **environment}, options=Options(output=output, observe=bar.update)
            )
    finally:
        shutil.rmtree(_checkpoints(directory), ignore_errors=True)
    if code != 0:
        click.echo(f"the log of the ranks is {log}", err=True)
        sys.exit(code)
    results: dict[str, Any] = json.loads((directory / contract.RESULTS_FILE).read_text())
    for gone in ("modelUri", "reportUri", "metrics"):
        results.pop(gone, None)
    return results


def _find_subject(
    given_subject: str, changes: dict[str, str], given: Mapping[str, Any]
) -> tuple[_Subject, Path]:
    """What the command names, and the folder to work in.

    Raises:
        TrainerError: a detector's weights cannot be had, or do not name their recipe.
    """

    def folder(recipe: str) -> Path:
        return (given["work_directory"] or options.run_folder(recipe) / "benchmark").resolve()

    if is_recipe(given_subject):
        weights = given["weights"]
        if weights is not None:
            weights = (
                published_files.published_uri(given_subject)
                if weights == _PUBLISHED
                else options.as_uri(weights)
            )
        row = read_recipe(given_subject).published
        subject = _Subject(
            recipe=given_subject,
            changes=changes if weights else {"pretrained": "none", **changes},
            weights=weights,
            num_classes=None if row is None else len(CLASSES[row.dataset]),
        )
        return subject, folder(given_subject)

    from kubedet_trainer.inference import trained
    from kubedet_trainer.training.source import read_source

    uri = source_uri(given_subject)
    source = read_source(
        uri,
        cache=folder("inference") / contract.CACHE_DIRECTORY,
        mirror=given["weights_mirror"],
        credentials=store_credentials(uri),
    )
    recipe = trained.read_recipe_of(source, given=None)
    subject = _Subject(
        recipe=recipe.name,
        changes=config.recipe_changes(read_recipe(recipe.name), config.recipe_to_dict(recipe)) | changes,
        weights=uri,
        num_classes=None if source.weights.classes is None else len(source.weights.classes),
    )
    return subject, folder(recipe.name)


def _run_environment(subject: _Subject, directory: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """The contract's variables for a run of one worker that only measures."""
    dataset = given["dataset"] or _shapes(subject.num_classes, num_images=given["images"])
    variables: dict[str, object] = {
        Environment.JOB_NAME: options.run_folder(subject.recipe).name,
        Environment.RECIPE: subject.recipe,
        Environment.OVERRIDES: json.dumps(subject.changes),
        **options.dataset_variables({**given, "dataset": dataset}),
        Environment.CHECKPOINT_URI: options.as_uri(_checkpoints(directory)),
        Environment.CHECKPOINT_RESUME: "Never",
        Environment.PRETRAINED_URI: subject.weights or "",
        Environment.WEIGHTS_MIRROR: given["weights_mirror"] or "",
        Environment.TASK: contract.Task.BENCHMARK,
        Environment.BENCHMARK_ITERATIONS: given["iterations"],
        Environment.BENCHMARK_IMAGES: given["images"],
        Environment.PROCS_PER_REPLICA: given["procs"] or given["gpus"] or 1,
        Environment.GPUS: given["gpus"],
        Environment.METRICS_PORT: 0,
        Environment.WORK_DIRECTORY: directory,
    }
    return {name: str(value) for name, value in variables.items()}


def _checkpoints(directory: Path) -> Path:
    """Where a run writes its results; it makes no checkpoint."""
    return directory / "checkpoints"


def _shapes(num_classes: int | None, *, num_images: int) -> str:
    """Generated images of a usual photograph's size, with so many classes."""
    classes = "" if num_classes is None else f"&classes={num_classes}"
    return f"synthetic://shapes?images={_TRAINING_IMAGES}&val_images={num_images}&size=640x480{classes}"
