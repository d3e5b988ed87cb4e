"""What decisions about jobs and about zoos are drafted with: a status, its conditions, the next look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from kubedet_operator.api import conditions
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_operator.api.zoo_status import ModelZooStatus

Status = TypeVar("Status", DetectionJobStatus, ModelZooStatus)


@dataclass(frozen=True, kw_only=True)
class StatusDraft(Generic[Status]):
    """A plan in the making, which every policy takes and returns."""

    status: Status
    now: str
    """RFC 3339."""
    generation: int
    check_at: datetime | None = None
    """The earliest time at which a policy wants to be asked again."""

    @property
    def finished(self) -> bool:
        """Whether the job or the zoo has ended, well or not."""
        return self.holds(ConditionType.COMPLETE) or self.holds(ConditionType.FAILED)

    def holds(self, condition_type: ConditionType) -> bool:
        """Whether a condition is true in this draft."""
        return conditions.is_true(self.status.conditions, condition_type)

    def change(self, **fields: Any) -> Self:
        """The draft with fields of its status replaced."""
        return replace(self, status=replace(self.status, **fields))

    def turn(self, condition_type: ConditionType, holds: bool, *, reason: str, message: str) -> Self:
        """The draft with one condition turned."""
        turned = conditions.set_condition(
            self.status.conditions,
            condition_type,
            holds,
            reason=reason,
            message=message,
            generation=self.generation,
            now=self.now,
        )
        return self if turned == self.status.conditions else self.change(conditions=turned)

    def check(self, at: datetime) -> Self:
        """The draft that is looked at again at `at`, or earlier if it is to be already."""
        return replace(self, check_at=min(self.check_at, at) if self.check_at else at)
