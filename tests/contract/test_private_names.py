"""Private names of libraries that the packages use, each with the test that fails when it changes."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import cv2  # noqa: F401 (it and torchvision set environment variables when first imported)
import pytest
import torchvision  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT / half).with_suffix("").parts).removesuffix(".__init__"): path
    for half in ("operator", "trainer")
    for path in sorted((ROOT / half / f"kubedet_{half}").rglob("*.py"))
}
_PRIVATE = re.compile(r"_[a-zA-Z]\w*")
_PRIVATE_MODULE = re.compile(r"[a-z]\w*(\.\w+)*\._[a-z]\w*(\.\w+)*")

_AGENT = "tests/unit/trainer/worker/test_agent_seam.py"
_FOLDING = (
    "tests/unit/trainer/models/test_folding.py::"
    "test_outputs_and_all_gradients_are_those_of_convolution_and_normalisation"
)
_COMPILING = "tests/unit/trainer/training/test_compiling.py"
_NO_COMPILER = "test_without_a_compiler_the_detector_runs_as_it_is_and_one_line_says_why"
_FULL_REGION = "test_more_shapes_than_graphs_run_without_and_one_line_of_each_region_says_so"
_COUNTING = "tests/unit/trainer/training/test_counting.py"
_PICKLES = "tests/unit/trainer/data/test_proposals.py::test_pickles_of_2019_are_read"

SEAMS: dict[str, dict[str, str]] = {
    "kubedet_trainer.data.proposal_pickle": {"numpy._core.multiarray": _PICKLES},
    "kubedet_trainer.models.backbones.folding": {
        f"_foreach_{name}": _FOLDING for name in ("add", "addcmul", "mul", "rsqrt")
    },
    "kubedet_trainer.training.compiling": {
        "_dynamo": f"{_COMPILING}::test_images_of_other_sizes_need_no_other_graph",
        "_functorch": f"{_COMPILING}::test_an_error_of_the_backward_pass_is_told_with_its_region",
        "torch._dynamo": f"{_COMPILING}::{_FULL_REGION}",
        "torch._functorch": f"{_COMPILING}::{_NO_COMPILER}",
        "torch._inductor": f"{_COMPILING}::{_NO_COMPILER}",
        "torch._functorch.config": (
            f"{_COMPILING}::test_an_error_of_the_backward_pass_is_told_with_its_region"
        ),
    },
    "kubedet_trainer.training.counting": {
        "_deform_conv2d_backward": f"{_COUNTING}::test_the_table_has_what_a_step_costs",
        "torch._subclasses.fake_tensor": f"{_COUNTING}::test_parts_of_memory_are_those_of_the_tensors",
        "torch.utils._python_dispatch": f"{_COUNTING}::test_flops_are_those_of_the_products",
        "torch.utils._pytree": f"{_COUNTING}::test_flops_are_those_of_the_products",
    },
    "kubedet_trainer.worker.fork_server": {
        f"_forkserver_{name}": "tests/unit/trainer/worker/test_fork_server.py::"
        "test_loader_workers_are_forks_of_a_fork_of_the_rank"
        for name in ("address", "alive_fd", "pid")
    },
    "kubedet_trainer.worker.agent": {
        "_monitor_workers": f"{_AGENT}::test_an_agent_is_made_by_exactly_four_methods",
        "_shutdown": f"{_AGENT}::test_signal_exception_shuts_the_ranks_down_with_that_signal",
        "_start_workers": f"{_AGENT}::test_a_group_knows_its_ranks_and_where_they_meet_before_it_starts",
        "_stop_workers": f"{_AGENT}::test_loop_restarts_a_failed_group_and_ends_with_a_finished_one",
    },
}
"""By module, each private name and the test that holds its seam."""


@pytest.mark.parametrize("module", MODULES)
def test_only_listed_private_names_of_others_are_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert _borrowed(tree) | _inherited(tree, module) == set(SEAMS.get(module, ()))


@pytest.mark.parametrize("test", sorted({test for names in SEAMS.values() for test in names.values()}))
def test_the_test_of_each_seam_exists(test: str) -> None:
    path, _, name = test.partition("::")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {
        node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, functions)
    }


def test_listed_modules_exist() -> None:
    assert SEAMS.keys() <= MODULES.keys()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import torch._dynamo", {"torch._dynamo"}),
        ("from kopf._core.reactor import queueing", {"kopf._core.reactor"}),
        ("from minio.helpers import _parse", {"_parse"}),
        ("from kubedet_trainer.storage import _parse", {"_parse"}),
        ("client._pool.clear()", {"_pool"}),
        ("getattr(client, '_pool')", {"_pool"}),
        ("logging.getLogger('kopf._core.engines')", {"kopf._core.engines"}),
        ("class A(Base):\n    def f(self): return self._inherited", {"_inherited"}),
        ("class A:\n    def __init__(self): self._own = 1\n    def f(self, other): return other._own", set()),
        ("class A:\n    _own: int\n\ndef f(a): return a._own", set()),
        ("import os\nos._exit(1)", set()),
        ("from os import _exit", set()),
        ("_own = 1\nprint(__name__)", set()),
    ],
)
def test_a_private_name_from_elsewhere_is_noticed(text: str, names: set[str]) -> None:
    assert _borrowed(ast.parse(text)) == names


def test_a_private_name_that_a_base_class_has_too_is_noticed() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(_Tokens)))
    assert _shared(tree, _Parameters) == {"_parameters"}


class _Parameters:
    def __init__(self) -> None:
        self._parameters: list[str] = []


class _Tokens(_Parameters):
    def __init__(self) -> None:
        super().__init__()
        self._parameters = ["a"]
        self._own = 1


def _borrowed(tree: ast.Module) -> set[str]:
    """Private modules, imported private names, and private attributes that this module does not define."""
    own, standard = set(_defined(tree)), set(_standard_modules(tree))
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names if _PRIVATE_MODULE.fullmatch(name.name)}
            case ast.ImportFrom(module=str(module), names=names) if not _is_standard(module):
                found |= {module} if _PRIVATE_MODULE.fullmatch(module) else set()
                found |= {name.name for name in names if _PRIVATE.fullmatch(name.name)}
            case ast.Attribute(value=ast.Name(id=name)) if name in standard:
                pass
            case ast.Attribute(attr=name) if _PRIVATE.fullmatch(name):
                found |= {name} - own
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]
            ):
                found |= {name} - own if _PRIVATE.fullmatch(name) else set()
            case ast.Constant(value=str(text)) if _PRIVATE_MODULE.fullmatch(text):
                found.add(text)
    return found


def _inherited(tree: ast.Module, module: str) -> set[str]:
    """Private names that a class of this module has in common with a base class of a library."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.bases:
            for base in getattr(importlib.import_module(module), node.name).__mro__:
                if not _is_standard(base.__module__) and not base.__module__.startswith("kubedet_"):
                    found |= _shared(node, base)
    return found


def _shared(node: ast.AST, base: type) -> set[str]:
    return {name for name in _defined(node) if _PRIVATE.fullmatch(name)} & _names_of(base)


@functools.cache
def _names_of(base: type) -> frozenset[str]:
    names = set(vars(base))
    with contextlib.suppress(OSError, TypeError):  # it is compiled
        names.update(_defined(ast.parse(textwrap.dedent(inspect.getsource(base)))))
    return frozenset(names)


def _defined(tree: ast.AST) -> Iterator[str]:
    """Functions, classes, variables, and attributes that are assigned to ``self``."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


def _standard_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.asname or name.name for name in node.names if _is_standard(name.name))


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
