"""Commands that use a trained detector: evaluate it, detect objects in pictures, or write proposals."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import detector_options, load_detector
from kubedet_trainer.logs import stderr_console
from kubedet_trainer.settings import read_dataset_settings


@click.command()
@detector_options
@options.dataset_options
@options.proposals_option
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Split to measure on. test needs --test-annotations.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@options.ends_with_contract_code
def evaluate(work_directory: Path, split: str, as_json: bool, **given: Any) -> None:
    """Measure a detector on the validation or test split of a data set. The figures are COCO's, in percent.

    DETECTOR is a file of weights, a checkpoint, a folder or URI with checkpoints (the newest is used), or a
    recipe of the zoo, whose published weights are downloaded.

    \b
    Examples:
      kubedet evaluate runs/smoke_faster_rcnn/checkpoints --dataset "synthetic://shapes?images=200"
      kubedet evaluate faster_rcnn_r50_fpn_1x --dataset /data/coco
      kubedet evaluate own.pth --recipe faster_rcnn_r50_fpn_1x --classes coco --dataset /data/coco
    """
    from rich.console import Console

    from kubedet_trainer.commands import terminal
    from kubedet_trainer.inference import trained

    dataset = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    detector = load_detector({**given, "work_directory": work_directory})
    figures = trained.measure(detector, dataset=dataset, split=split, directory=work_directory)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        Console().print(terminal.metrics_table(figures))


@click.command()
@detector_options
@options.dataset_options
@click.option(
    "--output", required=True, metavar="URI", help="Folder or s3://bucket/prefix for train.npz and val.npz."
)
@options.ends_with_contract_code
def propose(output: str, work_directory: Path, **given: Any) -> None:
    """Write the proposals of an RPN for both splits of a data set. Fast R-CNN trains on them.

    DETECTOR is a file of weights, a checkpoint, a folder or URI with checkpoints (the newest is used), or a
    recipe of the zoo, whose published weights are downloaded.

    \b
    Examples:
      kubedet propose runs/smoke_rpn/checkpoints --dataset "synthetic://shapes?images=200" --output proposals
      kubedet train smoke_fast_rcnn --dataset "synthetic://shapes?images=200" --proposals proposals
    """
    from kubedet_trainer.commands import terminal
    from kubedet_trainer.inference import propose as proposing

    dataset = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    detector = load_detector({**given, "work_directory": work_directory})
    with terminal.ImagesBar(stderr_console()) as bar:
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
@detector_options
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=options.FOLDER,
    default=Path("predictions"),
    show_default=True,
    help="Folder for the pictures and the COCO file.",
)
@click.option(
    "--score",
    type=options.SHARE,
    default=0.3,
    show_default=True,
    help="Minimum score of the detections to keep.",
)
@options.ends_with_contract_code
def predict(images: Path, output: Path, score: float, **given: Any) -> None:
    """Detect objects in IMAGES (a picture or a folder), draw them and write them as COCO JSON.

    Skips files that are not complete images, names them at the end and ends with 65.

    DETECTOR is a file of weights, a checkpoint, a folder or URI with checkpoints (the newest is used), or a
    recipe of the zoo, whose published weights are downloaded.

    \b
    Examples:
      kubedet predict runs/smoke_faster_rcnn photographs --output found
      kubedet predict faster_rcnn_r50_fpn_1x photographs
    """
    from kubedet_trainer.inference import predict as prediction

    detector = load_detector(given)
    written = prediction.predict_folder(detector, source=images, output=output, score_threshold=score)
    click.echo(f"{written.num_detections} detections in {len(written.pictures)} pictures: {written.file}")
    for line in written.left_out:
        click.echo(f"left out: {line}", err=True)
    if written.left_out:
        sys.exit(contract.ExitCode.INVALID_INPUT)
