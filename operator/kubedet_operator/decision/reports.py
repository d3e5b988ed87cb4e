"""Reads what workers say about themselves: the answer to ``/progress`` and the termination message.

Workers run their users' code, so nothing that they say is trusted. A document is bounded before anything
else looks at it: its size and depth, the length of its texts and lists, the range of its numbers. What
remains fits the CRD's status. A part that cannot be read is left out, and no function here raises any error
but `Unreadable`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from kubedet_operator.api import decoding
from kubedet_operator.api.fields import DEFAULT_MAX_ITEMS, DEFAULT_MAX_LENGTH
from kubedet_operator.api.policies import MAX_SECONDS
from kubedet_operator.api.status import TimeAccount
from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_time, parse_time, read_time

MAX_BYTES = 65536
"""The longest document that is read. A report of the trainer has about 1 KB."""
MAX_DEPTH = 8
"""The deepest nesting of objects and lists. A report of the trainer has 4 levels."""
MAX_NUMBER = 2**53
"""Greater numbers, and smaller ones than its negative, are clamped: every JSON reader knows these exactly."""

_MAX_RANK = 64_000
"""1000 workers have 64 each."""
_MAX_RATIO = 1_000_000
"""Of the times of two ranks."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,127}")
"""A reason. Kubernetes takes no longer one in an Event."""
_PHASE = re.compile(r"[a-z_]{1,32}")
_STAGES = frozenset(stage.value for stage in contract.Stage)
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "�")
"""Control characters but tab and newline: they could write anything on the terminal that shows them."""

_Record = TypeVar("_Record")
_Number = TypeVar("_Number", int, float)


def clean_text(text: str) -> str:
    """`text` without characters that control a terminal, as logs and container runtimes may have them."""
    return text.translate(_CONTROLS)


class Unreadable(ValueError):
    """A document is too large, too deep or no JSON object."""


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """The failure in a termination message. What is absent or cannot be read has its default."""

    reason: str = ""
    message: str = ""
    rank: int | None = None
    time: datetime | None = None
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Termination:
    """What a worker left in its termination message."""

    results: contract.Results | None = None
    failure: FailureReport = FailureReport()
    progress: contract.ProgressRecord | None = None
    """The last report of rank 0."""


def load_document(text: str | bytes) -> dict[str, Any]:
    """The JSON object in `text`, within all bounds.

    Raises:
        Unreadable: there is none.
    """
    if len(text) > MAX_BYTES:
        raise Unreadable(f"{len(text)} bytes, must be at most {MAX_BYTES}")
    try:
        document = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise Unreadable(f"{type(document).__name__}, must be an object")
    bounded: dict[str, Any] = _bound(document, contract.TERMINATION_MESSAGE_BYTES)
    return bounded


def read_progress(answer: bytes) -> contract.ProgressRecord | None:
    """The answer to ``GET /progress``, or None if it is none."""
    try:
        return _parse_progress(load_document(answer))
    except Unreadable:
        return None


def in_cluster_time(record: contract.ProgressRecord, *, ahead_seconds: float) -> contract.ProgressRecord:
    """`record` of a worker whose clock is ahead, with its times in the cluster's time."""
    progress, checkpoint, straggler = record.progress, record.checkpoint, record.straggler
    recovery = progress.recovery
    if not ahead_seconds:
        return record

    def shift(time: str) -> str:
        return format_time(parse_time(time) - timedelta(seconds=ahead_seconds))

    return replace(
        record,
        progress=replace(
            progress,
            lastProgressTime=shift(progress.lastProgressTime) if progress.lastProgressTime else None,
            recovery=replace(recovery, time=shift(recovery.time)) if recovery else None,
        ),
        checkpoint=replace(checkpoint, time=shift(checkpoint.time)) if checkpoint else None,
        straggler=replace(straggler, since=shift(straggler.since)) if straggler else None,
    )


def read_termination(message: str) -> Termination:
    """What the trainer left in a termination message; nothing if the message is not the trainer's."""
    try:
        document = load_document(message)
    except Unreadable:
        return Termination()
    results = document.get("results")
    return Termination(
        results=read_results(results) if isinstance(results, dict) else None,
        failure=_read_failure(document.get("failure")),
        progress=_parse_progress(document.get("progress")),
    )


