"""The dashboard *Zoo*: a table of recipes, ours next to the published figures, and what it is doing."""

from __future__ import annotations

from monitoring import job
from monitoring.panels import Dashboard, Panel, Row, Target, Variable
from monitoring.queries import ALERTS, CHOSEN_ZOOS, EVERY_JOB, OF_NAMESPACE
from monitoring.tables import COLUMNS_OF_A_ROW, build_alerts

series = CHOSEN_ZOOS
_JOBS = series.job("info", 'zoo=~"$zoo"', 'zoo!=""')
_ITS = f"and on (namespace, name) {_JOBS}"
_GPUS = f"({series.job('gpus')} {_ITS})"
_OPEN = 'phase!~"Succeeded|Failed"'
_WHOSE = "namespace, name"
_ROW = f"{_WHOSE}, recipe"
_FIRING = f'{ALERTS}{{alertstate="firing",alertname=~"KubedetZoo.+",{OF_NAMESPACE},name=~"$zoo"}}'
_COLOURS = {"succeeded": "blue", "running": "green", "pending": "#8e8e8e", "failed": "red"}
_BOX = 'metric="boxAP"'
_PRECISIONS = {"boxAP": "box AP", "maskAP": "mask AP", "ar1000": "AR1000"}


def _rows(phase: str, description: str) -> Panel:
    """The number of rows in a phase."""
    selector = series.zoo("rows", f'phase="{phase}"')
    return Panel(
        title=f"Rows {phase}",
        description=description,
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"sum({selector})", instant=True),),
    )


def _figures(metric: str, title: str) -> tuple[Target, ...]:
    """Three columns: ours, published, the difference."""
    chosen = f'metric="{metric}"'
    columns = {
        "row_result": title,
        "row_published": f"{title} published",
        "row_difference": f"{title} difference",
    }
    return tuple(
        Target(expr=f"max by ({_ROW}) ({series.zoo(key, chosen)})", legend=legend)
        for key, legend in columns.items()
    )


_STATE = (
    Panel(
        title="Phase",
        description="Phase of the zoo, as `kubectl get zoo` shows it.",
        unit="short",
        kind="stat",
        width=4,
        height=4,
        shows_name=True,
        targets=(
            Target(
                expr=f"max by (phase) ({series.zoo('status_phase')}) == 1", legend="{{phase}}", instant=True
            ),
        ),
    ),
    _rows("succeeded", "Rows that have all their results."),
    _rows("running", "Rows with a job that has not ended, also a suspended one."),
    _rows("pending", "Rows without a job: they wait for spec.parallelism, or for proposals of another row."),
    _rows("failed", "Rows whose job has failed. Bad: any. Delete the job of a row to train it again."),
    Panel(
        title="GPU hours",
        description="GPUs of the zoo's jobs, summed over the selected time range, also of jobs that are "
        "gone.",
        unit="h",
        kind="stat",
        width=4,
        height=4,
        targets=(Target(expr=f"sum(sum_over_time({_GPUS}[$__range:1m])) / 60", instant=True),),
    ),
    Panel(
        title="Page",
        description="Whether the page of the zoo shows its rows: RowsShown. Otherwise the reason. Empty "
        "before the first row has ended.",
        unit="short",
        kind="stat",
        width=4,
        height=4,
        shows_name=True,
        targets=(
            Target(
                expr=f"max by (reason) ({series.zoo('page_written')} >= 0)", legend="{{reason}}", instant=True
            ),
        ),
    ),
    Panel(
        title="Rows by phase",
        description="Rows over time. Bad: succeeded does not grow for longer than a row takes.",
        unit="short",
        decimals=0,
        stacked=True,
        colours=_COLOURS,
        targets=(Target(expr=f"sum by (phase) ({series.zoo('rows')})", legend="{{phase}}"),),
    ),
    Panel(
        title="GPUs held",
        description="GPUs that the existing worker pods of the zoo's jobs request. Bad: 0 while rows are "
        "pending.",
        unit="short",
        decimals=0,
        targets=(Target(expr=f"sum({_GPUS})", legend="GPUs"),),
    ),
    build_alerts(_FIRING, width=8),
)

