"""Publishing weights, from the command line."""

from __future__ import annotations

from pathlib import Path

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import store_credentials


@click.command()
@click.argument("checkpoint")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("published"),
    show_default=True,
    help="Folder for the file.",
)
@options.work_directory_option("inference")
@options.ends_with_contract_code
def publish(checkpoint: str, output: Path, work_directory: Path) -> None:
    """Write the weights of CHECKPOINT as the zoo does: RECIPE_DATE-HASH.pth, without the optimiser's state.

    CHECKPOINT is a checkpoint, or a folder or URI with checkpoints, of which the newest is used.

    \b
    Example:
      kubedet publish runs/smoke_faster_rcnn --output published
    """
    from kubedet_trainer.inference import publish as publishing

    uri = options.as_uri(checkpoint)
    file = publishing.publish_checkpoint(
        uri,
        output=output,
        cache=work_directory / contract.CACHE_DIRECTORY,
        credentials=store_credentials(uri),
    )
    click.echo(f"{file} ({file.stat().st_size / 2**20:.1f} MiB)")
