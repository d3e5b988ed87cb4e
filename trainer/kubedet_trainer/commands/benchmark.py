"""Measuring a recipe on this machine, from the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import weights_options, weights_uri
from kubedet_trainer.contract import Environment
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.recipes.published import PUBLISHED

_TRAINING_IMAGES = 256
_NUM_CLASSES = {"coco": 80, "voc": 20}


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@partial(options.dataset_options, required=False)
@options.proposals_option
@weights_options
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
def benchmark(recipe: str, overrides: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Measure seconds per training step, memory and frames per second of RECIPE, as the zoo did.

    The real training loop runs for some steps, without evaluation and checkpoints. Memory is counted as in
    the recipe's published row: the most that the allocator of any GPU reserved or allocated; on CPU the
    resident memory of a process. Frames per second are for batch size 1 (and 8, if the row has it). They
    include loading, post-processing and pasting masks. Without --weights the weights are random and find
    little to process.

    Without --dataset the data is generated shapes, as large as photographs, with as many classes as the data
    set of the published row.

    \b
    Examples:
      kubedet benchmark faster_rcnn_r50_fpn_1x --gpus 8
      kubedet benchmark smoke_faster_rcnn --iterations 40 --images 50
    """
    from rich.console import Console

    from kubedet_trainer.commands import terminal

    directory = (given["work_directory"] or Path("runs", recipe, "benchmark")).resolve()
    results = _measure(_run_environment(recipe, overrides, directory, given), directory=directory)
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
    from rich.console import Console

    from kubedet_trainer.commands import terminal
    from kubedet_trainer.worker import launch
    from kubedet_trainer.worker.programs import Options

    configure_logging(level=logging.WARNING)
    log = directory / contract.LOGS_DIRECTORY / "run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a") as output, terminal.ProgressBar(Console(stderr=True)) as bar:
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


def _run_environment(
    recipe: str, overrides: tuple[str, ...], directory: Path, given: Mapping[str, Any]
) -> dict[str, str]:
    """The contract's variables for a run of one worker that only measures."""
    weights = given["weights"]
    changes = dict(map(options.parse_override, overrides))
    dataset = given["dataset"] or _shapes(recipe, num_images=given["images"])
    variables: dict[str, object] = {
        Environment.JOB_NAME: recipe,
        Environment.RECIPE: recipe,
        Environment.OVERRIDES: json.dumps(changes if weights else {"pretrained": "none", **changes}),
        **options.dataset_variables({**given, "dataset": dataset}),
        Environment.CHECKPOINT_URI: options.as_uri(_checkpoints(directory)),
        Environment.CHECKPOINT_RESUME: "Never",
        Environment.PRETRAINED_URI: weights_uri(weights, recipe=recipe) if weights else "",
        Environment.WEIGHTS_MIRROR: given["weights_mirror"] or "",
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


def _shapes(recipe: str, *, num_images: int) -> str:
    """Generated images of a usual photograph's size, with the classes of the published row."""
    row = PUBLISHED.get(recipe)
    classes = "" if row is None else f"&classes={_NUM_CLASSES[row.dataset]}"
    return f"synthetic://shapes?images={_TRAINING_IMAGES}&val_images={num_images}&size=640x480{classes}"
