"""``python -m monitoring``: writes and verifies the generated files, queries a Prometheus."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from monitoring import build, check
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


@main.command("check")
@click.argument("url")
@click.option("--minutes", default=60.0, show_default=True, help="Time range, up to now.")
@click.option("--namespace", default=".+", help="Value of the variable namespace; default: all.")
@click.option("--job", default=".+", help="Value of the variable job; default: all.")
@click.option("--zoo", default=".+", help="Value of the variable zoo; default: all.")
@click.option("--rate-seconds", default=60, show_default=True, help="Value of $__rate_interval.")
def check_command(url: str, minutes: float, **choices: Any) -> None:
    """Send every query to the Prometheus at URL; fail where one has no data without a reason."""
    view = View(end=time.time(), seconds=60 * minutes, **choices)
    findings = check.check_queries(Prometheus(url), view, files=_FILES)
    for finding in sorted(findings, key=lambda found: found.verdict):
        click.echo(f"{finding.verdict:13}  {finding.query.where}  {finding.reason}")
    sys.exit(any(finding.verdict == "no data" for finding in findings))


if __name__ == "__main__":
    main()
