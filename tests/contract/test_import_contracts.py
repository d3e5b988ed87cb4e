"""Every import contract breaks when somebody breaks it: each is violated in a copy of the packages."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from importlinter.api import read_configuration

from kubedet_trainer import models
from kubedet_trainer.models.detector import Detector

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
ROOTS = {"kubedet_operator": "operator", "kubedet_trainer": "trainer"}
CONTRACTS = {
    contract["name"]: contract
    for contract in read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
}

OPERATOR_LAYERS = "operator: layers"
TRAINER_LAYERS = "trainer: layers"
PURE = "operator: decisions, manifests and the API know no client, no clock, no loop"
POLICIES = "operator: policies do not know each other"
KOPF = "operator: only one module knows kopf"
CLIENT = "operator: only one module knows the Kubernetes client"
HALVES = "operator: of the trainer it knows the contract alone, and one module the recipes"
NO_KUBERNETES = "trainer: it knows nothing of the operator and of Kubernetes"
MODELS = "trainer: models are plain torch: they know no recipe, no data set and no run"
OPTIONS = "trainer: options of models need no torch"
DETECTORS = "trainer: detectors do not know each other, but for the cascade, which extends the two stages"
TORCH = "trainer: only rooms with tensors know torch"


@dataclass(frozen=True)
class Violation:
    """An import that one contract forbids."""

    contract: str
    importer: str
    imported: str
    found: str | None = None
    """What the report names as imported, where it is not `imported`: libraries have no modules there."""

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


VIOLATIONS = (
    Violation(OPERATOR_LAYERS, "kubedet_operator.settings", "kubedet_operator.api.names"),
    Violation(OPERATOR_LAYERS, "kubedet_operator.decision.plan", "kubedet_operator.cluster.cache"),
    Violation(OPERATOR_LAYERS, "kubedet_operator.local.run", "kubedet_operator.control.workqueue"),
    Violation(TRAINER_LAYERS, "kubedet_trainer.errors", "kubedet_trainer.settings"),
    Violation(TRAINER_LAYERS, "kubedet_trainer.data.loader", "kubedet_trainer.training.loop"),
    Violation(TRAINER_LAYERS, "kubedet_trainer.contract.codes", "kubedet_trainer.storage"),
    Violation(PURE, "kubedet_operator.decision.decide", "time"),
    Violation(PURE, "kubedet_operator.children.workers", "asyncio"),
    Violation(PURE, "kubedet_operator.api.validation", "aiohttp"),
    Violation(
        POLICIES,
        "kubedet_operator.decision.policies.restart",
        "kubedet_operator.decision.policies.deadlines",
    ),
    Violation(KOPF, "kubedet_operator.__main__", "kopf"),
    Violation(KOPF, "kubedet_operator.cluster.orphans", "kopf"),
    Violation(KOPF, "kubedet_operator.cluster.lease", "kopf"),
    Violation(KOPF, "kubedet_operator.control.reconcile", "kopf._core.reactor.queueing", "kopf"),
    Violation(KOPF, "kubedet_trainer.commands.train", "kopf"),
    Violation(CLIENT, "kubedet_operator.cluster.events", "kubernetes"),
    Violation(CLIENT, "kubedet_operator.local.run", "kubernetes.aio.client", "kubernetes"),
    Violation(HALVES, "kubedet_operator.control.progress", "kubedet_trainer.training.loop"),
    Violation(HALVES, "kubedet_operator.commands.jobs", "kubedet_trainer.recipes"),
    Violation(HALVES, "kubedet_operator.recipes", "kubedet_trainer.config"),
    Violation(NO_KUBERNETES, "kubedet_trainer.worker.launch", "kubedet_operator.api.types"),
    Violation(NO_KUBERNETES, "kubedet_trainer.storage", "kubernetes"),
    Violation(MODELS, "kubedet_trainer.models.rpn", "kubedet_trainer.config.recipe"),
    Violation(MODELS, "kubedet_trainer.models.losses", "kubedet_trainer.dist"),
    Violation(OPTIONS, "kubedet_trainer.models.options.dense", "torch"),
    Violation(DETECTORS, "kubedet_trainer.models.retinanet", "kubedet_trainer.models.ssd"),
    Violation(DETECTORS, "kubedet_trainer.models.two_stage", "kubedet_trainer.models.cascade"),
    Violation(TORCH, "kubedet_trainer.worker.launch", "torch.cuda", "torch"),
    Violation(TORCH, "kubedet_trainer.recipes.ssd", "torch"),
    Violation(TORCH, "kubedet_operator.local.run", "torchvision"),
)
NEW_ROOMS = ((OPERATOR_LAYERS, "kubedet_operator.attic"), (TRAINER_LAYERS, "kubedet_trainer.attic"))
"""Modules that no layer lists."""
DISTRIBUTED = ("torch.distributed", "torch.distributed.elastic.agent.server")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter says of each contract when all imports of the table are there at once."""
    folder = _copy(tmp_path_factory.mktemp("imports"))
    for violation in VIOLATIONS:
        path = _path(folder, violation.importer)
        path.write_text(f"{path.read_text()}\nimport {violation.imported}\n")
    return _lint(folder)


