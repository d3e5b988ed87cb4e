"""Commands that use a trained detector: evaluate it, detect objects in pictures, or write proposals."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import weights_options, weights_uri
from kubedet_trainer.contract import Environment
from kubedet_trainer.errors import UsageError
from kubedet_trainer.recipes import RECIPES
from kubedet_trainer.settings import DatasetSettings, read_checkpoint_settings, read_dataset_settings

if TYPE_CHECKING:
    from kubedet_trainer.inference import trained


@click.command()
@click.argument("source", metavar="CHECKPOINT|RECIPE")
@options.dataset_options
@options.proposals_option
@weights_options
@options.inference_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@options.ends_with_contract_code
def evaluate(
    source: str, weights: str | None, device: str, work_directory: Path, as_json: bool, **given: Any
) -> None:
    """Measure a detector on the validation split of a data set. The figures are COCO's, in percent.

    CHECKPOINT is a checkpoint, or a folder or URI of several, of which the newest is used. With --weights
    name a RECIPE instead.

    \b
    Examples:
      kubedet evaluate runs/smoke_faster_rcnn/checkpoints --dataset "synthetic://shapes?images=200"
      kubedet evaluate faster_rcnn_r50_fpn_1x --weights published --dataset /data/coco
      kubedet evaluate faster_rcnn_r50_fpn_1x --weights own.pth --dataset /data/coco
    """
    from rich.console import Console

    from kubedet_trainer.commands import terminal
    from kubedet_trainer.inference import trained

    dataset = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    detector = _load_detector(source, weights, dataset, work_directory, device, given["weights_mirror"])
    figures = trained.measure(detector, dataset=dataset, directory=work_directory)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        Console().print(terminal.metrics_table(figures))


@click.command()
@click.argument("source", metavar="CHECKPOINT|RECIPE")
@options.dataset_options
@weights_options
@click.option(
    "--output", required=True, metavar="URI", help="Folder or s3://bucket/prefix for train.npz and val.npz."
)
@options.inference_options
@options.ends_with_contract_code
def propose(
    source: str, weights: str | None, output: str, device: str, work_directory: Path, **given: Any
) -> None:
    """Write the proposals of an RPN for both splits of a data set. Fast R-CNN trains on them.

    CHECKPOINT is a checkpoint, or a folder or URI of several, of which the newest is used. With --weights
    name a RECIPE instead.

    \b
    Examples:
      kubedet propose runs/smoke_rpn/checkpoints --dataset "synthetic://shapes?images=200" --output proposals
      kubedet train smoke_fast_rcnn --dataset "synthetic://shapes?images=200" --proposals proposals
    """
    from rich.console import Console

    from kubedet_trainer.commands import terminal
    from kubedet_trainer.inference import propose as proposing

    dataset = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    detector = _load_detector(source, weights, dataset, work_directory, device, given["weights_mirror"])
    with terminal.ImagesBar(Console(stderr=True)) as bar:
        written = proposing.propose_dataset(
            detector,
            dataset=dataset,
            output=options.as_uri(output),
            directory=work_directory,
            observe=bar.update,
        )
    for file in written:
        found = "" if file.recall is None else f", AR@1000 {file.recall:.1f}"
        click.echo(f"{file.uri}: {file.num_proposals} proposals in {file.num_images} images{found}")


@click.command()
@click.argument("checkpoint")
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("predictions"),
    show_default=True,
    help="Folder for the pictures and the COCO file.",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Minimum score of the detections to keep.",
)
@options.inference_options
@options.ends_with_contract_code
def predict(
    checkpoint: str, images: Path, output: Path, score: float, device: str, work_directory: Path
) -> None:
    """Detect objects in IMAGES (a picture or a folder), draw them and write them as COCO JSON.

    Skips files that are not complete images, names them at the end and ends with 65.

    CHECKPOINT is a checkpoint, or a folder or URI of several, of which the newest is used.

    \b
    Example:
      kubedet predict runs/smoke_faster_rcnn/checkpoints photographs --output found
    """
    from kubedet_trainer.inference import predict as prediction

    detector = _load_checkpoint(checkpoint, work_directory, device)
    written = prediction.predict_folder(detector, source=images, output=output, score_threshold=score)
    click.echo(f"{written.num_detections} detections in {len(written.pictures)} pictures: {written.file}")
    for line in written.left_out:
        click.echo(f"left out: {line}", err=True)
    if written.left_out:
        sys.exit(contract.ExitCode.INVALID_INPUT)


def _load_detector(
    source: str,
    weights: str | None,
    dataset: DatasetSettings,
    work_directory: Path,
    device: str,
    mirror: str | None,
) -> trained.TrainedDetector:
    """The detector of a checkpoint, or of a recipe with weights."""
    from kubedet_trainer.inference import trained

    if weights is None:
        return _load_checkpoint(source, work_directory, device)
    return trained.load_published(
        source,
        uri=weights_uri(weights, recipe=source),
        mirror=mirror,
        classes=trained.read_classes(dataset, directory=work_directory),
        cache=work_directory / contract.CACHE_DIRECTORY,
        device=trained.choose_device(device),
    )


def _load_checkpoint(location: str, work_directory: Path, device: str) -> trained.TrainedDetector:
    from kubedet_trainer.inference import trained

    if location in RECIPES:
        raise UsageError(f"CHECKPOINT: got the recipe '{location}', must be a checkpoint; or add --weights")
    variables = {**os.environ, Environment.CHECKPOINT_URI: options.as_uri(location)}
    return trained.load_checkpoint(
        read_checkpoint_settings(variables),
        scratch=work_directory / "checkpoint",
        device=trained.choose_device(device),
    )
