"""The root of the command: what it imports, how it refuses, that it answers without its halves."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points, metadata

import click
import pytest
from click.testing import CliRunner

from kubedet_trainer.commands import kubedet

RECORDER = """
import sys
from kubedet_trainer.commands.kubedet import main
try:
    main({arguments}, standalone_mode=True)
except SystemExit as ending:
    print("exit", ending.code)
print("imported", sorted(name for name in {names} if name in sys.modules))
"""


def run_recording(arguments: list[str], names: list[str]) -> list[str]:
    code = RECORDER.format(arguments=arguments, names=names)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.splitlines()


def test_help_lists_every_command_and_imports_neither_half() -> None:
    lines = run_recording(
        ["--help"],
        [
            "kubedet_trainer.commands.train",
            "kubedet_trainer.contract",
            "kubedet_operator.commands.jobs",
            "torch",
            "kopf",
            "yaml",
            "rich",
            "numpy",
        ],
    )
    assert lines[-2:] == ["exit 0", "imported []"]
    for command in ("train", "evaluate", "predict", "check-data", "recipes", "run", "render", "crds"):
        assert any(line.startswith(f"  {command} ") for line in lines)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "check-data", "recipes"])
def test_help_of_a_trainer_command_imports_no_kopf_and_no_torch(command: str) -> None:
    lines = run_recording(
        [command, "--help"], ["torch", "kopf", "kubernetes", "kubedet_operator.commands.jobs"]
    )
    assert lines[-2:] == ["exit 0", "imported []"]


@pytest.mark.parametrize("command", ["run", "render", "crds"])
def test_help_of_an_operator_command_imports_no_torch(command: str) -> None:
    lines = run_recording([command, "--help"], ["torch", "numpy", "kubedet_trainer.commands.options"])
    assert lines[-2:] == ["exit 0", "imported []"]


def test_every_command_of_both_tables_is_there_under_its_name() -> None:
    group = kubedet.main
    assert isinstance(group, click.Group)
    context = click.Context(group)
    names = group.list_commands(context)
    assert {"train", "run"} <= set(names)
    for name in names:
        command = group.get_command(context, name)
        assert isinstance(command, click.Command)
        assert command.name == name


def test_a_table_is_named_after_an_extra_that_pip_knows() -> None:
    tables = entry_points(group="kubedet.commands")
    assert {table.name for table in tables} == {"operator", "trainer"}
    assert tables.names <= set(metadata("kubedet").get_all("Provides-Extra", []))


def test_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(kubedet.main, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'. Did you mean 'train'?" in result.stderr


def test_unknown_option_is_a_usage_error() -> None:
    result = CliRunner().invoke(kubedet.main, ["--verbos"])
    assert result.exit_code == 2
    assert "--verbos" in result.stderr


def test_version_is_that_of_the_distribution() -> None:
    result = CliRunner().invoke(kubedet.main, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("kubedet 0.")


def test_missing_extra_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(importlib, "import_module", import_module)
    result = CliRunner().invoke(kubedet.main, ["train"])
    assert result.exit_code == 2
    assert "module 'torch' is not installed: pip install 'kubedet[trainer]'" in result.stderr


def test_missing_extra_within_a_command_is_reported_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def run() -> None:
        raise ModuleNotFoundError("No module named 'kubernetes'", name="kubernetes")

    monkeypatch.setattr(importlib, "import_module", lambda name: type("Module", (), {"run": run}))
    result = CliRunner().invoke(kubedet.main, ["run"])
    assert result.exit_code == 2
    assert "pip install 'kubedet[operator]'" in result.stderr


def test_a_module_of_ours_that_is_missing_is_a_bug_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    result = CliRunner().invoke(kubedet.main, ["train"])
    assert isinstance(result.exception, ModuleNotFoundError)
