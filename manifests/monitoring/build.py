"""The generated files: which there are, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from monitoring.alerts import build_rules
from monitoring.fleet import FLEET
from monitoring.job import JOB
from monitoring.panels import build_dashboard
from monitoring.reference import build_reference
from monitoring.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent.parent
"""Of the repository."""
CHART_FILES = Path("charts/kubedet/files")
"""What the chart puts into ConfigMaps and the PrometheusRule, below the root."""
DASHBOARDS = {"fleet": FLEET, "job": JOB, "zoo": ZOO}
_NOTICE = "# Written by `make generate` out of manifests/monitoring; do not edit.\n"


def build_files() -> dict[Path, str]:
    """Text of every generated file, by its path below the repository's root."""
    rules = yaml.safe_dump(build_rules(), sort_keys=False, width=1000, allow_unicode=True)
    dashboards = {name: build_dashboard(dashboard) for name, dashboard in DASHBOARDS.items()}
    return {
        **{
            CHART_FILES / "dashboards" / f"{name}.json": f"{json.dumps(dashboard, indent=1)}\n"
            for name, dashboard in dashboards.items()
        },
        CHART_FILES / "rules.yaml": _NOTICE + rules,
        Path("docs/reference/metrics.md"): build_reference(),
    }


def write_files(root: Path = ROOT) -> None:
    """Write every generated file."""
    for path, text in build_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def find_outdated(root: Path = ROOT) -> list[Path]:
    """The generated files that are not there, or not as the code makes them."""
    return [
        path
        for path, text in build_files().items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]
