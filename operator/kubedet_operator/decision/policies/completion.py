"""When a job is done: rank 0 has left its results, as it does once the final checkpoint is durable."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.objects import end_of_wait
from kubedet_operator.decision.plan import Draft
from kubedet_operator.decision.pods import PodFacts, read_termination
from kubedet_trainer.contract import Results, Stage

LINGER_SECONDS = 60
"""How long the other workers of a finished job may take to end by themselves."""


def judge(facts: Facts, draft: Draft) -> Draft:
    """Complete a job whose results are there; fail one whose workers all succeeded without any."""
    if draft.finished or facts.job is None:
        return draft
    succeeded = [pod for pod in facts.workers if pod.phase == "Succeeded"]
    for pod in succeeded:
        results = read_termination(pod).results
        if results is not None and facts.job.spec.task == "Measure" and results.task != "Measure":
            return draft.end(
                ConditionType.FAILED,
                reason=Reason.RESULTS_MISSING,
                message=f"pod {pod.name} has trained, but spec.task is Measure: the trainer image is older "
                "than this operator; set spec.worker.image to one of this version",
            )
        if results is not None:
            return _complete(facts, draft, pod, results)
    if not draft.indices or not set(draft.indices) <= {pod.index for pod in succeeded}:
        return draft
    return draft.end(
        ConditionType.FAILED,
        reason=Reason.RESULTS_MISSING,
        message="every worker ended with code 0, but none left its results in the termination message: "
        "is spec.worker.image a trainer image of this version?",
    )


def _complete(facts: Facts, draft: Draft, pod: PodFacts, results: Results) -> Draft:
    working = [other for other in facts.workers if other.active]
    if working and pod.ending is not None:
        # A worker may still be saying goodbye to the rendezvous. What it does now changes nothing.
        patience_ends = end_of_wait(pod.ending.time, LINGER_SECONDS, now=facts.now)
        if patience_ends is not None:
            return draft.check(patience_ends)
    progress = draft.status.progress
    if progress is not None:
        # Not the total of the newest progress: the training may have ended earlier.
        iterations = results.iterations or progress.totalIterations or progress.iteration
        progress = replace(
            progress,
            stage=Stage.DONE,
            iteration=iterations,
            totalIterations=iterations,
            percentage=100,
            estimatedRemainingSeconds=None,
        )
    done = draft.change(results=results, progress=progress)
    return done.end(
        ConditionType.COMPLETE,
        reason=Reason.TRAINED,
        message=f"the training is complete; pod {pod.name} reported the results"
        + (f"; {results.endedEarly}" if results.endedEarly else ""),
    )
