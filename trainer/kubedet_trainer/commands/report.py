"""The command that makes pages of runs."""

from __future__ import annotations

from pathlib import Path

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import store_credentials


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the page.  [default: report.html next to the checkpoints of one run, comparison.html here "
    "for several]",
)
@options.ends_with_contract_code
def report(runs: tuple[str, ...], output: Path | None) -> None:
    """Make the page of RUN again, or a page that compares several.

    RUN is the folder of a run or of its checkpoints, or an s3:// prefix of checkpoints. The command reads
    results.json, which each evaluation writes, so it also works for a run that has not finished. Set the
    credentials of object stores in KUBEDET_CHECKPOINT_*.

    \b
    Examples:
      kubedet report runs/smoke_faster_rcnn
      kubedet report runs/first runs/second --output both.html
      kubedet report s3://checkpoints/a s3://checkpoints/b
    """
    from kubedet_trainer.reports import comparing, files, page
    from kubedet_trainer.storage.uris import open_store

    places = [_checkpoints(run) for run in runs]
    stores = [open_store(place, store_credentials(place)) for place in places]
    if len(stores) == 1:
        (store,) = stores
        if output is None:
            click.echo(files.remake(store).removeprefix("file://"))
            return
        content = files.render(store)
    else:
        names = comparing.name_runs([store.uri for store in stores])
        content = page.render_comparison(
            {name: files.read_report(store) for name, store in zip(names, stores, strict=True)}
        )
        output = output or Path("comparison.html")
    output.write_bytes(content)
    click.echo(str(output))


def _checkpoints(run: str) -> str:
    """The URI of what holds the report of a run: its folder, or the one of the checkpoints in it."""
    if "://" in run:
        return run.rstrip("/")
    folder = Path(run)
    below = folder / "checkpoints"
    is_below = not (folder / contract.RESULTS_FILE).exists() and below.is_dir()
    return options.as_uri(below if is_below else folder)
