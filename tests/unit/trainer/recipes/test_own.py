"""Recipes of the user's own: any module may have some, and what is wrong with one is said in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kubedet_trainer.errors import InvalidInput, MissingInput, TrainerError
from kubedet_trainer.recipes import own, read_recipe

MODULE = """
from __future__ import annotations
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from kubedet_trainer.config import OptimizerConfig, Recipe
from kubedet_trainer.recipes.faster_rcnn import faster_rcnn
from kubedet_trainer.recipes.smoke import smoke_rpn
if TYPE_CHECKING:
    from torch import nn

def slow() -> Recipe:
    return replace(smoke_rpn(), optimizer=OptimizerConfig(lr=0.001))

def with_seed(seed: int = 4) -> Recipe:
    return replace(smoke_rpn(), seed=seed)

ready = replace(smoke_rpn(), seed=5)
r50 = partial(faster_rcnn, "r50", "pytorch", "1x")

def of_depth(depth: int) -> Recipe:
    raise AssertionError("has to be told a depth")

def burn_down():
    raise AssertionError("must not be called")

def for_type_checkers() -> nn.Module:
    raise AssertionError("must not be called")

def breaking() -> Recipe:
    return replace(smoke_rpn(), seed=-1)

def failing() -> Recipe:
    return {}["key"]

_private = ready
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of PYTHONPATH with a package in it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").touch()
    (tmp_path / "mine/recipes.py").write_text(MODULE)
    (tmp_path / "mine/incomplete.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "mine/faulty.py").write_text("import json\n1 / 0\n")
    (tmp_path / "mine/empty.py").write_text("from kubedet_trainer.recipes.smoke import smoke_rpn\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_recipe_of_a_module_is_read_by_its_attribute_and_carries_that_name() -> None:
    recipe = read_recipe("mine.recipes:slow")

    assert recipe.name == "mine.recipes:slow"
    assert recipe.optimizer.lr == 0.001
    assert read_recipe("mine.recipes:with_seed").seed == 4
    assert read_recipe("mine.recipes:ready").seed == 5


def test_recipe_built_by_a_function_of_the_zoo_has_its_published_figures() -> None:
    assert read_recipe("mine.recipes:r50").reference == read_recipe("faster_rcnn_r50_fpn_1x").reference


def test_module_is_found_in_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    with pytest.raises(MissingInput):
        read_recipe("mine.recipes:slow")

    monkeypatch.chdir(folder)

    assert read_recipe("mine.recipes:slow").name == "mine.recipes:slow"


def test_recipes_of_a_module_are_its_own_that_need_no_arguments() -> None:
    module = own.import_module("mine.recipes")

    assert own.list_own(module) == ["slow", "with_seed", "ready", "r50", "breaking", "failing"]
    assert own.list_own(own.import_module("mine.empty")) == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nobodys.recipes:slow", MissingInput, r"there is no module 'nobodys' here"),
        ("mine.nothing:slow", MissingInput, r"there is no module 'mine.nothing' here"),
        ("mine.recipes:slaw", InvalidInput, r"got 'mine.recipes:slaw', .* Did you mean 'slow'\?"),
        ("mine.empty:x", InvalidInput, r"got 'mine.empty:x', .* It has none\."),
        ("mine.recipes:burn_down", InvalidInput, r"must be a Recipe, or a function that is annotated"),
        ("mine.recipes:of_depth", InvalidInput, r"needs no arguments\."),
        ("mine.recipes:_private", InvalidInput, r"got 'mine.recipes:_private'"),
        ("mine.recipes:breaking", InvalidInput, r"breaking breaks a rule: seed: got -1, must be >= 0$"),
        ("mine.recipes:failing", InvalidInput, r"failing fails: KeyError: 'key' \(.*recipes\.py, line 34\)"),
        ("mine.incomplete:x", InvalidInput, r"fails: ModuleNotFoundError: .*'a_package_that_nobody_has'"),
        ("mine.faulty:x", InvalidInput, r"mine\.faulty fails: ZeroDivisionError: .*faulty\.py, line 2\)"),
        ("os:abort", InvalidInput, r"got 'os:abort', must be a Recipe"),
        ("mine.recipes", InvalidInput, r"or module:attribute for one of your own"),
        ("../mine:x", InvalidInput, r"or module:attribute for one of your own"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_a_line(
    name: str, error: type[TrainerError], message: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        read_recipe(name)

    assert "\n" not in str(refused.value)


def test_files_are_called_after_the_attribute() -> None:
    assert own.short_name("mine.recipes:slow") == "slow"
    assert own.short_name("faster_rcnn_r50_fpn_1x") == "faster_rcnn_r50_fpn_1x"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mine.recipes:slow", "optimizer.lr=0.1"], 0, ""),
        (["smoke_rpn"], 0, ""),
        (
            ["mine.recipes:slow", "optimizer.rate=1"],
            65,
            "optimizer.rate: got '1', must be a field of the recipe",
        ),
        (["mine.recipes:slow", "pretrained=s3://b/w?version=1"], 0, ""),
        (["nobodys:slow"], 66, "recipe: there is no module 'nobodys' here"),
    ],
)
def test_program_checks_a_recipe_without_torch(
    folder: Path, arguments: list[str], code: int, said: str
) -> None:
    script = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('kubedet_trainer.recipes', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )

    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert (done.stderr == "") == (said == "")
