"""The zoo as text for a terminal: its catalogue, and its comparison with others and what was measured.

Written with plain strings, since importing a library for tables takes longer than all the rest.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kubedet_trainer.recipes import catalogue, comparison
from kubedet_trainer.recipes.catalogue import Entry
from kubedet_trainer.recipes.comparison import Quality, SpeedRow
from kubedet_trainer.recipes.published import PUBLISHED

_COLUMNS = {
    "memoryGB": ("Mem", 2),
    "secondsPerIteration": ("s/it", 3),
    "inferenceFps": ("fps", 1),
    "inferenceFpsBatch8": ("fps@8", 1),
    "boxAP": ("box AP", 1),
    "maskAP": ("mask AP", 1),
    "ar1000": ("AR1000", 1),
}
"""Figure to heading and decimals."""
_DISPENSABLE = "inferenceFpsBatch8"
"""Left out where the terminal is too narrow: only SSD has it."""
_WIDE_GAP = 2
_CATALOGUE_NOTE = (
    "Figures of MMDetection's model zoo of February 2019, on 8 V100. Mem: peak GB of one GPU, reserved "
    "(gn, dcn: allocated). s/it: seconds of a training iteration. fps: images a second, loading and "
    "post-processing included; fps@8 at batch 8. On PASCAL VOC box AP is the 11-point mAP at IoU 0.5."
)
_COMPARISON_NOTE = (
    "Detectron and Detectron.pytorch have caffe's ResNet, the zoo pytorch's where nothing else is said. "
    "P100, XP and V100 are the GPUs. Figures of others are those of the zoo's page of February 2019."
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The results of a run of ours."""

    results: Mapping[str, Any]
    """As `contract.Results`."""
    file: Path
    """Where they were read."""


def catalogue_text(entries: Sequence[Entry], *, width: int) -> str:
    """The recipes with their figures, section by section, for a terminal of `width` characters."""
    shown = [name for name in _COLUMNS if any(name in entry.recipe.reference for entry in entries)]
    rows = [_catalogue_row(entry, shown) for entry in entries]
    if _DISPENSABLE in shown and _needed(rows, shown, gap=_WIDE_GAP) > width:
        shown.remove(_DISPENSABLE)
        rows = [_catalogue_row(entry, shown) for entry in entries]
    gap = _WIDE_GAP if _needed(rows, shown, gap=_WIDE_GAP) <= width else 1
    heading, *lines = _align([_headings(shown), *rows], gap=gap)
    parts = [click.style(heading, bold=True)]
    for section, pairs in itertools.groupby(zip(entries, lines, strict=True), lambda pair: pair[0].section):
        parts += ["", click.style(catalogue.section_title(section), bold=True)]
        parts += [line for _, line in pairs]
    note = textwrap.fill(_CATALOGUE_NOTE, width=min(width, 110))
    return "\n".join([*parts, *(["", click.style(note, dim=True)] if shown else [])])


def comparison_text(measured: Mapping[str, Measured], *, width: int) -> str:
    """The page's comparisons and `measured` (recipe to results), for a terminal of `width` characters."""
    ours = [f"{name}: {_machine(item)}, {item.file}" for name, item in measured.items()]
    blocks = [
        _titled("Box AP / mask AP, or AR of 1000 proposals, in percent", _accuracy_rows(measured)),
        _titled(
            "Seconds of a training iteration of 16 images",
            _speed_rows(comparison.TRAINING_SECONDS, "secondsPerIteration", measured),
        ),
        _titled(
            "Images a second at batch 1",
            _speed_rows(comparison.INFERENCE_FPS, "inferenceFps", measured),
        ),
        click.style(textwrap.fill(_COMPARISON_NOTE, width=min(width, 110)), dim=True),
        "\n".join(
            ["Ours:", *ours] if ours else ["Ours: nothing was measured; --results names folders of runs."]
        ),
    ]
    return "\n\n".join(blocks)


def _catalogue_row(entry: Entry, shown: Sequence[str]) -> list[str]:
    reference = entry.recipe.reference
    return [
        entry.recipe.name,
        *(f"{reference[name]:.{_COLUMNS[name][1]}f}" if name in reference else "" for name in shown),
    ]


def _headings(shown: Sequence[str]) -> list[str]:
    return ["Recipe", *(_COLUMNS[name][0] for name in shown)]


def _needed(rows: Sequence[Sequence[str]], shown: Sequence[str], *, gap: int) -> int:
    return len(_align([_headings(shown), *rows], gap=gap)[0])


def _align(rows: Sequence[Sequence[str]], *, gap: int) -> list[str]:
    """Rows of cells as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * gap)
        .join(
            cell.rjust(size) if number else cell.ljust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]


def _titled(title: str, rows: Iterable[Sequence[str]]) -> str:
    first, second, *lines = _align(list(rows), gap=_WIDE_GAP)
    return (
        "\n".join(click.style(line, bold=True) for line in (title, first, second)) + "\n" + "\n".join(lines)
    )


def _accuracy_rows(measured: Mapping[str, Measured]) -> Iterator[list[str]]:
    yield ["", "Detectron", "Detectron", "Zoo", "Zoo", "Ours", "Ours"]
    yield ["", "", ".pytorch", "", "caffe", "", "caffe"]
    for row in comparison.ACCURACY:
        recipes = (row.recipe, row.caffe_recipe)
        yield [
            f"{row.method} {row.schedule}",
            *(_quality(quality) for quality in (row.detectron, row.detectron_pytorch)),
            *(_published_quality(recipe) for recipe in recipes),
            *(_measured_quality(measured.get(recipe)) for recipe in recipes),
        ]


def _speed_rows(
    rows: Sequence[SpeedRow], figure: str, measured: Mapping[str, Measured]
) -> Iterator[list[str]]:
    yield ["", "Detectron", "Detectron", "Zoo", "Zoo", "Ours"]
    yield ["", "P100", ".pytorch XP", "V100", "XP", ""]
    decimals = _COLUMNS[figure][1]
    for row in rows:
        recipe = f"{row.method}_r50_fpn_1x"
        ours = measured[recipe].results.get(figure) if recipe in measured else None
        values = (
            row.detectron_p100,
            row.detectron_pytorch_xp,
            PUBLISHED[recipe].as_results()[figure],
            row.zoo_xp,
            ours,
        )
        yield [row.method, *("-" if value is None else f"{value:.{decimals}f}" for value in values)]


def _published_quality(recipe: str) -> str:
    if (row := PUBLISHED.get(recipe)) is None:
        return _quality(None)
    return _quality(Quality(box_ap=row.box_ap, mask_ap=row.mask_ap, ar1000=row.ar1000))


def _measured_quality(item: Measured | None) -> str:
    results = item.results if item else {}
    return _quality(
        Quality(box_ap=results.get("boxAP"), mask_ap=results.get("maskAP"), ar1000=results.get("ar1000"))
    )


def _quality(quality: Quality | None) -> str:
    values = (quality.ar1000, quality.box_ap, quality.mask_ap) if quality else ()
    return "/".join(f"{value:.1f}" for value in values if value is not None) or "-"


def _machine(item: Measured) -> str:
    hardware = item.results.get("hardware", {})
    return f"{hardware.get('worldSize', '?')} x {hardware.get('accelerator', '?')}"
