"""The dashboards as a person sees them, drawn from a real Prometheus and opened in Chromium."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

import browser
import dashboard_picture
import fleet_history
import fleet_zoos
from monitoring import build
from monitoring.prometheus import Prometheus, View

FILES = build.ROOT / build.CHART_FILES / "dashboards"
PICTURES_KEPT = os.environ.get("KUBEDET_SCREENSHOTS")
"""Folder where the pictures go, to be looked at."""
CHOSEN: dict[str, dict[str, Any]] = {
    "fleet": {},
    "job": {"namespace": fleet_history.NAMESPACE, "job": fleet_history.JOB},
    "job-done": {"namespace": "robots", "job": fleet_history.ENDED},
    "zoo": {"namespace": fleet_history.NAMESPACE, "zoo": fleet_zoos.NAME},
}
_TEXTS = "[...document.querySelectorAll('.panel')].map(p => [p.querySelector('h2').textContent, p.innerText])"


@pytest.mark.parametrize("name", list(CHOSEN))
def test_a_dashboard_can_be_read(name: str, prometheus: Prometheus, view: View, tmp_path: Path) -> None:
    chosen = dataclasses.replace(view, **CHOSEN[name])
    page = tmp_path / f"{name}.html"
    dashboard = json.loads((FILES / f"{name.split('-')[0]}.json").read_text())
    page.write_text(dashboard_picture.draw(dashboard, prometheus, chosen))
    seen = browser.look(page, width=1560, script=f"[Object.fromEntries({_TEXTS}), document.body.innerText]")
    if PICTURES_KEPT:
        Path(PICTURES_KEPT, f"dashboard-{name}.png").write_bytes(seen.picture)
    assert seen.errors == []
    texts, text = seen.answer
    if name == "job-done":
        # The workers are gone; what the operator tells stays.
        assert "box AP (%)\t37.4" in texts["Result"].replace("37.40", "37.4")
        assert "0.10" in texts["Result"]
        return
    empty = {title for title, text in texts.items() if "No data" in text}
    assert empty <= {"Firing alerts", "Result"}
    assert ("GPUs: 24" if name == "fleet" else "GPUs: 16") in text or name == "zoo"
    for panel, words in EXPECTED[name]:
        for word in words:
            assert word in texts[panel], (panel, texts[panel])


EXPECTED = {
    "fleet": [
        ("Jobs", ["Unschedulable", "mask-r50", "37", "queue"]),
        ("Excluded nodes", ["gpu-node-1", "NodeLost"]),
        ("Suspect nodes", ["gpu-node-1"]),
        ("CPU of the operator", ["cores"]),
        ("GPUs by use", ["held by jobs, idle"]),
    ],
    "job": [
        ("Loss by term", ["total"]),
        ("Box AP by overlap and size", ["boxAP75"]),
        ("Straggler", ["mask-r50-worker-1", "gpu-node-1", "1.67"]),
    ],
    "zoo": [("Rows", ["ssd300_coco", "Failed", "35.40", "35.60", "-0.20"]), ("Page", ["PageFailed"])],
}
"""What panels must say, by dashboard."""
