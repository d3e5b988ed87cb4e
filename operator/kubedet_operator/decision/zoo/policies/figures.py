"""The table as it is shown: rows with mean, spread and verdict, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean, stdev

from kubedet_operator.api.zoo_status import (
    FIGURES,
    Difference,
    Row,
    RowCounts,
    Run,
    RunPhase,
    Verdict,
    ZooDisplay,
)
from kubedet_operator.children.rows import RowPlan
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import ZooDraft
from kubedet_trainer.contract import Task
from kubedet_trainer.contract.comparison import PRECISIONS, Circumstances, find_obstacles

_DIGITS = 3
_OPEN = (RunPhase.RUNNING, RunPhase.SUSPENDED)


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Fill in rows, counts and differences."""
    rows = tuple(_build_row(facts, draft, row) for row in facts.parsed.rows)
    phases = [row.phase for row in rows]
    counts = RowCounts(
        total=len(rows),
        pending=sum(phase in (RunPhase.PENDING, RunPhase.WAITING) for phase in phases),
        running=sum(phase in _OPEN for phase in phases),
        succeeded=phases.count(RunPhase.SUCCEEDED),
        failed=phases.count(RunPhase.FAILED),
    )
    differences = {figure: found for figure in PRECISIONS if (found := _summarise(rows, figure))}
    shown = differences.get("boxAP")
    return draft.change(
        rows=rows,
        counts=counts,
        differences=differences,
        display=ZooDisplay(
            rows=f"{counts.succeeded}/{counts.total}", difference=f"{shown.mean:+.2f}" if shown else None
        ),
    )


def _build_row(facts: ZooFacts, draft: ZooDraft, row: RowPlan) -> Row:
    runs = tuple(draft.runs[row.recipe, seed] for seed in range(row.repeats))
    means, spread = {}, {}
    for figure in FIGURES:
        values = [
            value for run in runs if run.results and (value := getattr(run.results, figure)) is not None
        ]
        if values:
            means[figure] = round(fmean(values), _DIGITS)
        if len(values) > 1:
            spread[figure] = round(stdev(values), _DIGITS)
    published = facts.published(row.recipe)
    verdict, differences, reason = _compare(facts, row, runs, means=means, published=published)
    return Row(
        recipe=row.recipe,
        hash=row.hash,
        phase=_phase_of(runs),
        runs=runs,
        means=means,
        spread=spread,
        published=published,
        differences=differences,
        verdict=verdict,
        reason=reason,
    )


def _phase_of(runs: Iterable[Run]) -> RunPhase:
    """The phase of a row: what is going on first, success only if nothing is missing."""
    phases = {run.phase for run in runs}
    order = (RunPhase.RUNNING, RunPhase.SUSPENDED, RunPhase.FAILED, RunPhase.PENDING, RunPhase.WAITING)
    return next((phase for phase in order if phase in phases), RunPhase.SUCCEEDED)


def _compare(
    facts: ZooFacts,
    row: RowPlan,
    runs: tuple[Run, ...],
    *,
    means: Mapping[str, float],
    published: Mapping[str, float],
) -> tuple[Verdict | None, dict[str, float], str | None]:
    """The verdict about a row, its differences from the published figures, and why there are none."""
    if not any(figure in means for figure in PRECISIONS):
        return None, {}, None
    if obstacles := tuple(dict.fromkeys(_obstacles(row, runs, published))):
        return Verdict.NOT_COMPARABLE, {}, "; ".join(obstacles)
    differences = {
        figure: round(means[figure] - published[figure], _DIGITS)
        for figure in PRECISIONS
        if figure in means and figure in published
    }
    tolerance = vars(facts.spec.tolerance)
    if any(difference < -tolerance[figure] for figure, difference in differences.items()):
        return Verdict.BELOW, differences, None
    above = any(difference > tolerance[figure] for figure, difference in differences.items())
    return Verdict.ABOVE if above else Verdict.EQUAL, differences, None


def _obstacles(row: RowPlan, runs: Iterable[Run], published: Mapping[str, float]) -> Iterator[str]:
    """Why the precision of a row cannot be compared with the published one."""
    if not any(figure in published for figure in PRECISIONS):
        yield "nothing is published for this recipe"
        return
    dataset = row.spec["dataset"]
    known = [run.results for run in runs if run.results]
    for results in known:
        given = Circumstances(
            changes=tuple(row.spec.get("overrides") or ()),
            data_uri=str(dataset["storageUri"]),
            data_format=dataset.get("format", "COCO"),
            splits=[f"dataset.{split}" for split in ("train", "val") if dataset.get(split)],
            pretrained=bool(row.spec.get("pretrained")),
            precision=results.precision,
            global_batch=results.globalBatch,
            validation_images=results.validationImages,
            is_measured=results.task == Task.MEASURE,
        )
        yield from find_obstacles(row.recipe, PRECISIONS[0], given)


def _summarise(rows: Iterable[Row], figure: str) -> Difference | None:
    """Mean difference of one figure over the table, with its standard error (deviation / sqrt(rows))."""
    found = [row.differences[figure] for row in rows if figure in row.differences]
    if not found:
        return None
    error = round(stdev(found) / len(found) ** 0.5, _DIGITS) if len(found) > 1 else None
    return Difference(mean=round(fmean(found), _DIGITS), standardError=error, rows=len(found))
