"""The page of the table: written by a pod once rows have ended, not for every row at once, and at the end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.api.status import dump_status
from kubedet_operator.api.zoo_status import PageStatus, Run, RunPhase
from kubedet_operator.children.page import PagePlace, build_page_pod, locate_page
from kubedet_operator.decision.objects import end_of_wait
from kubedet_operator.decision.pods import PodFacts
from kubedet_operator.decision.policies.lost import end_of_patience
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import CreatePage, DeletePage, ZooDraft
from kubedet_trainer.contract.times import parse_time

INTERVAL_SECONDS = 300
"""Between two pages while rows are trained: those that end in between come together."""
RETRY_SECONDS = 30
"""After the first failure; twice as long after each further one."""
MOST_FAILURES = 5
"""Pods in a row that may fail for the same rows."""
PATIENCE_SECONDS = 120
"""A pod that has not started by then is told of. It is not given up: a full cluster empties."""

_ENDED = (RunPhase.SUCCEEDED, RunPhase.FAILED)
_MESSAGE_LENGTH = 512
_MOST_NAMED = 10
"""Rows that a message names."""


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Create the pod when the page is behind the rows; take in how it ended, and delete it."""
    rows = draft.status.rows
    if not any(run.phase in _ENDED for row in rows for run in row.runs):
        return draft
    assert facts.parsed.document is not None
    place = locate_page(facts.parsed.document, recipe=rows[0].recipe)
    if place is None:
        return _fail(
            draft,
            Reason.NO_PLACE,
            "the page has no place: spec.template.spec.checkpoint is absent; set it, and the page goes next "
            "to the rows' checkpoints",
        )
    page = draft.status.page or PageStatus()
    if facts.page is not None:
        return _follow(facts, draft, page, pod=facts.page, place=place)
    wanted = digest_rows(draft)
    if wanted == page.written:
        return _show(draft, page, place) if _is_behind(draft) else draft
    if draft.holds(ConditionType.PAGE_WRITTEN):
        draft = _fail(draft, Reason.ROWS_BEHIND, _describe_lag(draft, page))
    if wanted != page.tried:
        page = replace(page, failures=0)
    if page.failures >= MOST_FAILURES:
        return draft
    draft = replace(draft, awaits_page=True)
    if facts.page_rejection:
        draft = _fail(
            draft,
            Reason.CHILD_REJECTED,
            f"the API server refuses the pod that writes the page: {facts.page_rejection}; it is tried again",
        )
    due = _due(facts, draft, page, wanted)
    if due is not None:
        return draft.check(due)
    status = dump_status(replace(draft.status, page=None, conditions=()))
    pod = build_page_pod(facts.parsed.document, place, status=status, digest=wanted, settings=facts.settings)
    return draft.change(page=replace(page, tried=wanted, time=draft.now)).act(CreatePage(manifest=pod))


def digest_rows(draft: ZooDraft) -> str:
    """Identifies what a page shows of the rows: what has ended, not what runs."""
    shown = [
        (
            row.recipe,
            row.hash,
            row.verdict,
            row.reason,
            [(run.seed, run.phase if run.phase in _ENDED else "", run.message or "") for run in row.runs],
            dump_status([run.results for run in row.runs]),
            dict(row.published),
        )
        for row in draft.status.rows
    ]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def _due(facts: ZooFacts, draft: ZooDraft, page: PageStatus, wanted: str) -> datetime | None:
    """When the next pod may be created; None for now."""
    is_retry = wanted == page.tried
    if page.time is None or (draft.finished and not is_retry):
        return None
    seconds = RETRY_SECONDS * 2 ** max(page.failures - 1, 0) if is_retry else INTERVAL_SECONDS
    return end_of_wait(parse_time(page.time), seconds, now=facts.now)


def _follow(
    facts: ZooFacts, draft: ZooDraft, page: PageStatus, *, pod: PodFacts, place: PagePlace
) -> ZooDraft:
    """Take in what has become of the pod. The next one is created when it is gone."""
    draft = replace(draft, awaits_page=True)
    if (lost := end_of_patience(pod)) is not None:
        if facts.now < lost:
            return draft.check(lost)
        return draft.act(DeletePage(name=pod.name, uid=pod.uid, force=True))
    if not pod.ended:
        return draft if pod.deleting else _explain_wait(facts, draft, pod)
    if pod.uid != page.pod:
        if pod.phase == "Succeeded":
            page = replace(page, written=page.tried, failures=0, pod=pod.uid)
            draft = _show(draft.change(page=page, reportUri=place.page_uri), page, place)
        else:
            page = replace(page, failures=page.failures + 1, pod=pod.uid)
            draft = _fail(draft.change(page=page), Reason.PAGE_FAILED, _describe_failure(pod, page))
    return draft if pod.deleting else draft.act(DeletePage(name=pod.name, uid=pod.uid))


def _show(draft: ZooDraft, page: PageStatus, place: PagePlace) -> ZooDraft:
    return draft.turn(
        ConditionType.PAGE_WRITTEN,
        True,
        reason=Reason.ROWS_SHOWN,
        message=f"{place.page_uri} shows the rows that had ended at {page.time}",
    )


def _is_behind(draft: ZooDraft) -> bool:
    found = find_condition(draft.status.conditions, ConditionType.PAGE_WRITTEN)
    return found is not None and found.reason == Reason.ROWS_BEHIND


def _describe_lag(draft: ZooDraft, page: PageStatus) -> str:
    """Which rows the page does not show as they are."""
    written_at = parse_time(page.time) if page.time else None
    later = [
        row.recipe
        for row in draft.status.rows
        if written_at and any(_ended_after(run, written_at) for run in row.runs)
    ]
    named = ", ".join(later[:_MOST_NAMED]) + (
        f" and {len(later) - _MOST_NAMED} more" if len(later) > _MOST_NAMED else ""
    )
    what = f"these rows have ended since: {named}" if later else "rows have changed since"
    return f"the page is of {page.time}; {what}; it is written again within {INTERVAL_SECONDS} s"


def _ended_after(run: Run, time: datetime) -> bool:
    return run.completionTime is not None and parse_time(run.completionTime) > time


def _explain_wait(facts: ZooFacts, draft: ZooDraft, pod: PodFacts) -> ZooDraft:
    since = pod.created + timedelta(seconds=PATIENCE_SECONDS)
    if pod.phase != "Pending":
        return draft
    if facts.now < since:
        return draft.check(since)
    cause = pod.waiting_message or pod.waiting_reason or pod.unscheduled or "a queue holds it back"
    return _fail(draft, Reason.PAGE_NOT_STARTED, f"the pod {pod.name} has not started: {cause}")


def _describe_failure(pod: PodFacts, page: PageStatus) -> str:
    ending = pod.ending
    lines = (ending.message if ending else pod.message or "").strip().splitlines()
    said = lines[-1] if lines else (pod.reason or (ending.reason if ending else "") or "nothing was said")
    code = f" with exit code {ending.exit_code}" if ending else ""
    after = (
        "it is tried again with growing delays"
        if page.failures < MOST_FAILURES
        else f"it failed {MOST_FAILURES} times and is tried again when a row changes; "
        "`kubectl get zoo NAME -o json` and `kubedet report --zoo` write the page by hand"
    )
    return f"the pod that writes the page failed{code}: {said[:_MESSAGE_LENGTH]}; {after}"


def _fail(draft: ZooDraft, reason: Reason, message: str) -> ZooDraft:
    return draft.turn(ConditionType.PAGE_WRITTEN, False, reason=reason, message=message)
