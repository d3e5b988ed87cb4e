"""Figures of the zoos, read out of their statuses when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kubedet_operator.api.conditions import ConditionType, Phase
from kubedet_operator.telemetry.manifests import WHOSE, Figure, Manifest, Reader
from kubedet_trainer.contract.metrics import Definition

_COUNTS = ("pending", "running", "succeeded", "failed")
_COMPARED = ("boxAP", "maskAP", "ar1000")
"""The figures of single rows that are exposed. The others depend on the hardware: the page has them."""
_ROW = (*WHOSE, "recipe")

ZOO_TABLE: Mapping[str, Definition] = {
    "status_phase": Definition(
        kind="gauge",
        name="kubedet_zoo_status_phase",
        help="1 for the phase of a zoo.",
        labels=(*WHOSE, "phase"),
    ),
    "rows": Definition(
        kind="gauge",
        name="kubedet_zoo_rows",
        help="Rows of a zoo, by phase: pending, running, succeeded or failed.",
        labels=(*WHOSE, "phase"),
    ),
    "difference": Definition(
        kind="gauge",
        name="kubedet_zoo_difference",
        help="Mean of ours minus published over the rows that can be compared, in percentage points.",
        labels=(*WHOSE, "metric"),
    ),
    "difference_error": Definition(
        kind="gauge",
        name="kubedet_zoo_difference_standard_error",
        help="Standard error of the mean difference, in percentage points, from two rows on.",
        labels=(*WHOSE, "metric"),
    ),
    "difference_rows": Definition(
        kind="gauge",
        name="kubedet_zoo_difference_rows",
        help="Rows that the mean difference is taken over.",
        labels=(*WHOSE, "metric"),
    ),
    "row": Definition(
        kind="gauge",
        name="kubedet_zoo_row",
        help="1 for the phase of a row, and for its verdict, which is empty before there is one.",
        labels=(*_ROW, "phase", "verdict"),
    ),
    "row_result": Definition(
        kind="gauge",
        name="kubedet_zoo_row_result",
        help="What a row has reached, in percent: boxAP, maskAP or ar1000, the mean over its trainings.",
        labels=(*_ROW, "metric"),
    ),
    "row_published": Definition(
        kind="gauge",
        name="kubedet_zoo_row_published",
        help="What is published of a row, in percent.",
        labels=(*_ROW, "metric"),
    ),
    "row_difference": Definition(
        kind="gauge",
        name="kubedet_zoo_row_difference",
        help="Ours minus published of a row that can be compared, in percentage points.",
        labels=(*_ROW, "metric"),
    ),
    "page_written": Definition(
        kind="gauge",
        name="kubedet_zoo_page_written",
        help="1 if the page of a zoo shows its rows, 0 if it is behind them or something keeps it from being "
        "written. Absent before the first row has ended.",
        labels=(*WHOSE, "reason"),
    ),
}
"""What is read out of the zoos' manifests."""


def _read_table(zoo: Manifest) -> Iterator[Figure]:
    """The table as a whole."""
    status = zoo.get("status") or {}
    yield "status_phase", (str(status.get("phase") or Phase.PENDING.value),), 1
    for phase in _COUNTS:
        yield "rows", (phase,), (status.get("counts") or {}).get(phase, 0)
    for metric, found in (status.get("differences") or {}).items():
        yield "difference", (metric,), found["mean"]
        yield "difference_rows", (metric,), found["rows"]
        if "standardError" in found:
            yield "difference_error", (metric,), found["standardError"]
    for condition in status.get("conditions") or ():
        if condition["type"] == ConditionType.PAGE_WRITTEN:
            yield "page_written", (condition["reason"],), condition["status"] == "True"


def _read_rows(zoo: Manifest) -> Iterator[Figure]:
    for row in (zoo.get("status") or {}).get("rows") or ():
        recipe = row["recipe"]
        yield "row", (recipe, row["phase"], row.get("verdict", "")), 1
        figures = {"row_result": "means", "row_published": "published", "row_difference": "differences"}
        for key, source in figures.items():
            for metric, value in (row.get(source) or {}).items():
                if metric in _COMPARED:
                    yield key, (recipe, metric), value


ZOO_READERS: Sequence[Reader] = (_read_table, _read_rows)
"""What reads the figures of `ZOO_TABLE` out of a zoo."""
