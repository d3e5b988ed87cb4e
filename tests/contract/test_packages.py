"""The shape of the repository that its packages rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATOR, TRAINER = PACKAGES = (
    ROOT / "operator" / "kubedet_operator",
    ROOT / "trainer" / "kubedet_trainer",
)
FOLDERS = (
    *PACKAGES,
    *(ROOT / name for name in ("benchmarks", "charts", "docs", "images", "manifests")),
)
SOURCES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
ROOMS = {OPERATOR: 12, TRAINER: 20}
"""The most that a newcomer has to look through at the top of each package."""
MODULE_LINES = 400
FUNCTION_LINES = 60


def _python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_operator_is_the_standard_librarys() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "trainer" / "__init__.py").exists()
    assert _python("import operator; print(operator.add(1, 2))") == "3"


@pytest.mark.parametrize(("package", "most"), ROOMS.items(), ids=lambda value: getattr(value, "name", None))
def test_a_package_has_few_entries_at_its_top(package: Path, most: int) -> None:
    found = {path.relative_to(package).parts[0] for path in package.rglob("*.py")} - {"__init__.py"}
    assert len(found) <= most, sorted(found)
    assert 2 * len([name for name in found if (package / name).is_dir()]) > len(found), "most are folders"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_importing_a_package_costs_nothing(package: Path) -> None:
    assert (package / "__init__.py").read_text() == ""


@pytest.mark.parametrize("module", ["kubedet_trainer.contract", "kubedet_trainer.recipes.fields"])
def test_what_the_operator_imports_of_the_trainer_needs_the_standard_library_only(module: str) -> None:
    program = (
        f"import sys; before = set(sys.modules); import {module}; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    imported = set(_python(program).split())
    assert imported - set(sys.stdlib_module_names) == {"kubedet_trainer"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES
    too_long = [name for name, lines in _functions(ast.parse(text)) if lines > FUNCTION_LINES]
    assert too_long == []


def _functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1
