"""Commands for the zoo: its recipes and their figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kubedet_trainer import contract
from kubedet_trainer.commands import options
from kubedet_trainer.errors import InvalidInput, UsageError
from kubedet_trainer.recipes import read_recipe

_Command = TypeVar("_Command", bound=Callable[..., Any])

_CHOICES = {
    "method": "Such as mask_rcnn. Can be repeated, like the next five.",
    "backbone": "r50, r101, x101_32x4d, x101_64x4d or vgg16.",
    "style": "pytorch or caffe.",
    "schedule": "1x, 2x, 3x, 20e, 120e or 240e.",
    "dataset": "coco or voc.",
    "section": "Table of the zoo's page, such as gn or dcn. smoke has the small recipes.",
}


def _choice_options(command: _Command) -> _Command:
    for name, purpose in reversed(_CHOICES.items()):
        command = click.option(f"--{name}", multiple=True, metavar="NAME", help=purpose)(command)
    return command


@click.command()
@click.argument("name", required=False)
@_choice_options
@click.option("--published", is_flag=True, help="Only recipes whose weights the zoo published.")
@click.option(
    "--compare", is_flag=True, help="Compare the zoo with Detectron, Detectron.pytorch and your runs."
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    multiple=True,
    default=[Path("runs")],
    show_default=True,
    help="Folder with runs for --compare. Can be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@options.ends_with_contract_code
def recipes(
    name: str | None,
    published: bool,
    compare: bool,
    results: tuple[Path, ...],
    as_json: bool,
    **chosen: tuple[str, ...],
) -> None:
    """List the recipes with their published figures, or print the recipe NAME in full.

    NAME may be a recipe of your own, module:attribute, or a module, of which all recipes are listed.

    \b
    Examples:
      kubedet recipes
      kubedet recipes --method mask_rcnn --backbone r50 --schedule 1x --schedule 2x
      kubedet recipes faster_rcnn_r50_fpn_1x
      kubedet recipes my_package.recipes
      kubedet recipes --compare --results runs
    """
    from kubedet_trainer.commands import zoo_text
    from kubedet_trainer.recipes import catalogue

    if sum((name is not None, compare, published or any(chosen.values()))) > 1:
        raise UsageError("recipes: got several of NAME, --compare and filters, must be only one of them")
    width = shutil.get_terminal_size().columns
    if compare:
        click.echo(zoo_text.comparison_text(_read_results(results), width=width))
        return
    if name is None:
        entries = catalogue.select_entries(chosen, is_published=published)
    elif catalogue.is_module(name):
        entries = catalogue.list_module(name)
    else:
        click.echo(_recipe_text(name, as_json=as_json), nl=as_json)
        return
    if as_json:
        click.echo(json.dumps([entry.as_document() for entry in entries], indent=2))
    else:
        click.echo(zoo_text.catalogue_text(entries, width=width))


def _recipe_text(name: str, *, as_json: bool) -> str:
    from kubedet_trainer import config

    document = config.recipe_to_dict(read_recipe(name))
    if as_json:
        return json.dumps(document, indent=2)
    import yaml  # takes as long as the rest

    text: str = yaml.safe_dump(document, sort_keys=False)
    return text


def _read_results(folders: tuple[Path, ...]) -> dict[str, Any]:
    """Recipe to its newest results, in `folders` and up to two levels below.

    Raises:
        InvalidInput: a file is not a valid {contract.RESULTS_FILE}.
    """
    from kubedet_trainer.commands.zoo_text import Measured
    from kubedet_trainer.reports import document

    places = [f"{depth}{contract.RESULTS_FILE}" for depth in ("", "*/", "*/*/")]
    files = {file for folder in folders for place in places for file in folder.glob(place)}
    found = {}
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        try:
            report = document.parse(file.read_bytes(), name=str(file))
        except InvalidInput as error:
            raise InvalidInput(f"--results: {error}") from error
        if "run" not in report or "endTime" in report["run"]:  # the others have no row yet
            found[report["recipe"]] = Measured(results=report, file=file)
    return found
