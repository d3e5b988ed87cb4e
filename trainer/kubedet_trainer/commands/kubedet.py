"""The command `kubedet`: one name for both halves, which are imported only when a command needs them.

Each half lists its commands in a table of text, which it publishes as an entry point. The tables are all that
``kubedet --help`` reads, so it is fast and needs the dependencies of neither half. A command's module
is imported by name when the command is run or asked for its help.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import Any

import click

_GROUP = "kubedet.commands"
"""The group of entry points; each is named after the extra that installs what its commands need."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A command as the tables describe it."""

    module: str
    attribute: str
    purpose: str
    extra: str


def _read_tables() -> dict[str, _Entry]:
    entries = {}
    for table in distribution("kubedet").entry_points.select(group=_GROUP):
        for name, (target, purpose) in table.load().items():
            module, _, attribute = target.partition(":")
            entries[name] = _Entry(module=module, attribute=attribute, purpose=purpose, extra=table.name)
    return entries


class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._entries = _read_tables()

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        except ModuleNotFoundError as error:
            raise _missing_extra(error, extra=entry.extra) from error
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name not in self._entries and not name.startswith("-"):
            from kubedet_trainer.contract.nearest import did_you_mean  # `--help` does without

            context.fail(f"No such command '{name}'.{did_you_mean(name, self._entries)}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.purpose) for name, entry in self._entries.items()])

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ModuleNotFoundError as error:
            entry = self._entries.get(context.invoked_subcommand or "")
            if entry is None:  # not an import within a command
                raise
            raise _missing_extra(error, extra=entry.extra) from error


def _missing_extra(error: ModuleNotFoundError, *, extra: str) -> click.ClickException:
    """A clear message if a dependency is not installed. A missing module of this project is a bug."""
    if error.name is None or error.name.startswith("kubedet_"):
        raise error
    return click.UsageError(f"module '{error.name}' is not installed: pip install 'kubedet[{extra}]'")


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kubedet", prog_name="kubedet", message="%(prog)s %(version)s")
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
