"""Conditions are turned, never removed, and remember when."""

from __future__ import annotations

from functools import partial

import pytest

from kubedet_operator.api import conditions
from kubedet_operator.api.conditions import ConditionType, Phase, derive_phase, is_true, set_condition
from kubedet_operator.api.status import Condition

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def _set(
    conditions: tuple[Condition, ...], holds: bool, *, now: str, message: str = ""
) -> tuple[Condition, ...]:
    return set_condition(
        conditions, ConditionType.RUNNING, holds, reason="Because", message=message, generation=3, now=now
    )


def test_a_new_condition_is_added_at_the_end() -> None:
    first = set_condition(
        (), ConditionType.INITIALIZED, True, reason="R", message="m", generation=1, now=EARLY
    )
    both = _set(first, False, now=LATE)
    assert [condition.type for condition in both] == ["Initialized", "Running"]
    assert both[1].observedGeneration == 3


def test_the_transition_time_moves_only_with_the_status() -> None:
    before = _set((), True, now=EARLY)
    (same,) = _set(before, True, now=LATE, message="new words")
    assert (same.lastTransitionTime, same.message) == (EARLY, "new words")
    (turned,) = _set(before, False, now=LATE)
    assert (turned.lastTransitionTime, turned.status) == (LATE, "False")


def test_an_absent_condition_does_not_hold() -> None:
    assert not is_true((), ConditionType.FAILED)


@pytest.mark.parametrize(
    ("holding", "phase"),
    [
        ([], Phase.PENDING),
        ([ConditionType.INITIALIZED], Phase.INITIALIZING),
        ([ConditionType.INITIALIZED, ConditionType.RUNNING], Phase.RUNNING),
        ([ConditionType.RUNNING, ConditionType.RESTARTING], Phase.RESTARTING),
        ([ConditionType.COMPLETE], Phase.SUCCEEDED),
        ([ConditionType.RESTARTING, ConditionType.FAILED], Phase.FAILED),
    ],
)
def test_the_phase_sums_the_conditions_up(holding: list[ConditionType], phase: Phase) -> None:
    conditions: tuple[Condition, ...] = ()
    for condition_type in holding:
        conditions = set_condition(
            conditions, condition_type, True, reason="R", message="", generation=1, now=EARLY
        )
    assert derive_phase(conditions) == phase


def test_the_reason_is_that_of_the_condition_that_names_the_phase() -> None:
    turn = partial(conditions.set_condition, message="", generation=1, now="2026-01-01T00:00:00Z")
    known = turn((), ConditionType.INITIALIZED, False, reason="WaitingForPods")
    assert conditions.derive_reason(known) == "WaitingForPods"
    known = turn(known, ConditionType.DEGRADED, True, reason="ImageNotPulled")
    assert conditions.derive_reason(known) == "ImageNotPulled"
    known = turn(known, ConditionType.FAILED, True, reason="InvalidSpec")
    assert conditions.derive_reason(known) == "InvalidSpec"
