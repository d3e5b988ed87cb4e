"""GPUs as NVIDIA's DCGM exporter sees them, joined to jobs by the pod that holds each.

The exporter names the pod in the labels ``pod`` and ``namespace``. A scrape without ``honor_labels``, as in
the exporter's own chart, renames them to ``exported_pod`` and ``exported_namespace``, and gives ``pod`` the
name of the exporter. All queries take both forms.
"""

from __future__ import annotations

from monitoring.panels import Panel, Row, Target, Variable
from monitoring.queries import CHOSEN_JOBS, DCGM_METRICS

_PODS = f"max by (namespace, pod, name) ({CHOSEN_JOBS.trainer('build_info')})"
_FREE = 'exported_pod="",pod=~"|.*dcgm.*"'
"""Matches a GPU that no pod has: there is no pod, or it is the exporter's own."""
_ANY = "DCGM_FI_DEV_GPU_TEMP"
"""Known of every GPU, also of one in MIG mode."""
_KIB_PER_SECOND = 1024 * 1000
"""Bytes per second of one unit of the NVLink metric."""
_IDLE_PERCENT = 5

assert _ANY in DCGM_METRICS


def _tell(metric: str, window: str = "") -> str:
    """Series of all GPUs with the pod that holds each in the labels ``pod`` and ``namespace``.

    With a window, the largest value within it.
    """
    assert metric in DCGM_METRICS
    told = f"max_over_time({metric}[{window}])" if window else metric
    for label in ("pod", "namespace"):
        told = f'label_replace({told}, "{label}", "$1", "exported_{label}", "(.+)")'
    return told


def _of_jobs(metric: str, window: str = "") -> str:
    """Series of the GPUs of the chosen jobs, with the job in the label ``name``."""
    return f"({_tell(metric, window)} * on (namespace, pod) group_left (name) {_PODS})"


def _held(condition: str) -> str:
    """The number of series, which is empty if the exporter is not installed, and otherwise at least 0."""
    return f"count({condition}) or 0 * count({_ANY})"


FREE = Target(expr=_held(f"{_ANY}{{{_FREE}}}"), instant=True)
"""The number of GPUs that no pod holds."""


def _curves(by: str) -> tuple[Panel, ...]:
    """What GPUs of jobs do over time, by labels: of each GPU, or of all GPUs of a job."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    shared = "on (namespace, name, pod, gpu, UUID)"
    memory = (
        f"{_of_jobs('DCGM_FI_DEV_FB_USED')} / {shared} "
        f"({_of_jobs('DCGM_FI_DEV_FB_USED')} + {shared} {_of_jobs('DCGM_FI_DEV_FB_FREE')})"
    )
    link = f"{_of_jobs('DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL')} * {_KIB_PER_SECOND}"
    return (
        Panel(
            title="GPU utilisation",
            description="Share of the time in which a GPU runs any kernel. Bad: one far below the others, or "
            "all of them far below 100 %, because they wait for data.",
            unit="percent",
            bounds=(0, 100),
            targets=(Target(expr=f"avg by ({by}) ({_of_jobs('DCGM_FI_DEV_GPU_UTIL')})", legend=legend),),
        ),
        Panel(
            title="GPU memory in use",
            description="Share of a GPU's memory that all processes on it use, of the fullest GPU. Bad: more "
            "than the caching allocator of the job reserves, because somebody else is on the GPU.",
            unit="percentunit",
            bounds=(0, 1),
            targets=(Target(expr=f"max by ({by}) ({memory})", legend=legend),),
        ),
        Panel(
            title="GPU power",
            description="Power that the GPUs draw. Bad: one draws far less than the others at the same load.",
            unit="watt",
            targets=(Target(expr=f"sum by ({by}) ({_of_jobs('DCGM_FI_DEV_POWER_USAGE')})", legend=legend),),
        ),
        Panel(
            title="GPU temperature",
            description="Temperature of the hottest GPU. Bad: above 85 °C, where most GPUs lower their "
            "clock.",
            unit="celsius",
            bounds=(None, None),
            targets=(Target(expr=f"max by ({by}) ({_of_jobs('DCGM_FI_DEV_GPU_TEMP')})", legend=legend),),
        ),
        Panel(
            title="NVLink",
            description="Bytes per second that GPUs exchange over NVLink, both directions together. Bad: 0 "
            "in a job with several GPUs on a machine with NVLink, because gradients then go over PCIe.",
            unit="Bps",
            targets=(Target(expr=f"sum by ({by}) ({link})", legend=legend),),
        ),
    )


def _errors(told: str, remapped: str) -> Panel:
    return Panel(
        title="Errors of GPUs",
        description="GPUs with an Xid error, or with memory that ECC has replaced. Bad: any Xid but 13, 31, "
        "43 and 45, which a program causes. NVIDIA's Xid catalogue says which ones need a reset or a new "
        "GPU.",
        unit="none",
        kind="table",
        decimals=0,
        width=24,
        height=6,
        columns=("Hostname", "gpu", "modelName", "namespace", "pod", "Newest Xid", "Remapped rows"),
        targets=(
            Target(expr=told, legend="Newest Xid"),
            Target(expr=remapped, legend="Remapped rows"),
        ),
    )


_WHERE = "Hostname, gpu, modelName, namespace, pod"
_XID = "DCGM_FI_DEV_XID_ERRORS"
_REMAPPED = "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"

FLEET_ROW = Row(
    title="GPUs: $gpus known to NVIDIA's DCGM exporter",
    collapsed=True,
    panels=(
        Panel(
            title="GPUs by use",
            description="GPUs of the cluster: without a pod (free), held by kubedet's jobs, of those idle "
            "for 15 minutes, and held by others. Bad: jobs wait while GPUs are free, or idle GPUs are held.",
            unit="short",
            decimals=0,
            kind="bargauge",
            targets=(
                Target(expr=f"count({_ANY})", legend="all", instant=True),
                Target(expr=FREE.expr, legend="free", instant=True),
                Target(expr=_held(_of_jobs(_ANY)), legend="held by jobs", instant=True),
                Target(
                    expr=_held(f"{_of_jobs('DCGM_FI_DEV_GPU_UTIL', '15m')} < {_IDLE_PERCENT}"),
                    legend="held by jobs, idle",
                    instant=True,
                ),
                Target(
                    expr=f"count({_tell(_ANY)}) - ({FREE.expr}) - ({_held(_of_jobs(_ANY))})",
                    legend="held by others",
                    instant=True,
                ),
            ),
        ),
        *_curves("namespace, name"),
        _errors(f"max by ({_WHERE}) ({_tell(_XID)}) > 0", f"max by ({_WHERE}) ({_tell(_REMAPPED)}) > 0"),
    ),
)
"""Of the dashboard *Fleet*: all GPUs, and those of each job."""

JOB_ROW = Row(
    title="GPUs: $gpus known to NVIDIA's DCGM exporter",
    collapsed=True,
    panels=(
        *_curves("pod, gpu"),
        _errors(
            f"max by ({_WHERE}) ({_of_jobs(_XID)}) > 0", f"max by ({_WHERE}) ({_of_jobs(_REMAPPED)}) > 0"
        ),
    ),
)
"""Of the dashboard *Job*: each GPU of the job."""


def _count(expression: str) -> Variable:
    """Grafana cannot hide a row; so its heading says how many GPUs there are to be seen."""
    query = f"query_result(count({expression}) or vector(0))"
    return Variable(name="gpus", label="GPUs", query=query, regex="/ ([0-9]+) /", hidden=True)


FLEET_VARIABLE = _count(_ANY)
JOB_VARIABLE = _count(_of_jobs(_ANY))
