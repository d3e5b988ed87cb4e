"""The pages that are made from code are current, and say all of it."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

import markdown
from kubedet_operator.api import schema
from kubedet_trainer.commands.estimate import estimate
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.recipes import RECIPES


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=markdown.ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_recipe_exit_code_and_field_has_its_line() -> None:
    pages = {
        name: _first_cells(f"docs/reference/{name}.md")
        for name in ("recipes", "exit-codes", "fields", "zoo-fields")
    }
    assert set(RECIPES) <= pages["recipes"]
    assert {str(code.value) for code in ExitCode} <= pages["exit-codes"]
    for page, resource in (("fields", schema.JOB), ("zoo-fields", schema.ZOO)):
        root = schema.build_schema(resource)["properties"]
        assert set(root["spec"]["properties"]) | set(root["status"]["properties"]) <= pages[page]


def test_the_page_of_memory_shows_the_estimate_as_it_is() -> None:
    page = markdown.read_page("docs/users/memory.md")
    shown = next(block.text for block in page.blocks if block.language == "text")
    printed = CliRunner().invoke(estimate, ["mask_rcnn_r50_fpn_1x"]).output.splitlines()
    lines = [line for line in printed if line]
    assert shown.splitlines() == lines[: len(shown.splitlines())]


def _first_cells(page: str) -> set[str]:
    lines = markdown.read_page(page).text.splitlines()
    return {line.split("|")[1].strip().strip("`") for line in lines if line.startswith("| ")}
