"""The operator's half of the command `kubedet`: run, render, explain, crds. Exit codes are the contract's."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from kubedet_operator.api import schema, validation
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.api.types import DetectionJobSpec, parse_job
from kubedet_operator.children.children import build_children
from kubedet_operator.children.rows import build_row_jobs
from kubedet_operator.commands import explain as explanation
from kubedet_operator.decision.zoo.facts import parse_zoo
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
    """Run a DetectionJob or a ModelZoo on this machine, without a cluster.

    The files contain one of them and the Secrets that it names. Every worker runs as a process. Failures are
    handled as in a cluster. Ctrl-C suspends the job, or all jobs of the zoo: they save their state, and the
    same command resumes them. A row of a zoo that has its results is not trained again.

    \b
    Examples:
      kubedet run manifests/samples/smallest.yaml
      kubedet run job.yaml minio-secret.yaml --output /data/mask-r50
    """
    from rich.console import Console

    from kubedet_operator.local.run import Screen, run_job
    from kubedet_operator.local.zoo import run_zoo
    from kubedet_operator.recipes import WrongRecipe

    screen = Screen(progress=Console(stderr=True), result=Console())
    try:
        documents = read_documents(files)
        name = (documents.job.get("metadata") or {}).get("name", "job")
        code = (run_zoo if documents.is_zoo else run_job)(
            documents, output=output or Path("runs", str(name)), environment=os.environ, screen=screen
        )
    except InvalidManifest as error:
        _refuse(error.violations, ExitCode.INVALID_INPUT)
    except WrongRecipe as error:
        _refuse([error], ExitCode.INVALID_INPUT)
    except CannotRunHere as error:
        _refuse([error], ExitCode.MISSING_INPUT)
    sys.exit(code)


@click.command()
@_FILES
@click.option("--namespace", help="Namespace of the pods.  [default: that of the file, else default]")
@click.option("--uid", help="UID of the job, for labels, owner references and the rendezvous id.")
def render(files: tuple[Path, ...], namespace: str | None, uid: str | None) -> None:
    """Print the pods and other objects that the operator would create for a DetectionJob or a ModelZoo.

    Prints the objects of the first attempt as YAML; for a zoo the jobs of all rows. As for the operator,
    KUBEDET_OPERATOR_TRAINER_IMAGE names the image of jobs that set none.

    Checks the recipe and its overrides, too. A warning says when only the worker can judge them: if the
    recipe is in a module that is not on this machine, or if the image is of another version. A line on
    standard error says what the training of a job on GPUs needs; `kubedet estimate` says it in full.
    """
    try:
        documents = read_documents(files)
        settings = read_settings(os.environ)
        manifest = _place(documents, namespace=namespace, uid=uid)
        if documents.is_zoo:
            children, specs = _render_zoo(manifest)
        else:
            job = validation.load_job(manifest)
            children, specs = build_children(job, attempt=0, settings=settings), [job.spec]
    except InvalidManifest as error:
        _refuse(error.violations, ExitCode.INVALID_INPUT)
    except InvalidSetting as error:
        _refuse([error], ExitCode.USAGE)
    from kubedet_operator.commands.recipe import check_recipe  # the recipes take a tenth of a second
    from kubedet_operator.recipes import estimate

    for spec in specs:
        verdict = check_recipe(spec, settings, environment=os.environ)
        if verdict.is_refused:
            _refuse([verdict.line], ExitCode.INVALID_INPUT)
        if verdict.line:
            click.echo(f"Warning: {verdict.line}", err=True)
        if not documents.is_zoo and (line := estimate(spec)):
            click.echo(f"Estimate: {line}", err=True)
    click.echo(yaml.safe_dump_all(children, sort_keys=False, width=110), nl=False)


@click.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`."""
    click.echo("---\n".join(schema.dump_crd(resource) for resource in schema.RESOURCES), nl=False)


@click.command()
@click.argument("field", default="")
def explain(field: str) -> None:
    """Describe FIELD of a DetectionJob or of a zoo: its purpose, default, bounds and rules.

    \b
    Examples:
      kubedet explain spec.worker
      kubedet explain spec.failurePolicy.hangTimeoutSeconds
      kubedet explain zoo.spec.rows
    """
    try:
        click.echo(explanation.explain(field, width=min(shutil.get_terminal_size().columns, 110)))
    except explanation.UnknownField as error:
        _refuse([error], ExitCode.USAGE)


def _render_zoo(manifest: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[DetectionJobSpec]]:
    """The jobs of a zoo, and the specs that differ in more than the recipe, which is known to exist."""
    parsed = parse_zoo(manifest)
    if parsed.document is None or parsed.violations:
        raise InvalidManifest(parsed.violations)
    jobs = build_row_jobs(parsed.document, parsed.rows)
    changed = {change.recipe for change in parsed.document.spec.changes} | {parsed.rows[0].recipe}
    specs = [parse_job(job).spec for job in jobs[: len(parsed.rows)] if job["spec"]["recipe"] in changed]
    return jobs, specs


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
