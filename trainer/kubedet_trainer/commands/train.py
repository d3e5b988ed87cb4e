"""Training on this machine, from the command line."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import mirror_option, source_uri
from kubedet_trainer.contract import Environment
from kubedet_trainer.logs import configure_logging, stderr_console


@click.command(epilog="Set the credentials of object stores in KUBEDET_DATASET_* and KUBEDET_CHECKPOINT_*.")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@options.dataset_options
@options.proposals_option
@click.option(
    "--task",
    type=click.Choice([contract.Task.TRAIN.value, contract.Task.MEASURE.value]),
    default=contract.Task.TRAIN.value,
    show_default=True,
    help="Measure trains nothing. Its row is that of the weights of --pretrained, or of the published ones.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Training steps of --task Measure, for their speed and memory. The first 50 are not timed.",
)
@click.option(
    "--checkpoint",
    metavar="URI",
    help="Folder or URI for checkpoints and the report.  [default: runs/RECIPE/checkpoints, or "
    "runs/RECIPE/measured]",
)
@click.option(
    "--resume",
    default="Auto",
    show_default=True,
    help="Auto (the newest checkpoint), Never, or the URI of one checkpoint.",
)
@click.option(
    "--pretrained",
    metavar="URI",
    help="Weights to start from, of any classes: a file, a checkpoint, a folder or URI with checkpoints, or "
    "a recipe whose published weights to download.  [default: the recipe's]",
)
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    help="Evaluations in a row without a better one after which to stop.  [default: never]",
)
@click.option(
    "--report",
    type=click.Choice([choice.value for choice in contract.ReportedCheckpoint]),
    default=contract.ReportedCheckpoint.LAST.value,
    show_default=True,
    help="Checkpoint whose figures are the row.",
)
@mirror_option
@options.process_options
@options.run_directory_option("work")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port for /metrics and /progress. 0 uses any free port.",
)
@options.ends_with_contract_code
def train(recipe: str, overrides: tuple[str, ...], **given: Any) -> None:
    """Train RECIPE on this machine, or measure weights of it, and print its row.

    Ctrl-C saves the state and ends with 143. The same command continues from there.

    \b
    Examples:
      kubedet train smoke_faster_rcnn --dataset "synthetic://shapes?images=200"
      kubedet train faster_rcnn_r50_fpn_1x optimizer.lr=0.01 --dataset /data/coco --gpus 8
      kubedet train faster_rcnn_r50_fpn_1x --task Measure --dataset /data/coco --gpus 8
    """
    folder = options.run_folder(recipe)
    work_directory = (given["work_directory"] or folder / "work").resolve()
    environment = {**os.environ, **_run_environment(recipe, overrides, work_directory, given)}

    from rich.console import Console

    from kubedet_trainer.commands import terminal
    from kubedet_trainer.worker import launch
    from kubedet_trainer.worker.programs import Options

    configure_logging()
    if sys.stderr.isatty():
        log = work_directory / contract.LOGS_DIRECTORY / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        logging.info("the ranks write to %s", log)
        with log.open("a") as output, terminal.ProgressBar(stderr_console()) as bar:
            code = launch.run(environment, options=Options(output=output, observe=bar.update))
    else:
        code = launch.run(environment)
    if code == 0:
        results = json.loads((work_directory / contract.RESULTS_FILE).read_text())
        console = Console()
        published = results.get("reference")
        rows = [(recipe, results), *([("published", published)] if published else [])]
        console.print(terminal.zoo_table(rows))
        for line in (_describe_origin(results), results.get("endedEarly")):
            if line:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        for name, uri in (("model", results.get("modelUri")), ("report", results.get("reportUri"))):
            if uri:
                console.print(f"{name}: {uri}", soft_wrap=True)
    sys.exit(code)


def _describe_origin(results: Mapping[str, Any]) -> str:
    """Which weights the row is that of; empty where none were evaluated."""
    if results.get("task") == contract.Task.MEASURE:
        return "measured, not trained"
    if "checkpoint" not in results:
        return ""
    return f"{results['checkpoint']} checkpoint, after epoch {results['epoch']}"


def _run_environment(
    recipe: str, overrides: tuple[str, ...], work_directory: Path, given: Mapping[str, Any]
) -> dict[str, str]:
    """The contract's variables for a run of one worker on this machine."""
    folder = options.run_folder(recipe)
    places = {contract.Task.TRAIN: "checkpoints", contract.Task.MEASURE: "measured"}
    checkpoint = given["checkpoint"] or folder / places[contract.Task(given["task"])]
    variables: dict[str, object] = {
        Environment.JOB_NAME: folder.name,
        Environment.TASK: given["task"],
        Environment.RECIPE: recipe,
        Environment.OVERRIDES: json.dumps(dict(map(options.parse_override, overrides))),
        **options.dataset_variables(given),
        Environment.CHECKPOINT_URI: options.as_uri(checkpoint),
        Environment.CHECKPOINT_RESUME: given["resume"],
        Environment.PRETRAINED_URI: source_uri(given["pretrained"]) if given["pretrained"] else "",
        Environment.BENCHMARK_ITERATIONS: given["iterations"],
        Environment.EVALUATION_STOP_AFTER: given["stop_after"] or "",
        Environment.EVALUATION_REPORT: given["report"],
        Environment.WEIGHTS_MIRROR: given["weights_mirror"] or "",
        Environment.PROCS_PER_REPLICA: given["procs"] or given["gpus"] or 1,
        Environment.GPUS: given["gpus"],
        Environment.METRICS_PORT: given["metrics_port"],
        Environment.WORK_DIRECTORY: work_directory,
    }
    return {name: str(value) for name, value in variables.items()}