def with_known_stage(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """`document`, whose `progress` may have a stage that only a newer version knows: it trains, for all that
    this version can say."""
    progress = document.get("progress")
    if not isinstance(progress, Mapping):
        return document
    stage = progress.get("stage")
    if not isinstance(stage, str) or stage in _STAGES or not _WORD.fullmatch(stage):
        return document
    return {**document, "progress": {**progress, "stage": contract.Stage.TRAINING.value}}


def clean_progress(progress: contract.Progress) -> contract.Progress:
    """`progress` with every number within its range, and no time that cannot be read."""
    remaining, goodput = progress.estimatedRemainingSeconds, progress.goodputPercent
    return replace(
        progress,
        epoch=max(progress.epoch, 0),
        iteration=max(progress.iteration, 0),
        totalIterations=max(progress.totalIterations, 0),
        percentage=_within(progress.percentage, 100),
        estimatedRemainingSeconds=None if remaining is None else _within(remaining, MAX_SECONDS),
        lastProgressTime=progress.lastProgressTime if read_time(progress.lastProgressTime) else None,
        goodputPercent=None if goodput is None else _within(goodput, 100),
        time=_clean_spent(progress.time) if progress.time else None,
        recovery=_clean_recovery(progress.recovery) if progress.recovery else None,
    )


def clean_checkpoint(checkpoint: contract.CheckpointStatus | None) -> contract.CheckpointStatus | None:
    """`checkpoint` if its time can be read, with every number within its range."""
    if checkpoint is None or read_time(checkpoint.time) is None:
        return None
    return replace(
        checkpoint,
        iteration=max(checkpoint.iteration, 0),
        sizeBytes=max(checkpoint.sizeBytes, 0),
        saveSeconds=_within(checkpoint.saveSeconds, MAX_SECONDS),
        stallSeconds=_within(checkpoint.stallSeconds, MAX_SECONDS),
    )


def clean_seconds(seconds: int) -> int:
    """`seconds` within their range."""
    return _within(seconds, MAX_SECONDS)


def clean_account(account: TimeAccount) -> TimeAccount:
    """`account` with every number within its range. Phases of a newer version count: they are time that is
    accounted for."""
    phases = [phase for phase in account.seconds if _PHASE.fullmatch(phase)]
    seconds = {phase: _within(account.seconds[phase], MAX_SECONDS) for phase in phases}
    return replace(account, seconds=seconds, reached=max(account.reached, 0))


def _parse_progress(document: Any) -> contract.ProgressRecord | None:
    """The `ProgressRecord` in a document that was loaded, or None if it is none."""
    if not isinstance(document, Mapping):
        return None
    known = with_known_stage(document)
    record = _decode(contract.ProgressRecord, {**known, "checkpoint": None, "straggler": None})
    if record is None:
        return None
    return replace(
        record,
        progress=clean_progress(record.progress),
        checkpoint=clean_checkpoint(_decode(contract.CheckpointStatus, document.get("checkpoint"))),
        straggler=_clean_straggler(_decode(contract.Straggler, document.get("straggler"))),
        worldSize=max(record.worldSize, 0),
        processRestarts=max(record.processRestarts, 0),
    )


def read_results(document: Any) -> contract.Results:
    """The row, without figures that cannot be read: the training is complete all the same."""
    try:
        bounded = _bound(document)
    except Unreadable:
        return contract.Results()
    return (
        decoding.decode(contract.Results, bounded, path="results", found=[], strict=False)
        or contract.Results()
    )


def _read_failure(document: Any) -> FailureReport:
    if not isinstance(document, Mapping):
        return FailureReport()
    reason, rank, lines = document.get("reason"), document.get("rank"), document.get("lastLines")
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and 0 <= rank <= _MAX_RANK
    return FailureReport(
        reason=reason if isinstance(reason, str) and _WORD.fullmatch(reason) else "",
        message=str(document.get("message") or ""),
        rank=rank if is_rank else None,
        time=read_time(document.get("time")),
        last_lines=tuple(str(line)[:DEFAULT_MAX_LENGTH] for line in lines) if isinstance(lines, list) else (),
    )


def _decode(target: type[_Record], document: Any) -> _Record | None:
    found: list[decoding.Violation] = []
    record = decoding.decode(target, _bound(document), path="", found=found, strict=False)
    return None if found else record


def _bound(value: Any, max_text: int = DEFAULT_MAX_LENGTH, depth: int = 0) -> Any:
    """`value` of JSON within the CRD's general bounds: texts and lists are cut, numbers clamped.

    Raises:
        Unreadable: it is nested too deeply.
    """
    if isinstance(value, str):
        return clean_text(value.encode(errors="replace").decode())[:max_text]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float):
        return max(-MAX_NUMBER, min(value, MAX_NUMBER))
    if depth == MAX_DEPTH:
        raise Unreadable(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, list):
        return [_bound(item, max_text, depth + 1) for item in value[:DEFAULT_MAX_ITEMS]]
    return {
        _bound(key, max_text): _bound(item, max_text, depth + 1)
        for key, item in islice(value.items(), DEFAULT_MAX_ITEMS)
    }


def _clean_spent(spent: contract.TimeSpent) -> contract.TimeSpent:
    return replace(spent, iterations=max(spent.iterations, 0), seconds=_clean_seconds(spent.seconds))


def _clean_recovery(recovery: contract.Recovery) -> contract.Recovery | None:
    if read_time(recovery.time) is None:
        return None
    return replace(recovery, seconds=_clean_seconds(recovery.seconds, contract.RecoveryPhase))


def _clean_straggler(straggler: contract.Straggler | None) -> contract.Straggler | None:
    """`straggler` if its time and its place can be read."""
    if straggler is None or read_time(straggler.since) is None:
        return None
    if not 0 <= straggler.rank <= _MAX_RANK or straggler.replica < 0:
        return None
    return replace(straggler, ratio=_within(straggler.ratio, _MAX_RATIO))


def _clean_seconds(
    seconds: Mapping[str, float],
    known: type[contract.TimePhase | contract.RecoveryPhase] = contract.TimePhase,
) -> dict[str, float]:
    phases = [phase.value for phase in known if phase in seconds]
    return {phase: _within(seconds[phase], MAX_SECONDS) for phase in phases}


def _within(value: _Number, most: int) -> _Number:
    return max(type(value)(0), min(value, type(value)(most)))
