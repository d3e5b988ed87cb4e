"""The operator's half of the command `kubedet`: run, render, explain, crds. Exit codes are the contract's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from kubedet_operator.api import schema, validation
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.children.children import build_children
from kubedet_operator.commands import explain as explanation
from kubedet_operator.commands.recipe import check_recipe
from kubedet_operator.local.container import CannotRunHere
from kubedet_operator.local.documents import Documents, read_documents
from kubedet_operator.settings import InvalidSetting, read_settings
from kubedet_trainer.contract import ExitCode

_FILES = click.argument(
    "files",
    metavar="JOB.yaml...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)


@click.command()
@_FILES
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for logs, downloads, and checkpoints if the job sets no place.  [default: runs/NAME]",
)
def run(files: tuple[Path, ...], output: Path | None) -> None:
    """Run a DetectionJob on this machine, without a cluster.

    The files contain one DetectionJob and the Secrets that it names. Every worker runs as a process. Failures
    are handled as in a cluster. Ctrl-C suspends the job: it saves its state, and the same command resumes it.

    \b
    Examples:
      kubedet run manifests/samples/smallest.yaml
      kubedet run job.yaml minio-secret.yaml --output /data/mask-r50
    """
    from rich.console import Console

    from kubedet_operator.local.run import Screen, run_job

    screen = Screen(progress=Console(stderr=True), result=Console())
    try:
        documents = read_documents(files)
        name = (documents.job.get("metadata") or {}).get("name", "job")
        code = run_job(
            documents, output=output or Path("runs", str(name)), environment=os.environ, screen=screen
        )
    except InvalidManifest as error:
        _refuse(error.violations, ExitCode.INVALID_INPUT)
    except CannotRunHere as error:
        _refuse([error], ExitCode.MISSING_INPUT)
    sys.exit(code)


@click.command()
@_FILES
@click.option("--namespace", help="Namespace of the pods.  [default: that of the file, else default]")
@click.option("--uid", help="UID of the job, for labels, owner references and the rendezvous id.")
def render(files: tuple[Path, ...], namespace: str | None, uid: str | None) -> None:
    """Print the pods and other objects that the operator would create for a DetectionJob.

    Prints the objects of the first attempt as YAML. As for the operator, KUBEDET_OPERATOR_TRAINER_IMAGE names
    the image of jobs that set none.

    Checks the recipe and its overrides, too. If the recipe is in a module that is not on this machine, a
    warning says that only the worker can check it.
    """
    try:
        documents = read_documents(files)
        job = validation.load_job(_place(documents, namespace=namespace, uid=uid))
        children = build_children(job, attempt=0, settings=read_settings(os.environ))
    except InvalidManifest as error:
        _refuse(error.violations, ExitCode.INVALID_INPUT)
    except InvalidSetting as error:
        _refuse([error], ExitCode.USAGE)
    verdict = check_recipe(job.spec, environment=os.environ)
    if verdict.is_refused:
        _refuse([verdict.line], ExitCode.INVALID_INPUT)
    if verdict.line:
        click.echo(f"Warning: {verdict.line}", err=True)
    click.echo(yaml.safe_dump_all(children, sort_keys=False, width=110), nl=False)


@click.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`."""
    click.echo(schema.dump_crd(), nl=False)


@click.command()
@click.argument("field", default="")
def explain(field: str) -> None:
    """Describe FIELD of a DetectionJob: its purpose, default, bounds and rules.

    \b
    Examples:
      kubedet explain spec.worker
      kubedet explain spec.failurePolicy.hangTimeoutSeconds
    """
    try:
        click.echo(explanation.explain(field, width=min(shutil.get_terminal_size().columns, 110)))
    except explanation.UnknownField as error:
        _refuse([error], ExitCode.USAGE)


def _place(documents: Documents, *, namespace: str | None, uid: str | None) -> dict[str, Any]:
    metadata = dict(documents.job.get("metadata") or {})
    given = {"namespace": namespace, "uid": uid}
    metadata |= {field: value for field, value in given.items() if value is not None}
    return {**documents.job, "metadata": metadata}


def _refuse(reasons: Sequence[object], exit_code: ExitCode) -> NoReturn:
    """End the command with one line for each reason."""
    for reason in reasons:
        click.echo(str(reason), err=True)
    sys.exit(exit_code)
