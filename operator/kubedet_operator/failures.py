"""Reads out of a pod how it failed, and whom the failure is charged to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kubedet_operator import facts
from kubedet_operator.api import names
from kubedet_operator.facts import Ending, PodFacts
from kubedet_trainer.contract import ExitCode, FailureClass, failure_class

_DISRUPTIONS = (
    "Evicted",
    "NodeAffinity",
    "NodeLost",
    "NodeShutdown",
    "Preempted",
    "Preempting",
    "Shutdown",
    "Terminated",
    "UnexpectedAdmissionError",
)
"""Reasons of a whole pod that say that its node or the scheduler ended it."""

_REMEDIES = {
    "OOMKilled": "the container ran out of memory: raise spec.worker.resources.limits.memory, or lower "
    "the images per process or the data loader's workers",
    "StartError": "the image's entry point did not start: is it a trainer image?",
    "ContainerCannotRun": "the image's entry point did not start: is it a trainer image?",
}
"""What to do about container reasons that leave no record of the trainer."""


@dataclass(frozen=True, kw_only=True)
class PodFailure:
    """One failed or lost pod."""

    pod: PodFacts
    charged_to: FailureClass
    reason: str
    """One CamelCase word."""
    message: str
    """One line for a person."""
    exit_code: int | None = None
    rank: int | None = None
    time: datetime
    """When it ended, never in the future."""


def read_failure(pod: PodFacts, *, now: datetime) -> PodFailure | None:
    """How `pod` failed, or None if it did not. A pod that somebody deletes while it works counts as lost."""
    if pod.disruption and (pod.deleting or pod.phase == "Failed"):
        return _lost(pod, pod.disruption, now)
    if pod.phase != "Failed":
        return _lost(pod, "PodDeleted", now) if pod.deleting and not pod.ended else None
    if pod.ending is None or pod.ending.reason == "ContainerStatusUnknown" or _is_disrupted(pod):
        return _lost(pod, pod.reason or "PodFailed", now)
    return _ended(pod, pod.ending, now)


def _is_disrupted(pod: PodFacts) -> bool:
    # The kubelet refuses a pod for want of a resource with OutOfcpu, OutOfmemory, OutOfpods and so on.
    return pod.reason in _DISRUPTIONS or (pod.reason or "").startswith("OutOf")


def _lost(pod: PodFacts, reason: str, now: datetime) -> PodFailure:
    where = f" on node {pod.node}" if pod.node else ""
    return PodFailure(
        pod=pod,
        charged_to=FailureClass.INFRASTRUCTURE,
        reason=reason,
        message=_one_line(pod.message or f"pod {pod.name}{where} was lost: {reason}"),
        exit_code=pod.ending.exit_code if pod.ending else None,
        time=min(pod.ending.time, now) if pod.ending else now,
    )


def _ended(pod: PodFacts, ending: Ending, now: datetime) -> PodFailure:
    _, record = facts.read_termination(pod)
    killed_for_memory = ending.reason == "OOMKilled"
    charged_to = FailureClass.APPLICATION if killed_for_memory else failure_class(ending.exit_code)
    if pod.component == names.RENDEZVOUS and charged_to is not FailureClass.PERMANENT:
        charged_to = FailureClass.INFRASTRUCTURE
    rank = record.get("rank")
    return PodFailure(
        pod=pod,
        charged_to=charged_to,
        reason=_reason(ending, str(record.get("reason") or "")),
        message=_message(ending, str(record.get("message") or "")),
        exit_code=ending.exit_code,
        rank=rank if isinstance(rank, int) else None,
        time=min(ending.time, now),
    )


def _reason(ending: Ending, recorded: str) -> str:
    if ending.reason in _REMEDIES:
        return ending.reason
    if recorded:
        return recorded
    known = {code.value: code.name for code in ExitCode}
    name = known.get(ending.exit_code, "")
    return name.title().replace("_", "") or ending.reason or "Error"


def _message(ending: Ending, recorded: str) -> str:
    said = recorded or ending.message
    remedy = _REMEDIES.get(ending.reason, "")
    text = ": ".join(part for part in (remedy, said) if part)
    return _one_line(text or f"the container ended with exit code {ending.exit_code}")


def _one_line(text: str, length: int = 1024) -> str:
    """The end of `text`, where logs have their telling part, as one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"... {line[4 - length :]}"
