"""What make would install, without installing it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def _plan(target: str, *variables: str, venv: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--dry-run", target, f"VENV={venv}", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("target", "extras"), [("demo", ["trainer"]), ("install", ["trainer", "dev"])])
@pytest.mark.parametrize(("variables", "index"), [((), ""), (("TORCH=cpu",), f" {CPU_INDEX}")])
def test_torch_comes_from_the_index_that_was_asked_for(
    tmp_path: Path, target: str, extras: list[str], variables: tuple[str, ...], index: str
) -> None:
    planned = _plan(target, *variables, venv=tmp_path)
    lines = [" ".join(line.split()) for line in planned.stdout.splitlines() if "pip install" in line]
    options = "--quiet --disable-pip-version-check -c constraints.txt"
    assert lines == [f"{tmp_path}/bin/pip install {options}{index} -e '.[{extra}]'" for extra in extras]


def test_another_torch_is_refused_with_the_choices(tmp_path: Path) -> None:
    planned = _plan("demo", "TORCH=rocm", venv=tmp_path)
    assert planned.returncode == 2
    assert "TORCH: got 'rocm', must be cpu or empty" in planned.stderr


def test_the_pages_show_the_index_of_the_makefile() -> None:
    for page in ("README.md", "docs/users/first-job.md"):
        assert f"pip install -c constraints.txt -e '.[trainer]' {CPU_INDEX}" in (ROOT / page).read_text()
