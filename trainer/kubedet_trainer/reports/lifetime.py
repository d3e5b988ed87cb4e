"""Where the time of a run went, over all of its starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from kubedet_trainer.contract import TimePhase
from kubedet_trainer.contract.times import parse_time
from kubedet_trainer.reports.document import TimeFacts


def account(starts: Sequence[Mapping[str, Any]], *, iteration: int, on_gpu: bool) -> TimeFacts:
    """Add up what each start has counted.

    A worker continues its count across its processes, so each start of the same worker has the sum so far.
    The time between the last count of a worker and the next worker is lost, unless the run was stopped on
    purpose. Training that was done again is lost, too.

    Args:
        starts: as `training.state.History` has them, at least one.
        iteration: what is done by now.
        on_gpu: whether each rank has a GPU.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    gpu_seconds = iterations = 0.0
    for before, start in pairwise(({}, *starts)):
        is_same = before.get("since") == start["since"]
        known = before["seconds"] if is_same else {}
        spent = {phase: value - known.get(phase, 0.0) for phase, value in start["seconds"].items()}
        if before and not is_same and not before["isStopped"]:
            gap = (parse_time(start["since"]) - _end(before)).total_seconds()
            spent[TimePhase.LOST.value] = max(0.0, gap)
        for phase, value in spent.items():
            seconds[phase] += value
        iterations += start["iterations"] - (before["iterations"] if is_same else 0)
        gpu_seconds += start["worldSize"] * sum(spent.values()) if on_gpu else 0.0
    repeated = max(0.0, 1 - (iteration - starts[0]["iteration"]) / iterations) if iterations else 0.0
    lost = seconds[TimePhase.TRAINING] * repeated
    seconds[TimePhase.TRAINING] -= lost
    seconds[TimePhase.LOST] += lost
    return TimeFacts(
        seconds={str(phase): round(value, 3) for phase, value in seconds.items() if value > 0},
        goodputPercent=round(100 * seconds[TimePhase.TRAINING] / (sum(seconds.values()) or 1.0), 1),
        gpuSeconds=round(gpu_seconds, 1),
    )


def _end(start: Mapping[str, Any]) -> datetime:
    return parse_time(start["since"]) + timedelta(seconds=sum(start["seconds"].values()))
