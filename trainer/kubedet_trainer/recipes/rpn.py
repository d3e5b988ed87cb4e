"""Region proposal networks of the zoo."""

from __future__ import annotations

from kubedet_trainer.config import Recipe, RpnConfig
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.published import PUBLISHED


def rpn(*, depth: int, style: Style, schedule: str) -> Recipe:
    """A proposal network on a ResNet of `depth` layers, trained for one of `common.SCHEDULES`."""
    name = common.recipe_name("rpn", depth=depth, style=style, schedule=schedule)
    return Recipe(
        name=name,
        model=RpnConfig(backbone=common.resnet(depth, style)),
        data=common.coco_data(style),
        schedule=common.SCHEDULES[schedule],
        pretrained=common.STYLES[style].weights[depth],
        evaluation_kind="proposal",
        reference=PUBLISHED[name].as_results(),
    )