_TABLE = (
    Panel(
        title="Ours minus published",
        description="Mean over the rows that can be compared, in percentage points. A single row varies by "
        "0.2 to 0.3, the mean of 95 rows by 0.02. Bad: a mean more than two standard errors below 0.",
        unit="none",
        kind="table",
        width=8,
        decimals=3,
        words=COLUMNS_OF_A_ROW,
        columns=(*_WHOSE.split(", "), "metric", "Mean", "Standard error", "Rows"),
        targets=(
            Target(expr=f"max by ({_WHOSE}, metric) ({series.zoo('difference')})", legend="Mean"),
            Target(
                expr=f"max by ({_WHOSE}, metric) ({series.zoo('difference_error')})", legend="Standard error"
            ),
            Target(
                expr=f"max by ({_WHOSE}, metric) ({series.zoo('difference_rows')})",
                legend="Rows",
                decimals=0,
            ),
        ),
    ),
    Panel(
        title="Mean difference of box AP",
        description="Mean over the rows that can be compared, with two standard errors to both sides. It "
        "gets narrower with every row. Bad: 0 is above the upper line.",
        unit="none",
        width=16,
        bounds=(None, None),
        targets=(
            Target(expr=f"max({series.zoo('difference', _BOX)})", legend="mean"),
            *(
                Target(
                    expr=f"max({series.zoo('difference', _BOX)})"
                    f" {sign} 2 * max({series.zoo('difference_error', _BOX)})",
                    legend=f"mean {sign} 2 standard errors",
                )
                for sign in "+-"
            ),
        ),
    ),
    Panel(
        title="Rows",
        description="Every row: ours, published and the difference in percentage points, where both can be "
        "compared. The page of the zoo has memory, speed and the reasons. Bad: the verdict Below.",
        unit="none",
        kind="table",
        decimals=2,
        width=24,
        height=14,
        columns=("namespace", "name", "recipe", "phase", "verdict"),
        targets=(
            Target(
                expr=f"max by ({_ROW}, phase, verdict) ({series.zoo('row')})", legend="Row", adds_labels=True
            ),
            *(target for metric, title in _PRECISIONS.items() for target in _figures(metric, title)),
        ),
    ),
)

_NOW = (
    Panel(
        title="Jobs that have not ended",
        description="One row for each job of the zoo. Click a row to open the job's dashboard.",
        unit="short",
        kind="table",
        width=24,
        link=job.LINK,
        columns=("namespace", "name", "recipe", "phase", "reason"),
        targets=(
            Target(
                expr=f"max by ({_WHOSE}, phase) ({series.job('status_phase', _OPEN)} == 1)"
                f" * on ({_WHOSE}) group_left (recipe) {_JOBS}",
                legend="Jobs",
                adds_labels=True,
            ),
            *(
                Target(
                    expr=f"max by ({by}) ({series.job(key)} {_ITS}) and on ({_WHOSE})"
                    f" {series.job('status_phase', _OPEN)}",
                    legend=legend,
                    unit=unit,
                    adds_labels=legend == "Reasons",
                )
                for key, legend, unit, by in (
                    ("status_reason", "Reasons", None, f"{_WHOSE}, reason"),
                    ("progress", "Progress", "percentunit", _WHOSE),
                    ("remaining", "Remaining", "s", _WHOSE),
                    ("gpus", "GPUs", None, _WHOSE),
                )
            ),
        ),
    ),
)

ZOO = Dashboard(
    uid="kubedet-zoo",
    title="kubedet / Zoo",
    description="One ModelZoo: its rows next to the published ones, what runs now, and what it costs.",
    variables=(
        Variable(
            name="namespace",
            label="Namespace",
            query=f"label_values({EVERY_JOB.zoo('status_phase')}, namespace)",
        ),
        Variable(
            name="zoo",
            label="Zoo",
            query=f"label_values({EVERY_JOB.zoo('status_phase', OF_NAMESPACE)}, name)",
        ),
    ),
    rows=(
        Row(title="State", panels=_STATE),
        Row(title="Table", panels=_TABLE),
        Row(title="Now", panels=_NOW),
    ),
    range="now-7d",
)
