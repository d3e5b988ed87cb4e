"""Keeps new pods away for a while from nodes that failures speak against.

Broken hardware excludes its node. Crashes and hangs that come back on one node may be the program's own
fault: they only make the scheduler prefer any other node, so that a cluster of one node still trains. So do
nodes that have broken workers of several jobs (`decision/evidence.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from kubedet_operator.api.policies import FailurePolicy
from kubedet_operator.api.status import MAX_EXCLUDED_NODES, ExcludedNode, FailureRecord
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.contract.times import format_time, parse_time

_SUSPICIOUS = (ExitCode.ABORTED, ExitCode.CRASHED, ExitCode.HANG)


def judge(facts: Facts, draft: Draft) -> Draft:
    """Exclude the node of the failure that was just charged, if it is time to; let others in again."""
    if draft.finished or facts.job is None:
        return draft
    policy = facts.job.spec.failurePolicy
    known = [node for node in draft.status.excludedNodes if parse_time(node.until) > facts.now]
    history = draft.status.failureHistory
    if history and history != facts.status.failureHistory:
        excluded = _exclude(policy, history)
        if excluded is not None:
            known = [excluded, *(node for node in known if node.name != excluded.name)]
    draft = draft.change(excludedNodes=tuple(known[:MAX_EXCLUDED_NODES]))
    for node in known:
        draft = draft.check(parse_time(node.until))
    return _move_waiting_pods(facts, draft)


def avoid_suspects(facts: Facts, draft: Draft) -> Draft:
    """The draft whose new pods also avoid the nodes that have broken workers of several jobs.

    Only a job that creates pods takes note of them, so that no failure turns the status of every job.
    """
    if facts.job is None or facts.job.spec.failurePolicy.nodeExclusion.ttlSeconds == 0:
        return draft
    own = draft.status.excludedNodes
    known = {node.name for node in own}
    others = [node for node in facts.suspects if node.name not in known]
    return draft.change(excludedNodes=(*own, *others)[:MAX_EXCLUDED_NODES]) if others else draft


def speaks_against_node(policy: FailurePolicy, record: FailureRecord) -> bool:
    """Whether the node may be why a worker failed, by the job's `policy`."""
    return _is_hardware(policy, record) or record.exitCode in _SUSPICIOUS


def _exclude(policy: FailurePolicy, history: Sequence[FailureRecord]) -> ExcludedNode | None:
    """The node of the newest failure, if enough speaks against it."""
    exclusion, newest = policy.nodeExclusion, history[0]
    if newest.node is None or exclusion.ttlSeconds == 0:
        return None
    time_to_live = timedelta(seconds=exclusion.ttlSeconds)
    begin = parse_time(newest.time) - time_to_live
    against = [
        record
        for record in history
        if record.node == newest.node
        and parse_time(record.time) > begin
        and speaks_against_node(policy, record)
    ]
    hardware = _is_hardware(policy, newest)
    if not hardware and (newest not in against or len(against) < exclusion.afterFailures):
        return None
    return ExcludedNode(
        name=newest.node,
        mode="Required" if hardware else "Preferred",
        reason=newest.reason,
        message=f"{len(against)} failures within {exclusion.ttlSeconds} s; the last: pod {newest.pod}: "
        f"{newest.message}",
        failures=len(against),
        until=format_time(parse_time(newest.time) + time_to_live),
    )


def _is_hardware(policy: FailurePolicy, record: FailureRecord) -> bool:
    if record.rule is None:
        return record.exitCode == ExitCode.GPU_HARDWARE
    actions = {rule.name: rule.action for rule in policy.rules}
    return actions.get(record.rule) == "ExcludeNodeAndRestart"


def _move_waiting_pods(facts: Facts, draft: Draft) -> Draft:
    """Recreate pods that still wait for a node with outdated exclusions: a pod's affinity is immutable."""
    if _forbidden(facts.status.excludedNodes) == _forbidden(draft.status.excludedNodes):
        return draft
    waiting = [pod for pod in facts.workers if draft.counts_on(pod) and pod.unscheduled and pod.node is None]
    if waiting and facts.grouped:
        return draft.renew(facts.workers)
    return draft.retire(waiting)


def _forbidden(nodes: Sequence[ExcludedNode]) -> set[str]:
    return {node.name for node in nodes if node.mode == "Required"}
