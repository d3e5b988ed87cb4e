"""MODEL_ZOO.md: the table in the form of the page of 2019, its sections, columns and notes in their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubedet_trainer.recipes import comparison
from kubedet_trainer.reports.zoo import views

Document = Mapping[str, Any]

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")
COMMON = (
    "The published rows were trained on 8 GPUs with 16 images per step, on train2017 of COCO, and tested on "
    "its val2017, with BN statistics fixed. Rows of other hardware or data say so.",
    "1x has 12 epochs, 2x has 24. Backbones of style pytorch start from torchvision's weights, those of "
    "style caffe from weights converted from Detectron.",
    "Memory is the most of all GPUs, by `torch.cuda.max_memory_reserved()` (called `max_memory_cached()` in "
    "2019). `nvidia-smi` shows more.",
    "Inf time has loading, the network and post-processing, on one GPU at batch size 1.",
    "Cells show ours, with ± the standard deviation of repeats. *Published* has the figures of 2019, "
    "*Difference* ours minus published where they can be compared.",
)
"""What holds for all tables."""
_PUBLISHED_HARDWARE = "Of 2019: 8 NVIDIA Tesla V100 GPUs, Intel Xeon 4114 CPU @ 2.20GHz"
_PUBLISHED_SOFTWARE = (
    "Of 2019: Python 3.6 / 3.7, PyTorch 1.0 (times of training: 0.4.1), CUDA 9.0.176, CUDNN 7.0.4, "
    "NCCL 2.1.15"
)


def render(document: Document, *, folder: str) -> str:
    """The table as Markdown. `folder` is the URI of the page's folder."""
    return "\n".join(
        [
            "# Benchmark and Model Zoo",
            "",
            *_environment(document),
            *_mirrors(folder),
            "## Common settings",
            *_list(COMMON),
            "## Baselines",
            "",
            *_summary(document),
            *(line for table in views.tables(document) for line in _section(table, folder)),
            *_comparison(document),
        ]
    )


def text(value: object) -> str:
    """A value as text of Markdown, whatever it holds: no markup, no HTML, no line breaks."""
    plain = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _environment(document: Document) -> Iterator[str]:
    environment = document["environment"]
    yield "## Environment"
    yield ""
    yield "### Hardware"
    counted = [f"{text(name)}: {count} rows" for name, count in environment["hardware"].items()]
    yield from _list([*(counted or ["no row has been measured"]), _PUBLISHED_HARDWARE])
    yield "### Software environment"
    software = [
        f"{text(package)} {', '.join(map(text, versions))}"
        for package, versions in environment["software"].items()
    ]
    images = [f"image {text(image)}" for image in environment["images"]]
    yield from _list([*software, *images, _PUBLISHED_SOFTWARE])


def _mirrors(folder: str) -> Iterator[str]:
    main, *others = views.mirrors()
    yield "## Mirror sites"
    yield ""
    yield (
        f"Our weights, reports and logs are in `{folder}`. The weights of 2019 are linked at <{main}>; "
        f"{' and '.join(f'<{other}>' for other in others)} have the same files under the same paths."
    )
    yield ""


def _summary(document: Document) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in document["counts"].items())
    yield f"{len(document['rows'])} rows: {counts}."
    for item in document.get("differences", ()):
        error = item.get("standardError")
        spread = f" ± {error:.3f}" if error is not None else ""
        yield (
            f"Mean difference of {views.column_of(item['figure'])} from the published figures: "
            f"{item['mean']:+.3f}{spread} over {item['rows']} rows (± is the standard error)."
        )
    yield ""


def _section(table: views.Table, folder: str) -> Iterator[str]:
    section = table.section
    yield f"### {section.heading}"
    yield ""
    yield from _table(
        [
            *section.columns,
            *(views.column_of(figure) for figure in table.figures),
            "Published",
            "Difference",
            "Verdict",
            "Download",
        ],
        [_row(table, row, folder) for row in table.rows],
    )
    remarks = [f"{text(row['recipe'])}: {text(said)}" for row in table.rows for said in views.remarks(row)]
    if notes := [*section.notes, *remarks]:
        yield "**Notes:**"
        yield from _list(notes)


def _row(table: views.Table, row: Mapping[str, Any], folder: str) -> list[str]:
    cells = {figure: views.cell(row, figure) for figure in table.figures}
    precisions = [cells[figure] for figure in table.section.precisions if figure in cells]
    return [
        *map(text, views.identity(table.section, row)),
        *(item.ours for item in cells.values()),
        " / ".join(item.published for item in precisions if item.published) or "-",
        " / ".join(item.difference for item in precisions if item.difference) or "-",
        row.get("verdict") or row["phase"],
        " &#124; ".join(_links(row, folder)) or "-",
    ]


def _links(row: Mapping[str, Any], folder: str) -> Iterator[str]:
    for link in views.links(row, folder=folder):
        yield f"[{link.text}](<{link.address}>)" if link.address else f"{link.text}: `{_code(link.title)}`"
    if address := row.get("publishedWeights"):
        yield f"[2019](<{address}>)"


def _code(value: str) -> str:
    return " ".join(value.split()).replace("`", "'").replace("|", "%7C").replace("<", "%3C")


def _comparison(document: Document) -> Iterator[str]:
    yield "## Comparison with Detectron and Detectron.pytorch"
    yield ""
    yield (
        "R-50-FPN on COCO. Detectron and Detectron.pytorch have caffe's ResNet. Their figures and those of "
        "mmdetection are those of the page of 2019; kubedet's are the rows above."
    )
    yield ""
    yield "### Performance"
    yield ""
    yield "Box AP, or box AP & mask AP, or AR1000; pytorch style / caffe style."
    yield ""
    yield from _table(
        ["Type", "Lr schd", "Detectron", "Detectron.pytorch", "mmdetection", "kubedet"],
        views.accuracy_rows(document),
    )
    for heading, rows, figure, said in (
        (
            "Training Speed",
            comparison.TRAINING_SECONDS,
            "secondsPerIteration",
            "Seconds of a step of 16 images. Lower is better.",
        ),
        (
            "Inference Speed",
            comparison.INFERENCE_FPS,
            "inferenceFps",
            "Images per second of one GPU. Higher is better.",
        ),
    ):
        yield f"### {heading}"
        yield ""
        yield f"{said} kubedet: on the hardware above."
        yield ""
        yield from _table(
            ["Type", "Detectron (P100)", "Detectron.pytorch (XP)", "mmdetection (V100 / XP)", "kubedet"],
            views.speed_rows(document, rows, figure),
        )
    yield "### Training memory"
    yield ""
    yield "Mask R-CNN with 2 images per GPU, by `nvidia-smi`, in GB; kubedet's is the allocator's peak."
    yield ""
    memory = comparison.TRAINING_MEMORY_GB
    yield from _table(
        ["Type", *memory, "kubedet"],
        [["Mask R-CNN", *map(str, memory.values()), views.mask_memory(document)]],
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _line(headings)
    yield _line([":---:"] * len(headings))
    yield from map(_line, rows)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(items: Iterable[str]) -> Iterator[str]:
    yield ""
    yield from (f"- {item}" for item in items)
    yield ""
