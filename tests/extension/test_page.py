"""CONTRIBUTING says how a detector is added, and `my_detectors` is what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from kubedet_trainer.commands.zoo import recipes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).parent / "my_detectors"
SECTION = re.search(
    r"^## Add a detector.*?(?=^## )", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
)
assert SECTION is not None
STEPS = re.findall(
    r"^\d\. `my_detectors/(\w+\.py)`.*?```python\n(.*?)```", SECTION[0], re.DOTALL | re.MULTILINE
)


def test_page_describes_every_file_of_the_package() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}

    assert [name for name, _ in STEPS] == ["options.py", "fcos.py", "recipes.py"]
    assert {name for name, _ in STEPS} == files


@pytest.mark.parametrize(("name", "code"), STEPS, ids=[name for name, _ in STEPS])
def test_code_of_the_page_is_that_of_the_package(name: str, code: str) -> None:
    """An ellipsis on the page stands for lines that it leaves out."""
    text = (PACKAGE / name).read_text()
    place = 0
    for line in code.splitlines():
        line = line.strip()
        if line and line != "...":
            assert line in text[place:], line
            place = text.index(line, place)


def test_recipes_of_a_module_are_listed_as_yours() -> None:
    result = CliRunner().invoke(recipes, ["my_detectors.recipes"])

    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [
        "Recipe",
        "Yours",
        "my_detectors.recipes:fcos_r50_fpn_1x",
        "my_detectors.recipes:smoke_fcos",
    ]


def test_recipe_of_a_module_is_printed_with_its_own_options() -> None:
    result = CliRunner().invoke(recipes, ["my_detectors.recipes:fcos_r50_fpn_1x"])

    assert "  fcos_head:\n" in result.stdout
    assert "reach: 8.0" in result.stdout
    assert "architecture: fcos" in result.stdout