@pytest.fixture(scope="module")
def reports_of_new_rooms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same, when each package has a module that no layer lists."""
    folder = _copy(tmp_path_factory.mktemp("rooms"))
    for _, module in NEW_ROOMS:
        _path(folder, module).write_text('"""Whatever found no other place."""\n')
    return _lint(folder)


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_a_forbidden_import_breaks_its_contract(violation: Violation, reports: dict[str, str]) -> None:
    line = f"{violation.importer} -> {violation.found or violation.imported} (l."
    assert line in reports[violation.contract]


@pytest.mark.parametrize(("contract", "module"), NEW_ROOMS)
def test_a_module_without_a_layer_breaks_the_contract(
    contract: str, module: str, reports_of_new_rooms: dict[str, str]
) -> None:
    assert module.rpartition(".")[2] in reports_of_new_rooms[contract]
    assert set(reports_of_new_rooms) == {contract for contract, _ in NEW_ROOMS}


def test_every_contract_is_violated_here() -> None:
    assert {violation.contract for violation in VIOLATIONS} == set(CONTRACTS)


def test_all_modules_with_a_detector_are_kept_apart() -> None:
    for module in pkgutil.iter_modules(models.__path__, f"{models.__name__}."):
        importlib.import_module(module.name)
    complete = (found for found in _subclasses(Detector) if found.detect is not Detector.detect)
    ours = {found.__module__ for found in complete if found.__module__.startswith("kubedet_trainer.")}
    assert ours == set(CONTRACTS[DETECTORS]["modules"])


@pytest.mark.parametrize("imported", DISTRIBUTED)
def test_ruff_refuses_torch_distributed_but_where_processes_meet(imported: str) -> None:
    allowed = {"dist.py", "worker/agent.py", "worker/peers.py", "worker/store_client.py"}
    package = ROOT / "trainer" / "kubedet_trainer"
    for name in ("training/loop.py", "worker/launch.py", "models/losses.py", *allowed):
        refused = _ruff(package / name, f"import {imported}\n")
        assert refused == (name not in allowed), name


def _subclasses(base: type[Detector]) -> set[type[Detector]]:
    direct = set(base.__subclasses__())
    return direct.union(*(_subclasses(found) for found in direct))


def _ruff(path: Path, text: str) -> bool:
    options = ["--no-cache", "--select", "TID251", "--stdin-filename", str(path)]
    command = [str(PROGRAMS / "ruff"), "check", *options, "-"]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
    return done.returncode == 1 and "TID251" in done.stdout


def _copy(folder: Path) -> Path:
    for package, half in ROOTS.items():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / half / package, folder / half / package, ignore=ignore)
    return folder


def _path(folder: Path, module: str) -> Path:
    path = folder / ROOTS[module.partition(".")[0]] / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _lint(folder: Path) -> dict[str, str]:
    """The sections of broken contracts, by name."""
    config = ROOT / "pyproject.toml"
    done = subprocess.run(
        [PROGRAMS / "lint-imports", "--config", config, "--no-cache", "--no-logo"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(folder / half) for half in ROOTS.values()),
            "COLUMNS": "500",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    _, _, broken = done.stdout.partition("Broken contracts\n")
    sections = re.split(r"^(.+)\n-+\n", broken, flags=re.MULTILINE)[1:]
    return dict(zip(sections[::2], sections[1::2], strict=True))
