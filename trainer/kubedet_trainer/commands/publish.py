"""Publishing weights, from the command line."""

from __future__ import annotations

from pathlib import Path

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import open_place, shown, store_credentials
from kubedet_trainer.errors import MissingInput, TrainerError, UsageError


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--zoo",
    metavar="PLACE",
    help="Publish the weights of all rows next to the page of a zoo, in this folder or at this URI.",
)
@click.option(
    "--output",
    type=options.FOLDER,
    help="Folder for the file of CHECKPOINT.  [default: published]",
)
@options.work_directory_option("inference")
@options.ends_with_contract_code
def publish(checkpoint: str | None, zoo: str | None, output: Path | None, work_directory: Path) -> None:
    """Write the weights of CHECKPOINT as the zoo does: RECIPE_DATE-HASH.pth, without the optimiser's state.

    CHECKPOINT is a checkpoint, or a folder or URI with checkpoints, of which the newest is used.

    \b
    Examples:
      kubedet publish runs/smoke_faster_rcnn --output published
      kubedet publish --zoo s3://checkpoints/zoo
    """
    if (checkpoint is None) == (zoo is None):
        raise UsageError("publish: got both or neither of CHECKPOINT and --zoo, must be one of them")
    cache = work_directory / contract.CACHE_DIRECTORY
    if zoo is not None:
        if output is not None:
            raise UsageError("--output: must not be set with --zoo, whose weights go next to its page")
        _publish_zoo(options.as_uri(zoo).rstrip("/"), cache=cache)
        return
    from kubedet_trainer.inference import publish as publishing

    uri = options.as_uri(str(checkpoint))
    file = publishing.publish_checkpoint(
        uri, output=output or Path("published"), cache=cache, credentials=store_credentials(uri)
    )
    click.echo(_line(str(file), file.stat().st_size))


def _publish_zoo(place: str, *, cache: Path) -> None:
    """Publish what there is, then say what is missing.

    Raises:
        MissingInput: the weights of a row cannot be had.
    """
    from kubedet_trainer.inference import publish as publishing

    missing = []
    found = publishing.publish_zoo(open_place(place), cache=cache, credentials_for=store_credentials)
    for recipe, outcome in found:
        if isinstance(outcome, TrainerError):
            missing.append(f"{recipe}: {outcome}")
        else:
            click.echo(_line(shown(f"{place}/{outcome.file}"), outcome.bytes))
    if missing:
        raise MissingInput(f"{len(missing)} rows have no weights: {'; '.join(missing)}")


def _line(place: str, size: int) -> str:
    return f"{place} ({size / 2**20:.1f} MiB)"
