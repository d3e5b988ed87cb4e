"""Reads out of a pod how it failed, and whom the failure is charged to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kubedet_operator.api import names, patterns
from kubedet_operator.api.fields import DEFAULT_MAX_LENGTH as MAX_LINE_LENGTH
from kubedet_operator.api.policies import FailureRule, RuleAction
from kubedet_operator.api.status import MAX_LOG_LINES
from kubedet_operator.decision.objects import CLOCK_SECONDS
from kubedet_operator.decision.pods import Ending, PodFacts, read_termination
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
    "data.images_per_process or data.num_workers",
    "StartError": "the image's entry point did not start: is it a trainer image?",
    "ContainerCannotRun": "the image's entry point did not start: is it a trainer image?",
}
"""What to do about container reasons that leave no record of the trainer."""

_NO_MODULE = re.compile(r"No module named '?kubedet_trainer\b")
_OTHER_VERSION = (
    "the image has no such part of the trainer: it is of another version than this operator; set "
    "spec.worker.image to an image of the operator's version, or remove it"
)


_ACTIONS: dict[RuleAction, FailureClass] = {
    "FailJob": FailureClass.PERMANENT,
    "Restart": FailureClass.APPLICATION,
    "RestartIgnoreLimit": FailureClass.INFRASTRUCTURE,
    "ExcludeNodeAndRestart": FailureClass.INFRASTRUCTURE,
}
"""Whom a failure is charged to that a rule of the job is for."""

AHEAD_SECONDS = 2
"""How far the clock of a node may be ahead of the cluster's before its times are not believed."""

_STOPPED = (ExitCode.TERMINATED_SAVED, ExitCode.TERMINATED_UNSAVED)


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
    """When it began, within the life of the pod."""
    is_dated: bool = True
    """Whether a clock that can be believed has said when: else `time` is only when it was seen."""
    from_outside: bool = False
    """The pod was ended from outside, or a rule of the job ignores such failures."""
    rule: str | None = None
    """The rule of the job that decided whom it is charged to."""
    last_lines: tuple[str, ...] = ()
    """The end of its log, newest last."""


def read_failure(pod: PodFacts, *, rules: Sequence[FailureRule] = (), now: datetime) -> PodFailure | None:
    """How `pod` failed, or None if it did not. A pod that somebody deletes while it works counts as lost."""
    if pod.disruption and (pod.deleting or pod.phase == "Failed"):
        return _lost(pod, pod.disruption, now)
    if pod.phase != "Failed":
        return _lost(pod, "PodDeleted", now) if pod.deleting and not pod.ended else None
    if pod.ending is None or pod.ending.reason == "ContainerStatusUnknown" or _is_disrupted(pod):
        return _lost(pod, pod.reason or "PodFailed", now)
    failure = _ended(pod, pod.ending, now)
    return _by_rule(failure, rules) if pod.component == names.WORKER else failure


def _by_rule(failure: PodFailure, rules: Sequence[FailureRule]) -> PodFailure:
    for rule in rules:
        if rule.onExitCodes and failure.exit_code not in rule.onExitCodes:
            continue
        text = "\n".join((failure.message, *failure.last_lines))
        if rule.onMessagePatterns and not any(patterns.find(found, text) for found in rule.onMessagePatterns):
            continue
        passed_over = rule.action == "RestartIgnoreLimit"
        return replace(failure, charged_to=_ACTIONS[rule.action], rule=rule.name, from_outside=passed_over)
    return failure


def _is_disrupted(pod: PodFacts) -> bool:
    # The kubelet refuses a pod that lacks a resource with OutOfcpu, OutOfmemory, OutOfpods and so on.
    return pod.reason in _DISRUPTIONS or (pod.reason or "").startswith("OutOf")


def _lost(pod: PodFacts, reason: str, now: datetime) -> PodFailure:
    said = pod.ending.time if pod.ending else pod.lost_at
    # When a pod was told to end, the API server says, whose time it is that decisions are made by.
    time = said if pod.deleting and not pod.ending else _believe(pod, said, now)
    where = f" on node {pod.node}" if pod.node else ""
    return PodFailure(
        pod=pod,
        charged_to=FailureClass.INFRASTRUCTURE,
        reason=reason,
        message=_one_line(pod.message or f"pod {pod.name}{where} was lost: {reason}"),
        exit_code=pod.ending.exit_code if pod.ending else None,
        time=min(time or now, now),
        is_dated=time is not None,
        from_outside=True,
    )


def _ended(pod: PodFacts, ending: Ending, now: datetime) -> PodFailure:
    record = read_termination(pod).failure
    killed_for_memory = ending.reason == "OOMKilled"
    charged_to = FailureClass.APPLICATION if killed_for_memory else failure_class(ending.exit_code)
    if pod.component == names.RENDEZVOUS and charged_to is not FailureClass.PERMANENT:
        charged_to = FailureClass.INFRASTRUCTURE
    # When the first rank failed: its pod ends later, and with it in another order than its peers.
    time = _believe(pod, min(record.time or ending.time, ending.time), now)
    return PodFailure(
        pod=pod,
        charged_to=charged_to,
        reason=_reason(ending, record.reason),
        message=_message(ending, record.message),
        exit_code=ending.exit_code,
        rank=record.rank,
        time=min(time or now, now),
        is_dated=time is not None,
        from_outside=ending.exit_code in _STOPPED,
        last_lines=_last_lines(record.last_lines, ending),
    )


def _believe(pod: PodFacts, time: datetime | None, now: datetime) -> datetime | None:
    """`time`; None if the node's clock is wrong: nothing happens before the pod or in the future."""
    if time is None:
        return None
    difference = timedelta(seconds=CLOCK_SECONDS)
    return time if pod.created - difference <= time <= now + timedelta(seconds=AHEAD_SECONDS) else None


def _last_lines(recorded: Sequence[str], ending: Ending) -> tuple[str, ...]:
    """What is kept of the log: the pod that has it is replaced."""
    lines = recorded if ending.message.startswith("{") else ending.message.splitlines()
    return tuple(line[:MAX_LINE_LENGTH] for line in lines[-MAX_LOG_LINES:])


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
    remedy = _OTHER_VERSION if _NO_MODULE.search(said) else _REMEDIES.get(ending.reason, "")
    text = ": ".join(part for part in (remedy, said) if part)
    return _one_line(text or f"the container ended with exit code {ending.exit_code}")


def _one_line(text: str, length: int = 1024) -> str:
    """The end of `text`, where logs have their telling part, as one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"... {line[4 - length :]}"
