"""One check refuses every value by what its field says, at the path where its part hangs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import pytest

from kubedet_trainer.config import Recipe, apply_overrides
from kubedet_trainer.config.fields import check
from kubedet_trainer.contract.bounds import Bounds, bounded, bounds_of
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.options.two_stage import BoxHeadOptions
from kubedet_trainer.recipes import RECIPES, read_recipe


@dataclass(frozen=True, kw_only=True)
class _Part:
    count: int = bounded(default=1, minimum=1)
    share: float = bounded(default=0.5, minimum=0, maximum=1)
    momentum: float = bounded(default=0.9, minimum=0, exclusive_maximum=1)
    limit: float | None = bounded(default=None, exclusive_minimum=0)
    sides: tuple[float, ...] = bounded(default=(1.0,), exclusive_minimum=0, min_items=1)
    size: tuple[int, int] = bounded(default=(2, 1), minimum=1)
    ratios: tuple[Literal[2, 3], ...] = (2,)
    kind: Literal["align", "deformable"] = "align"
    is_used: bool = True
    name: str = ""
    classes: tuple[str, ...] = ()

    def breaches(self) -> Iterator[tuple[str, str]]:
        if self.size[0] < self.size[1]:
            yield "size", "must be (longest, shortest)"


@dataclass(frozen=True, kw_only=True)
class _RoiHead:
    box_head: BoxHeadOptions
    part: _Part = _Part()


@dataclass(frozen=True, kw_only=True)
class _Whole:
    roi_head: _RoiHead

    def breaches(self) -> Iterator[tuple[str, str]]:
        if self.roi_head.part.is_used is False:
            yield "roi_head.part.is_used", "must be True"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count: got 0, must be >= 1"),
        ({"count": 1.5}, "count: got 1.5, must be a whole number"),
        ({"count": True}, "count: got True, must be a whole number"),
        ({"share": 1.5}, "share: got 1.5, must be from 0 to 1"),
        ({"share": "0.5"}, "share: got '0.5', must be a finite number"),
        ({"share": float("nan")}, "share: got nan, must be a finite number"),
        ({"momentum": 1}, "momentum: got 1, must be >= 0 and < 1"),
        ({"limit": 0.0}, "limit: got 0.0, must be > 0"),
        ({"sides": ()}, "sides: got (), must be numbers > 0"),
        ({"sides": (1.0, 0.0)}, "sides: got (1.0, 0.0), must be numbers > 0"),
        ({"sides": 1.0}, "sides: got 1.0, must be numbers > 0"),
        ({"size": (1,)}, "size: got (1,), must be 2 numbers >= 1"),
        ({"size": (1, 2)}, "size: got (1, 2), must be (longest, shortest)"),
        ({"ratios": (2, 4)}, "ratios: got (2, 4), must be each one of 2, 3"),
        ({"kind": "algn"}, "kind: got 'algn', must be one of align, deformable. Did you mean 'align'?"),
        ({"is_used": 1}, "is_used: got 1, must be true or false"),
        ({"classes": (1,)}, "classes: got (1,), must be names"),
        ({"name": None}, "name: got None, must be text"),
    ],
)
def test_value_is_refused_with_its_path_and_the_rule_of_its_field(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(_Part(**values), path="model.part")

    assert str(refused.value) == f"model.part.{message}"


@pytest.mark.parametrize("values", [{}, {"limit": 3}, {"share": 1}, {"momentum": 0}, {"ratios": ()}])
def test_value_within_its_bounds_is_taken(values: dict[str, Any]) -> None:
    check(_Part(**values), path="model.part")


def test_path_is_that_of_the_place_where_a_part_hangs() -> None:
    whole = _Whole(roi_head=_RoiHead(box_head=BoxHeadOptions(num_fcs=0)))

    with pytest.raises(InvalidInput, match=r"^roi_head\.box_head\.num_fcs: got 0, must be >= 1$"):
        check(whole)
    with pytest.raises(InvalidInput, match=r"^model\.roi_head\.box_head\.num_fcs: got 0, must be >= 1$"):
        check(whole, path="model")


def test_rule_across_parts_names_the_field_that_lies_deeper() -> None:
    whole = _Whole(roi_head=_RoiHead(box_head=BoxHeadOptions(), part=_Part(is_used=False)))

    with pytest.raises(InvalidInput, match=r"^roi_head\.part\.is_used: got False, must be True$"):
        check(whole)


def test_part_of_another_type_is_refused() -> None:
    recipe = read_recipe("smoke_rpn")

    with pytest.raises(InvalidInput, match=r"^data: got .*, must be a DataConfig$"):
        replace(recipe, data=recipe.schedule)  # type: ignore[arg-type]


def _numbers(part: Any, path: str) -> Iterator[tuple[str, Any, Bounds]]:
    for item in fields(part):
        value = getattr(part, item.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{path}{item.name}.")
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield f"{path}{item.name}", value, bounds_of(item)


def _within(part: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    return replace(part, **{path[0]: _within(getattr(part, path[0]), path[1:], value)})


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("smoke")])
def test_every_bound_of_a_recipe_is_kept(name: str) -> None:
    recipe = read_recipe(name)
    bounded_fields = 0
    for path, value, bounds in _numbers(recipe, ""):
        if bounds.minimum is None and bounds.exclusive_minimum is None:
            continue
        bounded_fields += 1
        low = bounds.exclusive_minimum if bounds.minimum is None else bounds.minimum - 1
        broken = (low,) * len(value) if isinstance(value, tuple) else low
        with pytest.raises(InvalidInput, match=rf"^{path}: got "):
            _within(recipe, path.split("."), broken)

    assert bounded_fields > 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"data.scale_jitter": "1.5,0.5"},
            r"data\.scale_jitter: got \(1\.5, 0\.5\), must be \(least, largest\)",
        ),
        (
            {"data.scale_jitter": "0.5,5"},
            r"data\.scale_jitter: got \(0\.5, 5\.0\), must be 2 numbers > 0 and <= 4",
        ),
        (
            {"data.scale_jitter": "0.5,2", "data.keep_aspect": "false"},
            r"data\.scale_jitter: .* must be 1\.0,1\.0",
        ),
        (
            {"data.colours.contrast": "1.5,0.5"},
            r"data\.colours\.contrast: got \(1\.5, 0\.5\), must be \(least",
        ),
        ({"data.colours.hue": "181"}, r"data\.colours\.hue: got 181\.0, must be from 0 to 180"),
        ({"data.balance_threshold": "0"}, r"data\.balance_threshold: got 0\.0, must be > 0 and <= 1"),
    ],
)
def test_augmentation_and_balance_must_make_sense(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        apply_overrides(read_recipe("smoke_faster_rcnn"), overrides)


def test_colours_and_scales_suit_masks() -> None:
    overrides = {"data.colours.brightness": "32", "data.scale_jitter": "0.8,1.25"}
    recipe = apply_overrides(read_recipe("smoke_mask_rcnn"), overrides)
    assert recipe.data.colours.brightness == 32
    assert recipe.data.scale_jitter == (0.8, 1.25)


def test_data_config_refuses_what_masks_cannot_be_learnt_with() -> None:
    recipe: Recipe = read_recipe("smoke_mask_rcnn")
    data = replace(recipe.data, augmentation="ssd")
    with pytest.raises(InvalidInput, match=r"^data.augmentation: got 'ssd', must be flip"):
        replace(recipe, data=data)
