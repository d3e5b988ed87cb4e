"""The only edge between rows: a Fast R-CNN needs the proposals of an RPN."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.zoo_status import Run, RunPhase
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import ZooDraft


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Hold back rows whose proposals are not there yet; fail those that cannot have any."""
    runs = dict(draft.runs)
    for row in facts.parsed.rows:
        if row.source is None:
            continue
        source = runs[row.source, 0]
        for seed in range(row.repeats):
            run = runs[row.recipe, seed]
            if run.phase is RunPhase.PENDING:
                runs[row.recipe, seed] = _wait(run, row.source, source)
    return replace(draft, runs=runs)


def _wait(run: Run, recipe: str, source: Run) -> Run:
    if source.results is not None and source.results.proposalsUri is not None:
        return run
    if source.phase is RunPhase.FAILED:
        return replace(
            run, phase=RunPhase.FAILED, message=f"the row {recipe}, whose proposals it needs, failed"
        )
    return replace(run, phase=RunPhase.WAITING, message=f"waits for the proposals of the row {recipe}")
