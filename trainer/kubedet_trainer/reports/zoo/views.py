"""What the page and MODEL_ZOO.md show of a table: plain values, which templates and tables lay out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kubedet_trainer.contract.comparison import PRECISIONS
from kubedet_trainer.recipes import comparison
from kubedet_trainer.recipes.published import PUBLISHED
from kubedet_trainer.recipes.published_files import MIRRORS
from kubedet_trainer.reports import views
from kubedet_trainer.reports.zoo.document import FIGURES, figures_of
from kubedet_trainer.reports.zoo.sections import CELLS, MEASURED, SECTIONS, Section

Document = Mapping[str, Any]
Row = Mapping[str, Any]

VERDICTS = ("Equal", "Above", "Below", "NotComparable")
_MACHINE = ("memoryGB", "secondsPerIteration", "inferenceFps")
SPEEDS = (
    ("Seconds of a step of 16 images", comparison.TRAINING_SECONDS, "secondsPerIteration"),
    ("Images per second", comparison.INFERENCE_FPS, "inferenceFps"),
)
"""Heading, rows and figure of each comparison of speed."""
_TYPES = {
    "rpn": "RPN",
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "fast_rcnn": "Fast R-CNN",
    "fast_mask_rcnn": "Fast R-CNN (w/mask)",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure of a row as text. What there is nothing of is empty."""

    ours: str = "-"
    published: str = ""
    difference: str = ""
    verdict: str = ""
    ratio: str = ""
    value: float = -1.0
    """To sort by."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where something is. Without an address a browser cannot open it."""

    text: str
    title: str
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One section with its rows."""

    key: str
    section: Section
    figures: tuple[str, ...]
    rows: list[Row]


def tables(document: Document) -> Iterator[Table]:
    """The sections that have rows, in the order of the page."""
    for key, section in SECTIONS.items():
        rows = [row for row in document["rows"] if row["section"] == key]
        if not rows:
            continue
        present = {name for row in rows for name in figures_of(row)}
        precisions = tuple(
            name for name in section.precisions if name in present or section.columns != ("Recipe",)
        )
        yield Table(key=key, section=section, figures=(*_MACHINE, *precisions), rows=rows)


def identity(section: Section, row: Row) -> list[str]:
    """What a row is, in the section's own columns."""
    return [CELLS[column](row) for column in section.columns]


def column_of(figure: str) -> str:
    """The column of a figure."""
    return MEASURED[figure]


def mask_memory(document: Document) -> str:
    """Memory of our Mask R-CNN with R-50-FPN 1x in GB."""
    found = [row for row in document["rows"] if row["recipe"] == "mask_rcnn_r50_fpn_1x"]
    return cell(found[0], "memoryGB").ours if found else "-"


def cell(row: Row, name: str) -> Cell:
    """A figure of a row."""
    figures = figures_of(row)
    figure = figures.get(name)
    if figure is None:
        return Cell()
    second = figures.get("inferenceFpsBatch8", {}) if name == "inferenceFps" else {}
    difference, ratio = figure.get("difference"), figure.get("ratio")
    return Cell(
        ours=_both(_number(figure, "ours", name), _number(second, "ours", name)) or "-",
        published=_both(_number(figure, "published", name), _number(second, "published", name)),
        difference="" if difference is None else f"{difference:+.{FIGURES[name]}f}",
        verdict=figure.get("verdict") or "",
        ratio=f"{ratio['ours']:.2f}x" if ratio else "",
        value=float(figure.get("ours", -1.0)),
    )


def _both(first: str, second: str) -> str:
    return f"{first} / {second}" if first and second else first


def _number(figure: Mapping[str, Any], part: str, name: str) -> str:
    value = figure.get(part)
    if value is None:
        return ""
    digits = FIGURES[name]
    spread = figure.get("spread") if part == "ours" else None
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def remarks(row: Row) -> list[str]:
    """What has to be said about a row besides its figures."""
    said = [f"{run['message']}" for run in row.get("runs", ()) if run.get("message")]
    unread = [
        f"its report could not be read: {run['unread'].partition(', must')[0]}"
        for run in row.get("runs", ())
        if "unread" in run
    ]
    ratios = [
        f"{_TITLES[name]} {figure['ratio']['ours']:.2f} times that of {figure['ratio']['to']} "
        f"(published {figure['ratio']['published']:.2f})"
        for name, figure in figures_of(row).items()
        if "ratio" in figure and name in _TITLES
    ]
    reasons = row.get("reasons", ())
    why = [f"Not comparable: {'; '.join(reasons)}"] if reasons else []
    return [*dict.fromkeys(said), *why, *dict.fromkeys(unread), *(["; ".join(ratios)] if ratios else [])]


_TITLES = {
    "secondsPerIteration": "s/iter",
    "memoryGB": "memory",
    "inferenceFps": "fps",
}


def links(row: Row, *, folder: str) -> list[Link]:
    """The row's weights, then the page and the log of each run. `folder` is the URI of the page's."""
    found = []
    if weights := row.get("weights"):
        found.append(Link(text="model", title=weights["file"], address=quote(weights["file"])))
    runs = [run for run in row.get("runs", ()) if "report" in run]
    for run in runs:
        number = f" {run['seed'] + 1}" if len(runs) > 1 else ""
        for text, uri in (("report", run["report"]), ("log", run.get("log"))):
            if uri:
                found.append(Link(text=text + number, title=uri, address=address_of(uri, folder=folder)))
    return found


def address_of(uri: str, *, folder: str) -> str | None:
    """What a page in `folder` refers to `uri` by: relative below it, None if no browser opens it."""
    if uri.startswith(f"{folder}/"):
        path = uri.removeprefix(f"{folder}/")
        return quote(unquote(path) if folder.startswith("file:") else path)
    try:
        is_openable = urlsplit(uri).scheme in ("http", "https", "file")
    except ValueError:
        return None
    return quote(uri, safe=_OF_ADDRESSES) if is_openable else None


