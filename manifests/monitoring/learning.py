"""The panels of what a job learns: losses, rate and precision, for the dashboard *Job*."""

from __future__ import annotations

from monitoring.panels import Panel, Row, Target
from monitoring.queries import CHOSEN_JOBS

series = CHOSEN_JOBS
_AVERAGE_PRECISION = 'metric=~"boxAP|maskAP|ar1000"'
_LOSS = 'metric="validationLoss"'
_TOTAL = f"sum(max by (term) ({series.trainer('loss')}))"


def _parts(figure: str) -> Target:
    """Average precision at single overlaps, and of small, medium and large objects."""
    chosen = f'metric=~"{figure}(50|75|s|m|l)"'
    return Target(expr=f"max by (metric) ({series.trainer('evaluation', chosen)})", legend="{{metric}}")


_PANELS = (
    Panel(
        title="Loss by term",
        description="Mean of each term over rank 0's last log interval. Bad: a term keeps rising, or has "
        "gaps, which mean that the loss was not finite.",
        unit="short",
        targets=(
            Target(expr=f"max by (term) ({series.trainer('loss')})", legend="{{term}}"),
            Target(expr=_TOTAL, legend="total"),
        ),
    ),
    Panel(
        title="Training and validation loss",
        description="The total loss over a log interval, and the mean loss on validation images at each "
        "evaluation. Bad: the validation loss rises while the training loss falls, which is overfitting.",
        unit="short",
        targets=(
            Target(expr=_TOTAL, legend="training"),
            Target(expr=f"max({series.trainer('evaluation', _LOSS)})", legend="validation"),
        ),
    ),
    Panel(
        title="Learning rate",
        description="Learning rate of the last step. It warms up, stays constant, and falls in steps.",
        unit="sci",
        targets=(Target(expr=f"max({series.trainer('learning_rate')}) > 0", legend="learning rate"),),
    ),
    Panel(
        title="Average precision over epochs",
        description="Figures of the evaluations in percent, with the published figures of the recipe. The "
        "right axis shows finished epochs. Bad: precision falls, or stays below 1 after several epochs.",
        unit="percent",
        targets=(
            Target(
                expr=f"max by (metric) ({series.trainer('evaluation', _AVERAGE_PRECISION)})",
                legend="{{metric}}",
            ),
            Target(
                expr=f"max by (metric) ({series.trainer('reference', _AVERAGE_PRECISION)})",
                legend="{{metric}} published",
            ),
            Target(expr=f"max({series.job('epoch')})", legend="epochs", unit="none"),
        ),
    ),
    Panel(
        title="Box AP by overlap and size",
        description="boxAP50 and boxAP75: overlap of at least 0.50 and 0.75. boxAPs, boxAPm, boxAPl: objects "
        "below 32² pixels, below 96², and larger. Bad: one of them stays near 0, say small objects at a "
        "small image size.",
        unit="percent",
        targets=(_parts("boxAP"),),
    ),
    Panel(
        title="Mask AP by overlap and size",
        description="The same of masks, for recipes with masks.",
        unit="percent",
        targets=(_parts("maskAP"),),
    ),
)

ROW = Row(title="Learning", panels=_PANELS)
