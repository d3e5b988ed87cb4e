"""What a decision about a zoo consists of: the status to write, and what to do about its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from kubedet_operator.api.zoo_status import ModelZooStatus, Run, RunPhase
from kubedet_operator.decision.draft import StatusDraft
from kubedet_operator.decision.zoo.facts import RunKey


@dataclass(frozen=True, kw_only=True)
class CreateJob:
    """Create the job of a training. A job that has its name already is not touched."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SuspendJob:
    """Suspend this very job on behalf of the zoo, or resume it."""

    name: str
    uid: str
    suspend: bool


@dataclass(frozen=True, kw_only=True)
class DeleteRowJob:
    """Delete this very job, not a later one of the same name."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class CreatePage:
    """Create the pod that writes the page."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DeletePage:
    """Delete this very pod."""

    name: str
    uid: str
    force: bool = False
    """As that of `plan.DeletePod`."""


@dataclass(frozen=True, kw_only=True)
class DeleteZoo:
    """Delete the zoo itself: its jobs go with it."""

    uid: str


ZooAction = CreateJob | SuspendJob | DeleteRowJob | CreatePage | DeletePage | DeleteZoo


@dataclass(frozen=True, kw_only=True)
class ZooPlan:
    """A decision. The status is written first: a result is recorded before the job that shows it goes."""

    status: Mapping[str, Any]
    """The whole status, as the API has it."""
    actions: tuple[ZooAction, ...] = ()
    """Independent of one another."""
    awaits_page: bool = False
    """Whether the page is behind the rows, and is going to follow them."""
    next_check_seconds: float | None = None
    """When to decide again if nothing happens before; None: only when something does."""


@dataclass(frozen=True, kw_only=True)
class ZooDraft(StatusDraft[ModelZooStatus]):
    """The plan for a zoo in the making."""

    runs: Mapping[RunKey, Run]
    """Every training of the table, in the order in which jobs are created."""
    may_create: bool = True
    """Whether a training may begin now."""
    awaits_page: bool = False
    """Whether the page is going to follow the rows."""
    actions: tuple[ZooAction, ...] = ()

    def phases(self) -> set[RunPhase]:
        """The phases that trainings are in."""
        return {run.phase for run in self.runs.values()}

    def act(self, *actions: ZooAction) -> Self:
        """The draft with further actions."""
        return replace(self, actions=(*self.actions, *actions))
