"""Builds the table of a zoo from its rows, as its status has them, and from the reports of their runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from kubedet_trainer import contract
from kubedet_trainer.contract import catalogue
from kubedet_trainer.contract.comparison import PRECISIONS, Circumstances, find_obstacles
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput
from kubedet_trainer.recipes.published import PUBLISHED
from kubedet_trainer.recipes.published_files import has_published_file, published_uri
from kubedet_trainer.reports import document as run_document
from kubedet_trainer.reports.published import circumstances_of
from kubedet_trainer.reports.zoo.document import (
    FIGURES,
    Environment,
    Figure,
    Ratio,
    TableDifference,
    Weights,
    ZooReport,
    ZooRow,
    ZooRun,
)

Document = Mapping[str, Any]
ReadReport = Callable[[str], Document]
"""The report of the run whose checkpoints are at this URI."""

NOT_COMPARABLE = "NotComparable"
_NOTHING_PUBLISHED = "nothing is published for this recipe"
_BASE = "faster_rcnn_r50_fpn_1x"
"""The row that ratios refer to, where it was measured on the same machine."""
_DIGITS = 3


def build_report(zoo: Document, *, read_report: ReadReport, known: Mapping[str, Weights]) -> ZooReport:
    """The table of a zoo.

    Args:
        zoo: the ModelZoo as the API has it, with its status.
        read_report: reads the report of a run.
        known: URI of a checkpoint to the file of weights that was made of it before.
    """
    metadata, spec, status = zoo["metadata"], zoo.get("spec") or {}, zoo.get("status") or {}
    tolerance = {figure: float((spec.get("tolerance") or {}).get(figure, 0.5)) for figure in PRECISIONS}
    sources = [_read_row(row, read_report) for row in status.get("rows") or ()]
    rows = _with_ratios([_build_row(*source, tolerance=tolerance, known=known) for source in sources])
    reports = [report for _, found in sources for report in found.values() if report is not None]
    spent = [run.gpuSeconds for row in rows for run in row.runs if run.gpuSeconds is not None]
    return ZooReport(
        name=str(metadata["name"]),
        namespace=metadata.get("namespace"),
        writeTime=format_now(),
        startTime=status.get("startTime"),
        completionTime=status.get("completionTime"),
        trainings=sum(len(row.runs) for row in rows),
        tolerance=tolerance,
        counts=dict(Counter(row.phase for row in rows)),
        verdicts=dict(Counter(row.verdict for row in rows if row.verdict)),
        gpuSeconds=sum(spent) if spent else None,
        differences=list(_sum_up(rows)),
        environment=_describe_environment(reports, rows),
        rows=rows,
    )


_Source = tuple[Document, dict[int, Document | None]]
"""A row of the status, and the report of each run by its seed."""


def _read_row(row: Document, read_report: ReadReport) -> _Source:
    found: dict[int, Document | None] = {}
    for run in row.get("runs") or ():
        uri = (run.get("results") or {}).get("reportUri")
        if run.get("results") is None:
            continue
        try:
            found[run["seed"]] = read_report(place_of(uri)) if uri else None
        except (MissingInput, InvalidInput, CredentialsRefused) as error:
            found[run["seed"]] = {"unread": str(error)}
    return row, found


def place_of(report_uri: str) -> str:
    """The place of the checkpoints that a report is next to."""
    return report_uri.removesuffix(f"/{contract.REPORT_FILE}")


def _build_row(
    row: Document,
    reports: Mapping[int, Document | None],
    *,
    tolerance: Mapping[str, float],
    known: Mapping[str, Weights],
) -> ZooRow:
    recipe = str(row["recipe"])
    facets = catalogue.read_facets(recipe)
    runs = [_build_run(run, reports.get(run["seed"])) for run in row.get("runs") or ()]
    given = list(_circumstances(row, reports))
    figures = [_build_figure(name, row, runs, given, tolerance) for name in FIGURES]
    shown = [figure for figure in figures if figure.ours is not None or figure.published is not None]
    measured_precisions = [item for item in shown if item.figure in PRECISIONS and item.ours is not None]
    judged = [item for item in measured_precisions if item.published is not None] or measured_precisions
    verdicts = {item.verdict for item in judged if item.verdict}
    measured = [item for item in given if item.accelerator is not None]
    return ZooRow(
        recipe=recipe,
        section=facets.section if facets else "yours",
        phase=str(row.get("phase", "Pending")),
        verdict=next((v for v in (NOT_COMPARABLE, "Below", "Above", "Equal") if v in verdicts), None),
        reasons=list(dict.fromkeys(reason for item in judged for reason in item.reasons)),
        hardware=f"{measured[0].world_size} x {measured[0].accelerator}" if measured else None,
        precision=measured[0].precision if measured else None,
        figures=shown,
        runs=runs,
        weights=next(
            (known[run.checkpoint] for run in runs if run.checkpoint and run.checkpoint in known), None
        ),
        publishedWeights=published_uri(recipe) if has_published_file(recipe) else None,
    )


def _build_run(run: Document, report: Document | None) -> ZooRun:
    results, read = run.get("results") or {}, report or {}
    facts, time = read.get("run") or {}, read.get("time") or {}
    uri = results.get("reportUri")
    figures = {name: results[name] for name in FIGURES if results.get(name) is not None}
    if "inferenceFpsBatch8" in read:
        figures["inferenceFpsBatch8"] = read["inferenceFpsBatch8"]
    is_read = uri is not None and "recipe" in read
    return ZooRun(
        seed=run["seed"],
        job=str(run.get("job", "")),
        phase=str(run.get("phase", "Pending")),
        message=run.get("message"),
        completionTime=run.get("completionTime"),
        figures=figures,
        # Weights that were measured are somebody's already: there is nothing to publish.
        checkpoint=None if _is_measured(results) else results.get("modelUri"),
        report=uri if is_read else None,
        log=f"{place_of(str(uri))}/{run_document.HISTORY_FILE}" if is_read and "run" in read else None,
        image=facts.get("image"),
        gpuSeconds=time.get("gpuSeconds"),
        seconds=round(sum(time["seconds"].values()), 1) if "seconds" in time else None,
        unread=read.get("unread"),
    )


def _is_measured(results: Document) -> bool:
    return bool(results.get("task") == contract.Task.MEASURE)


def _circumstances(row: Document, reports: Mapping[int, Document | None]) -> Iterator[Circumstances]:
    """What is known of each training that has results: from its report, else from the status."""
    for run in row.get("runs") or ():
        results, report = run.get("results"), reports.get(run["seed"])
        if results is None:
            continue
        told = Circumstances(
            precision=results.get("precision"),
            global_batch=results.get("globalBatch"),
            validation_images=results.get("validationImages"),
            accelerator=results.get("accelerator"),
            world_size=results.get("worldSize"),
            is_measured=_is_measured(results),
        )
        if report is not None and "recipe" in report:
            known = {name: value for name, value in vars(told).items() if value not in (None, (), False)}
            told = replace(circumstances_of(report), **known)
        yield told


def _build_figure(
    name: str,
    row: Document,
    runs: Sequence[ZooRun],
    given: Sequence[Circumstances],
    tolerance: Mapping[str, float],
) -> Figure:
    recipe = str(row["recipe"])
    values = [run.figures[name] for run in runs if name in run.figures]
    published = (row.get("published") or {}).get(name)
    if published is None and recipe in PUBLISHED:
        published = PUBLISHED[recipe].as_results().get(name)
    figure = Figure(
        figure=name,
        ours=round(fmean(values), _DIGITS) if values else None,
        spread=round(stdev(values), _DIGITS) if len(values) > 1 else None,
        published=published,
    )
    if figure.ours is None:
        return figure
    reasons = list(_reasons(name, row, given)) if published is not None else [_NOTHING_PUBLISHED]
    if reasons:
        return replace(figure, verdict=NOT_COMPARABLE, reasons=list(dict.fromkeys(reasons)))
    assert published is not None
    difference = round(figure.ours - published, _DIGITS)
    return replace(figure, difference=difference, verdict=_judge(difference, tolerance.get(name)))


def _reasons(name: str, row: Document, given: Sequence[Circumstances]) -> Iterator[str]:
    """What the operator knows, such as the splits, and what the runs tell."""
    if name in PRECISIONS and row.get("verdict") == NOT_COMPARABLE:
        yield from str(row.get("reason")).split("; ")
    for circumstances in given:
        yield from find_obstacles(str(row["recipe"]), name, circumstances)


def _judge(difference: float, tolerance: float | None) -> str | None:
    if tolerance is None:
        return None
    return "Below" if difference < -tolerance else "Above" if difference > tolerance else "Equal"


def _with_ratios(rows: Sequence[ZooRow]) -> list[ZooRow]:
    """The rows with a ratio for each figure that only the hardware keeps from being compared."""
    figures = {row.recipe: {figure.figure: figure for figure in row.figures} for row in rows}
    return [
        replace(
            row,
            figures=[
                replace(figure, ratio=_ratio(row, figure, _find_base(row, figure, rows, figures)))
                for figure in row.figures
            ],
        )
        for row in rows
    ]


def _find_base(
    row: ZooRow, figure: Figure, rows: Sequence[ZooRow], figures: Mapping[str, Mapping[str, Figure]]
) -> tuple[str, Figure] | None:
    if figure.figure in PRECISIONS or figure.verdict != NOT_COMPARABLE or figure.published is None:
        return None
    able = [
        (other.recipe, found)
        for other in rows
        if (other.hardware, other.precision) == (row.hardware, row.precision)
        and (found := figures[other.recipe].get(figure.figure)) is not None
        and found.ours
        and found.published
    ]
    preferred = [item for item in able if item[0] == _BASE] or able
    return preferred[0] if len(able) > 1 else None


def _ratio(row: ZooRow, figure: Figure, base: tuple[str, Figure] | None) -> Ratio | None:
    if base is None or figure.ours is None or figure.published is None:
        return None
    recipe, other = base
    if recipe == row.recipe or not other.ours or not other.published:
        return None
    return Ratio(
        to=recipe,
        ours=round(figure.ours / other.ours, _DIGITS),
        published=round(figure.published / other.published, _DIGITS),
    )


def _sum_up(rows: Sequence[ZooRow]) -> Iterator[TableDifference]:
    """Mean difference of each precision over the table, with its standard error (deviation / sqrt(rows))."""
    for name in PRECISIONS:
        found = [
            figure.difference
            for row in rows
            for figure in row.figures
            if figure.figure == name and figure.difference is not None
        ]
        if found:
            error = round(stdev(found) / len(found) ** 0.5, _DIGITS) if len(found) > 1 else None
            mean = round(fmean(found), _DIGITS)
            yield TableDifference(figure=name, mean=mean, standardError=error, rows=len(found))


def _describe_environment(reports: Sequence[Document], rows: Sequence[ZooRow]) -> Environment:
    software: dict[str, Counter[str]] = {}
    images: Counter[str] = Counter()
    data: Counter[str] = Counter()
    for report in reports:
        facts = report.get("run") or {}
        for package, version in (facts.get("versions") or {}).items():
            software.setdefault(str(package), Counter())[str(version)] += 1
        if facts.get("image"):
            images[str(facts["image"])] += 1
        if uri := (report.get("data") or {}).get("uri"):
            data[str(uri)] += 1
    return Environment(
        hardware=dict(Counter(row.hardware for row in rows if row.hardware)),
        software={package: dict(versions) for package, versions in software.items()},
        images=dict(images),
        data=dict(data),
    )
