"""Commands about the zoo: its recipes and their figures."""

from __future__ import annotations

import json

import click

from kubedet_trainer import options
from kubedet_trainer.recipes import RECIPES, read_recipe


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table or YAML.")
@options.ends_with_contract_code
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes with their published figures, or print the recipe NAME completely.

    \b
    Examples:
      kubedet recipes
      kubedet recipes faster_rcnn_r50_fpn_1x
    """
    import yaml

    from kubedet_trainer import config

    if name is not None:
        document = config.recipe_to_dict(read_recipe(name))
        click.echo(
            json.dumps(document, indent=2) if as_json else yaml.safe_dump(document, sort_keys=False),
            nl=as_json,
        )
    elif as_json:
        click.echo(json.dumps([config.recipe_to_dict(make()) for make in RECIPES.values()], indent=2))
    else:
        from rich.console import Console

        from kubedet_trainer import terminal

        Console().print(terminal.zoo_table([(recipe, make().reference) for recipe, make in RECIPES.items()]))
