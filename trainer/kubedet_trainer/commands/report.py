"""The command that makes pages of runs and zoos."""

from __future__ import annotations

from pathlib import Path

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.commands.weights import open_place, shown
from kubedet_trainer.errors import UsageError


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option(
    "--zoo",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Make the page of this ModelZoo, as `kubectl get zoo NAME -o json` prints it.",
)
@click.option(
    "--output",
    metavar="PLACE",
    help="File for the page of runs; for a zoo a folder or a URI.  [default: report.html next to the "
    "checkpoints of one run, comparison.html here for several, a folder with the name of the zoo]",
)
@options.ends_with_contract_code
def report(runs: tuple[str, ...], zoo: Path | None, output: str | None) -> None:
    """Make the page of RUN again, a page that compares several, or the page of a ModelZoo.

    RUN is the folder of a run or of its checkpoints, or an s3:// prefix of checkpoints. The command reads
    results.json, which each evaluation writes, so it also works for a run that has not finished. Set the
    credentials of object stores in KUBEDET_CHECKPOINT_*.

    \b
    Examples:
      kubedet report runs/smoke_faster_rcnn
      kubedet report runs/first runs/second --output both.html
      kubedet report s3://checkpoints/a s3://checkpoints/b
      kubedet report --zoo zoo.json --output s3://checkpoints/zoo
    """
    if (zoo is None) == (not runs):
        raise UsageError("report: got both or neither of RUN and --zoo, must be one of them")
    if zoo is not None:
        click.echo(_report_zoo(zoo, output))
    else:
        click.echo(_report_runs(runs, Path(output) if output else None))


def _report_zoo(file: Path, output: str | None) -> str:
    """Write the page of the zoo in `file`; returns its address."""
    from kubedet_trainer.reports.zoo import files

    zoo = files.read_zoo(file)
    target = options.as_uri(output or str(zoo["metadata"]["name"])).rstrip("/")
    return shown(files.write_zoo(zoo, target=open_place(target), open_place=open_place))


def _report_runs(runs: tuple[str, ...], output: Path | None) -> str:
    """Write the page of one run or of several; returns its address."""
    from kubedet_trainer.reports import comparing, files, page

    stores = [open_place(_checkpoints(run)) for run in runs]
    if len(stores) == 1:
        (store,) = stores
        if output is None:
            return shown(files.remake(store))
        content = files.render(store)
    else:
        names = comparing.name_runs([store.uri for store in stores])
        content = page.render_comparison(
            {name: files.read_report(store) for name, store in zip(names, stores, strict=True)}
        )
        output = output or Path("comparison.html")
    output.write_bytes(content)
    return str(output)


def _checkpoints(run: str) -> str:
    """The URI of what holds the report of a run: its folder, or the one of the checkpoints in it."""
    if "://" in run:
        return run.rstrip("/")
    folder = Path(run)
    below = folder / "checkpoints"
    is_below = not (folder / contract.RESULTS_FILE).exists() and below.is_dir()
    return options.as_uri(below if is_below else folder)
