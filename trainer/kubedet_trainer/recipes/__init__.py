"""Every recipe by name. Importing this costs milliseconds: it never imports torch."""

from collections.abc import Callable
from functools import partial

from kubedet_trainer.config import Recipe
from kubedet_trainer.errors import InvalidInput, did_you_mean
from kubedet_trainer.recipes.faster_rcnn import faster_rcnn
from kubedet_trainer.recipes.rpn import rpn
from kubedet_trainer.recipes.smoke import smoke_faster_rcnn, smoke_rpn

RECIPES: dict[str, Callable[[], Recipe]] = {
    "rpn_r50_caffe_fpn_1x": partial(rpn, depth=50, style="caffe", schedule="1x"),
    "rpn_r50_fpn_1x": partial(rpn, depth=50, style="pytorch", schedule="1x"),
    "rpn_r50_fpn_2x": partial(rpn, depth=50, style="pytorch", schedule="2x"),
    "faster_rcnn_r50_caffe_fpn_1x": partial(faster_rcnn, depth=50, style="caffe", schedule="1x"),
    "faster_rcnn_r50_fpn_1x": partial(faster_rcnn, depth=50, style="pytorch", schedule="1x"),
    "faster_rcnn_r50_fpn_2x": partial(faster_rcnn, depth=50, style="pytorch", schedule="2x"),
    "smoke_faster_rcnn": smoke_faster_rcnn,
    "smoke_rpn": smoke_rpn,
}
"""Name to the function that makes it."""


def read_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InvalidInput: there is none; the message names the nearest.
    """
    if name not in RECIPES:
        raise InvalidInput(
            f"recipe: got '{name}', must be one that `kubedet recipes` lists.{did_you_mean(name, RECIPES)}"
        )
    return RECIPES[name]()
