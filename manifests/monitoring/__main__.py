"""``python -m monitoring``: writes and verifies the generated files, asks and draws a Prometheus."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from monitoring import build, check, render
from monitoring.prometheus import Prometheus, View

_FILES = build.ROOT / build.CHART_FILES


@click.group()
def main() -> None:
    """Dashboards, alerts and the metrics page of kubedet, as code."""


@main.command()
def write() -> None:
    """Write the generated files."""
    build.write_files()


@main.command()
def verify() -> None:
    """Fail where a generated file is not current."""
    outdated = build.find_outdated()
    for path in outdated:
        click.echo(f"{path} is not current: run 'make generate'", err=True)
    sys.exit(bool(outdated))


def _with_view(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which part of a Prometheus is looked at."""
    options = (
        click.option("--minutes", default=60.0, show_default=True, help="Time range, up to now."),
        click.option("--namespace", default=".+", help="Value of the variable namespace; default: all."),
        click.option("--job", default=".+", help="Value of the variable job; default: all."),
        click.option("--rate-seconds", default=60, show_default=True, help="Value of $__rate_interval."),
    )
    for option in options:
        command = option(command)
    return command


def _view(minutes: float, namespace: str, job: str, rate_seconds: int) -> View:
    return View(
        end=time.time(), seconds=60 * minutes, namespace=namespace, job=job, rate_seconds=rate_seconds
    )


@main.command("check")
@click.argument("url")
@_with_view
def check_command(url: str, **choices: Any) -> None:
    """Ask the Prometheus at URL every query; fail where one has no data without a reason."""
    findings = check.check_queries(Prometheus(url), _view(**choices), files=_FILES)
    for finding in sorted(findings, key=lambda found: found.verdict):
        click.echo(f"{finding.verdict:13}  {finding.query.where}  {finding.reason}")
    sys.exit(any(finding.verdict == "no data" for finding in findings))


@main.command("render")
@click.argument("url")
@click.argument("dashboard", type=click.Choice(list(build.DASHBOARDS)))
@click.argument("output", type=click.Path(path_type=Path))
@_with_view
def render_command(url: str, dashboard: str, output: Path, **choices: Any) -> None:
    """Draw DASHBOARD out of the Prometheus at URL to the PNG file OUTPUT."""
    render.render(
        _FILES / "dashboards" / f"{dashboard}.json", Prometheus(url), _view(**choices), output=output
    )


if __name__ == "__main__":
    main()
