"""The script for the day that a GPU is there runs, on a CPU, to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"


def test_the_script_for_a_gpu_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--steps", "1", "--output", output],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert [row["recipe"] for row in figures["speed"]] == ["smoke_rpn"]
    assert all(row["finite"] and row["seconds_per_iteration"] > 0 for row in figures["speed"])
    assert [(row["recipe"], row["obstacle"]) for row in figures["compiled"]] == [("smoke_rpn", None)]
    assert figures["compiled"][0]["finite"]
    checks = {check["check"]: check["passed"] for check in figures["checks"]}
    assert checks.keys() >= {"resume smoke_mask_rcnn", "evaluation smoke_faster_rcnn"}
    assert all(checks.values()), figures["checks"]
    assert f"checks: {len(checks)} passed, 0 failed" in done.stdout
