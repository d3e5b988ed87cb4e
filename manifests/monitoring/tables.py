"""What more than one dashboard shows, and how it is worded."""

from __future__ import annotations

from monitoring.panels import Panel, Target

COLUMNS_OF_A_ROW = {
    "boxAP": "box AP (%)",
    "maskAP": "mask AP (%)",
    "ar1000": "AR of 1000 proposals (%)",
    "memoryGB": "memory (GB)",
    "secondsPerIteration": "seconds per iteration",
    "inferenceFps": "images per second, batch 1",
}
"""What the columns of the zoo are called where a person reads them."""


def build_alerts(selector: str, *, width: int, height: int = 8) -> Panel:
    """The firing alerts that a selector of ``ALERTS`` matches."""
    return Panel(
        title="Firing alerts",
        description="Alerts that fire at present. Each has a page with the same name in docs/runbooks. Bad: "
        "any.",
        unit="none",
        kind="table",
        width=width,
        height=height,
        columns=("alertname", "severity", "namespace", "name", "pod"),
        targets=(
            Target(
                expr=f"max by (alertname, severity, namespace, name, pod) ({selector})",
                legend="Alerts",
                adds_labels=True,
            ),
        ),
    )


def round_events(expression: str) -> str:
    """How often something has happened in an interval: Prometheus extrapolates to fractions of it."""
    return f"round({expression})"
