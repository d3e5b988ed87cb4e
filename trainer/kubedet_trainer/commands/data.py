"""Commands about data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.commands import options
from kubedet_trainer.settings import read_dataset_settings

_DEFAULT_RECIPE = "faster_rcnn_r50_fpn_1x"


@click.command("check-data")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@options.dataset_options
@options.proposals_option
@click.option(
    "--recipe",
    default=_DEFAULT_RECIPE,
    show_default=True,
    metavar="RECIPE",
    help="Recipe whose needs to check: Mask R-CNN needs outlines, Fast R-CNN proposals.",
)
@click.option(
    "--images/--no-images",
    "decode",
    default=True,
    show_default=True,
    help="Decode every image, or only check that it exists.",
)
@options.work_directory_option("check-data")
@options.ends_with_contract_code
def check_data(
    overrides: tuple[str, ...], recipe: str, decode: bool, work_directory: Path, **given: str
) -> None:
    """List everything that is wrong with a data set. The exit code is 65 if there is anything.

    Checks every annotation as a job with RECIPE does, and decodes every image. At the end it prints a summary
    of the splits, and what training skips.

    \b
    Examples:
      kubedet check-data --dataset /data/coco
      kubedet check-data --dataset /data/coco --recipe mask_rcnn_r50_fpn_1x data.classes=cat,dog
    """
    from kubedet_trainer.data import check, prepare, proposals

    chosen = config.apply_overrides(
        recipes.read_recipe(recipe), dict(options.parse_override(text) for text in overrides)
    )
    settings = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    findings = check.check_dataset(
        prepare.prepare_dataset(settings, work_directory / contract.DATASET_DIRECTORY),
        chosen.data,
        report=lambda line: click.echo(line),
        find_proposals=lambda split, annotations: proposals.open_proposals(
            settings,
            split=split,
            annotations=annotations,
            slots=chosen.data.num_proposals,
            directory=work_directory,
        ),
        max_detections=config.detection_limit(chosen),
        decode=decode,
    )
    for line in findings.summary:
        click.echo(line, err=True)
    click.echo(f"{findings.num_problems} problems", err=True)
    sys.exit(contract.ExitCode.INVALID_INPUT if findings.num_problems else contract.ExitCode.DONE)
