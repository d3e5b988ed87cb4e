"""Commands about data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.settings import read_dataset_settings


@click.command("check-data")
@options.dataset_options
@click.option(
    "--work-directory",
    type=click.Path(path_type=Path),
    default=Path("runs", "check-data"),
    show_default=True,
    help="Where an s3:// data set is downloaded to.",
)
@options.ends_with_contract_code
def check_data(work_directory: Path, **given: str) -> None:
    """List everything that is wrong with a data set, file by file; ends with 65 where there is anything.

    Every annotation is held against the rules, and every image is decoded whole.

    \b
    Example:
      kubedet check-data --dataset /data/coco
    """
    from kubedet_trainer.data import coco, prepare

    settings = read_dataset_settings({**os.environ, **options.dataset_variables(given)})
    local = prepare.examine_dataset(settings, work_directory / contract.DATASET_DIRECTORY)
    for problem in local.problems:
        click.echo(str(problem))
    found = len(local.problems)
    for file, images in dict.fromkeys(
        (split.annotations, split.images) for split in (local.train, local.val)
    ):
        problems = coco.check_dataset(file, images=images)
        found += len(problems)
        for problem in problems:
            click.echo(str(problem))
        click.echo(f"{file}: {len(problems)} problems", err=True)
    sys.exit(contract.ExitCode.INVALID_INPUT if found else contract.ExitCode.DONE)
