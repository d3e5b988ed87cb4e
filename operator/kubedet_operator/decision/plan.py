"""What a decision consists of: the status to write, the children to apply and delete, when to look again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_operator.decision.draft import StatusDraft
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer.contract.times import parse_time


@dataclass(frozen=True, kw_only=True)
class ApplyChild:
    """Create or repair a child by server-side apply."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DeletePod:
    """Delete this very pod, not a later one of the same name."""

    name: str
    uid: str
    force: bool = False
    """With no grace: nobody is left on its node to end it, so that it would stay for ever."""


@dataclass(frozen=True, kw_only=True)
class DeleteJob:
    """Delete the job itself, by background propagation: its children go with it."""

    uid: str
    """Of this very job, not a later one of the same name."""


Action = ApplyChild | DeletePod | DeleteJob


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decision. The status is written first: a failure is charged before the pod that shows it goes."""

    status: Mapping[str, Any]
    """The whole status, as the API has it."""
    preparations: tuple[ApplyChild, ...] = ()
    """Carried out before any of `actions`, which wait for another round if one fails: PodGroups, without
    which a gang scheduler turns the first pods away."""
    actions: tuple[Action, ...] = ()
    """Independent of one another."""
    next_check_seconds: float | None = None
    """When to decide again if nothing happens before; None: only when something does."""


@dataclass(frozen=True, kw_only=True)
class Draft(StatusDraft[DetectionJobStatus]):
    """The plan for a job in the making."""

    indices: tuple[int, ...] = ()
    """Indices of the workers that should exist."""
    deletions: tuple[DeletePod | DeleteJob, ...] = ()
    """In addition to the pods whose end is recorded (`status.chargedPods`), which are all deleted."""
    create_from: datetime | None = None
    """Missing pods are created from then on. None: now."""

    @property
    def has_trained(self) -> bool:
        """Whether a worker of this job has trained, as `transitions.TRAINED` tells the API server."""
        progress = self.status.progress
        return self.status.checkpoint is not None or (progress is not None and progress.iteration > 0)

    def counts_on(self, pod: PodFacts) -> bool:
        """Whether `pod` works or will work, and is not being stopped."""
        return pod.active and pod.uid not in self.status.chargedPods

    def retire(self, pods: Iterable[PodFacts]) -> Self:
        """The draft that has `pods` end, with their grace; what they end with is charged to nobody."""
        marked = dict.fromkeys((*self.status.chargedPods, *(pod.uid for pod in pods)))
        return self.change(chargedPods=tuple(marked))

    def renew(self, workers: Iterable[PodFacts]) -> Self:
        """The draft in which a new attempt begins, with new workers in place of `workers`."""
        return self.retire(workers).change(attempt=self.status.attempt + 1)

    def end(self, condition_type: ConditionType, *, reason: Reason, message: str) -> Self:
        """The draft of a job that ends now, Complete or Failed."""
        ended = self.rest().turn(condition_type, True, reason=reason, message=message)
        return ended.change(completionTime=self.status.completionTime or self.now)

    def withdraw_failure(self) -> Self:
        """The draft of a failed job that is active again, because its spec was corrected."""
        corrected = self.turn(
            ConditionType.FAILED, False, reason=Reason.NOT_FAILED, message="the spec was corrected"
        )
        return corrected.change(completionTime=None)

    def rest(self) -> Self:
        """The draft of a job that is not active from now on."""
        status = self.status
        if status.activeSince is None:
            return self
        seconds = (parse_time(self.now) - parse_time(status.activeSince)).total_seconds()
        return self.change(activeSince=None, activeSeconds=status.activeSeconds + max(0, int(seconds)))
