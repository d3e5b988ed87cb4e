"""The command `kubedet`: one name for both halves, which are imported only when a command needs them.

The table below is all that ``kubedet --help`` reads, so that it answers at once and works with either half
installed; a command's own module is imported by name when it is run or asked for its help.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

_EXTRAS = {"kubedet_trainer": "trainer", "kubedet_operator": "operator"}
"""Package -> what installs all that its commands need."""

_COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "kubedet_trainer.commands.train:train",
        "Train a recipe on this machine and print its row of the zoo.",
    ),
    "evaluate": (
        "kubedet_trainer.commands.inference:evaluate",
        "Measure the precision of a checkpoint on a data set.",
    ),
    "predict": (
        "kubedet_trainer.commands.inference:predict",
        "Detect objects in pictures; draws them, writes COCO JSON.",
    ),
    "propose": (
        "kubedet_trainer.commands.inference:propose",
        "Write a proposal network's proposals, for Fast R-CNN.",
    ),
    "benchmark": (
        "kubedet_trainer.commands.benchmark:benchmark",
        "Measure a recipe's speed and memory on this machine.",
    ),
    "publish": (
        "kubedet_trainer.commands.publish:publish",
        "Write a checkpoint's weights as the zoo publishes them.",
    ),
    "check-data": (
        "kubedet_trainer.commands.data:check_data",
        "List everything that is wrong with a data set.",
    ),
    "recipes": ("kubedet_trainer.commands.zoo:recipes", "List the recipes, or print one completely."),
    "run": ("kubedet_operator.commands.jobs:run", "Run a DetectionJob on this machine, without a cluster."),
    "render": (
        "kubedet_operator.commands.jobs:render",
        "Print the pods and services that a job would become.",
    ),
    "explain": ("kubedet_operator.commands.jobs:explain", "Say what a field of a job is for, and its rules."),
    "crds": ("kubedet_operator.commands.jobs:crds", "Print the CustomResourceDefinitions."),
}
"""Command -> where it is defined, and what it is for."""


class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing_extra(error, module=module) from error
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments[0] not in _COMMANDS and not arguments[0].startswith("-"):
            context.fail(f"No such command '{arguments[0]}'.{_nearest(arguments[0])}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in _COMMANDS.items()])

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ModuleNotFoundError as error:
            if context.invoked_subcommand not in _COMMANDS:  # not of an import within a command
                raise
            module = _COMMANDS[context.invoked_subcommand][0].partition(":")[0]
            raise _missing_extra(error, module=module) from error


def _missing_extra(error: ModuleNotFoundError, *, module: str) -> click.ClickException:
    """A clear line where an optional dependency is absent; a module of ours that is absent is a bug."""
    if error.name is None or error.name.startswith("kubedet_"):
        raise error
    extra = _EXTRAS[module.partition(".")[0]]
    return click.UsageError(f"module '{error.name}' is not installed: pip install 'kubedet[{extra}]'")


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # only on the way out

    near = get_close_matches(name, _COMMANDS, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _print_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"kubedet {version('kubedet')}")
        context.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Train object detectors, on this machine or on Kubernetes.

    \b
    Examples:
      kubedet train smoke_faster_rcnn --dataset synthetic://shapes?images=200
      kubedet run job.yaml
      kubedet render job.yaml | kubectl diff -f -
    """


if __name__ == "__main__":
    sys.exit(main())
