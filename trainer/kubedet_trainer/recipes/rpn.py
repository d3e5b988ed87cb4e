"""Region proposal networks of the zoo (`zoo.md` 4)."""

from __future__ import annotations

from kubedet_trainer.config import Recipe, RpnConfig
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common


def rpn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """A proposal network, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "rpn",
        RpnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        evaluation_kind="proposal",
    )