_OF_ADDRESSES = "%:/?#[]@!$&'()*+,;=~"
"""Characters that have a meaning in an address. Any other could end it in Markdown or in a cell."""


def cards(document: Document) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of what a reader wants to know first."""
    counts, verdicts = document["counts"], document["verdicts"]
    total = len(document["rows"])
    yield "rows done", f"{counts.get('Succeeded', 0)}/{total}", ""
    if counts.get("Failed"):
        yield "rows failed", str(counts["Failed"]), ""
    for item in document.get("differences", ()):
        error = item.get("standardError")
        note = "difference of 1 row"
        if error is not None:
            note = f"± {error:.2f}, mean difference of {item['rows']} rows"
        yield views.title_of(item["figure"]), f"{item['mean']:+.2f}", note
    within = verdicts.get("Equal", 0) + verdicts.get("Above", 0)
    compared = within + verdicts.get("Below", 0)
    if compared:
        yield "equal or above", f"{within}/{compared}", "of the rows that can be compared"
    if document.get("gpuSeconds"):
        yield "GPU hours", f"{document['gpuSeconds'] / 3600:.3g}", ""


def verdict_bars(document: Document) -> list[dict[str, Any]]:
    """The rows by their verdict."""
    verdicts = document["verdicts"]
    total = sum(verdicts.values())
    kinds = {"Equal": "good", "Above": "good", "Below": "bad"}
    return [
        {
            "label": "not comparable" if name == "NotComparable" else name.lower(),
            "note": "",
            "kind": kinds.get(name, ""),
            "count": verdicts[name],
            "percent": 100 * verdicts[name] / total,
            "text": "",
        }
        for name in VERDICTS
        if verdicts.get(name)
    ]


def difference_bars(document: Document) -> list[dict[str, Any]]:
    """The difference of each row that can be compared, the largest first, as an offset from zero."""
    found = [
        (row["recipe"], name, figure["difference"], figure["verdict"])
        for row in document["rows"]
        for name, figure in figures_of(row).items()
        if name in PRECISIONS and "difference" in figure
    ]
    if not found:
        return []
    most = max(*(abs(difference) for _, _, difference, _ in found), 0.5)
    return [
        {
            "label": recipe,
            "figure": views.title_of(name),
            "text": f"{difference:+.1f}",
            "verdict": verdict,
            "left": 50 + 50 * min(difference, 0) / most,
            "width": 50 * abs(difference) / most,
        }
        for recipe, name, difference, verdict in sorted(found, key=lambda item: -item[2])
    ]


def environment_facts(document: Document) -> list[tuple[str, str]]:
    """What the rows were made with."""
    environment = document["environment"]
    pairs = [("hardware", _listed(environment["hardware"]))]
    pairs += [(package, _listed(found)) for package, found in environment["software"].items()]
    pairs += [("image", _listed(environment["images"])), ("data", _listed(environment["data"]))]
    return [(name, text) for name, text in pairs if text]


def _listed(found: Mapping[str, int]) -> str:
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{value} ({count})" for value, count in found.items())


def accuracy_rows(document: Document) -> Iterator[list[str]]:
    """Method, schedule, Detectron, Detectron.pytorch, the zoo of 2019 and ours: pytorch / caffe style."""
    own = {row["recipe"]: row for row in document["rows"]}
    for row in comparison.ACCURACY:
        recipes = [name for name in (row.recipe, row.caffe_recipe) if name in PUBLISHED]
        yield [
            _TYPES[row.method],
            row.schedule,
            _quality(row.detectron),
            _quality(row.detectron_pytorch),
            " / ".join(_published_quality(name) for name in recipes),
            " / ".join(_own_quality(own.get(name)) for name in recipes),
        ]


def speed_rows(document: Document, rows: Sequence[comparison.SpeedRow], figure: str) -> Iterator[list[str]]:
    """Method, Detectron, Detectron.pytorch, the zoo of 2019 (V100 / XP) and ours."""
    own = {row["recipe"]: row for row in document["rows"]}
    digits = FIGURES[figure]
    for row in rows:
        recipe = f"{row.method}_r50_fpn_1x"
        published = PUBLISHED[recipe].as_results()[figure]
        ours = cell(own[recipe], figure).ours if recipe in own else "-"
        pytorch = row.detectron_pytorch_xp
        yield [
            _TYPES[row.method],
            f"{row.detectron_p100:.{digits}f}",
            "-" if pytorch is None else f"{pytorch:.{digits}f}",
            f"{published:.{digits}f} / {row.zoo_xp:.{digits}f}",
            ours,
        ]


def mirrors() -> Sequence[str]:
    """The hosts of the weights of 2019; the first one is linked."""
    return MIRRORS


def _quality(quality: comparison.Quality | None) -> str:
    values = (quality.ar1000, quality.box_ap, quality.mask_ap) if quality else ()
    return " & ".join(f"{value:.1f}" for value in values if value is not None) or "-"


def _published_quality(recipe: str) -> str:
    row = PUBLISHED[recipe]
    return _quality(comparison.Quality(box_ap=row.box_ap, mask_ap=row.mask_ap, ar1000=row.ar1000))


def _own_quality(row: Row | None) -> str:
    figures = figures_of(row) if row else {}
    values = {name: figures[name].get("ours") for name in PRECISIONS if name in figures}
    return _quality(
        comparison.Quality(
            box_ap=values.get("boxAP"), mask_ap=values.get("maskAP"), ar1000=values.get("ar1000")
        )
    )
