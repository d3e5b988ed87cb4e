"""What is known of every training: from its job while that exists, else from the status."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api import names
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.zoo_status import FIGURES, RowResults, Run, RunPhase
from kubedet_operator.children.rows import RowPlan, list_trainings
from kubedet_operator.decision.zoo.facts import ChildFacts, RunKey, ZooFacts, is_source
from kubedet_operator.decision.zoo.plan import ZooDraft
from kubedet_trainer import contract

MESSAGE_LENGTH = 512
"""Of why a training failed. Its job has the whole."""


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Take in what the jobs have reached. A training that has its results keeps them."""
    runs: dict[RunKey, Run] = {}
    for row, seed in list_trainings(facts.parsed.rows):
        name = names.row_job_name(facts.metadata.name, row.recipe, seed)
        known = replace(facts.known_run(row.recipe, seed, hash=row.hash), job=name)
        child = facts.children.get(name)
        if child is not None and not facts.is_current(child, row):
            child = None
        runs[row.recipe, seed] = _record(row, known, child)
    return replace(draft, runs=runs)


def _record(row: RowPlan, known: Run, child: ChildFacts | None) -> Run:
    if _is_done(row, known):
        return replace(known, phase=RunPhase.SUCCEEDED, message=None)
    if child is not None:
        return _refuse_without_proposals(row, _read(known, child))
    expired = known.phase is RunPhase.FAILED and known.attempts > 0 and row.ttl_seconds is not None
    # Somebody who deletes a failed job, whose time has not come, wants the row to be tried again.
    return known if expired else replace(known, phase=RunPhase.PENDING, message=None, completionTime=None)


def _is_done(row: RowPlan, run: Run) -> bool:
    has_proposals = run.results is not None and run.results.proposalsUri is not None
    return run.results is not None and (has_proposals or not is_source(row, run.seed))


def _read(known: Run, child: ChildFacts) -> Run:
    phase = child.phase
    message = child.conditions.get(ConditionType.FAILED, "")[:MESSAGE_LENGTH] or None
    results = _shorten(child.results or contract.Results()) if phase is RunPhase.SUCCEEDED else known.results
    return replace(
        known,
        phase=phase,
        attempts=max(known.attempts, child.attempt),
        message=message if phase is RunPhase.FAILED else None,
        completionTime=child.completion_time if child.ended else None,
        results=results,
    )


def _refuse_without_proposals(row: RowPlan, run: Run) -> Run:
    if run.phase is not RunPhase.SUCCEEDED or _is_done(row, run):
        return run
    message = "its job has written no proposals: is spec.worker.image a trainer image of this version?"
    return replace(run, phase=RunPhase.FAILED, message=message)


def _shorten(results: contract.Results) -> RowResults:
    """The part of a job's results that a table shows."""
    hardware = results.hardware
    return RowResults(
        task=results.task if results.task == contract.Task.MEASURE else None,
        **{figure: getattr(results, figure) for figure in FIGURES},
        accelerator=_text(hardware.get("accelerator")),
        worldSize=_number(hardware.get("worldSize")),
        precision=_text(hardware.get("precision")),
        globalBatch=_number(hardware.get("globalBatch")),
        validationImages=results.validationImages,
        modelUri=results.modelUri,
        reportUri=results.reportUri,
        proposalsUri=results.proposalsUri,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
