"""What a pod's end means, before anything is decided about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import world
from kubedet_operator.api.policies import FailureRule
from kubedet_operator.decision.failures import PodFailure, read_failure
from kubedet_trainer import contract
from kubedet_trainer.contract import FailureClass


def _read(*rules: FailureRule, message: str = "", code: int = 139) -> PodFailure:
    found = read_failure(world.pod(exit_code=code, message=message), rules=rules, now=world.NOW)
    assert found is not None
    return found


def _record(**fields: Any) -> str:
    failure = contract.Failure(exitCode=139, reason="Crashed", message="signal 11", **fields)
    return contract.dump_termination_message(failure=failure)


def test_the_time_is_that_of_the_first_rank_where_it_left_one() -> None:
    assert _read(message=_record(time="2026-01-01T00:09:58.5+00:00")).time == datetime(
        2026, 1, 1, 0, 9, 58, 500000, UTC
    )
    for unusable in ("2026-01-01T00:09:58", "yesterday", "2099-01-01T00:00:00Z"):
        assert _read(message=_record(time=unusable)).time == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def test_the_last_lines_are_the_record_s_or_else_the_log_s() -> None:
    assert _read(message=_record(lastLines=["a", "b"])).last_lines == ("a", "b")
    assert _read(message="one\ntwo\n").last_lines == ("one", "two")
    assert len(_read(message="\n".join(map(str, range(99)))).last_lines) == 20


def test_the_first_rule_that_matches_in_full_wins() -> None:
    both = FailureRule(name="both", onExitCodes=(139,), onMessagePatterns=("signal 7",), action="FailJob")
    code = FailureRule(name="code", onExitCodes=(139, 134), action="RestartIgnoreLimit")
    later = FailureRule(name="later", onExitCodes=(139,), action="FailJob")
    found = _read(both, code, later, message=_record())
    assert (found.rule, found.charged_to) == ("code", FailureClass.INFRASTRUCTURE)
    assert _read(both, message=_record()).rule is None


def test_a_rule_finds_its_pattern_in_the_log_too() -> None:
    rule = FailureRule(name="nccl", onMessagePatterns=("NCCL.*remote",), action="Restart")
    assert _read(rule, message=_record(lastLines=["NCCL WARN remote process exited"])).rule == "nccl"


def test_a_disruption_is_dated_by_whoever_tells_of_it() -> None:
    told = {"type": "DisruptionTarget", "status": "True", "reason": "Evicted"}
    pod = world.pod(conditions=[{**told, "lastTransitionTime": "2026-01-01T00:30:00Z"}], phase="Failed")
    found = read_failure(pod, now=world.NOW)
    assert found is not None
    assert (found.time, found.is_dated) == (datetime(2026, 1, 1, 0, 30, tzinfo=UTC), True)
    undated = read_failure(world.pod(conditions=[told], phase="Failed"), now=world.NOW)
    assert undated is not None
    assert (undated.time, undated.is_dated) == (world.NOW, False)


def test_no_text_of_a_pod_controls_the_terminal_that_shows_it() -> None:
    said = "loss\x1b]0;title\x07 \x00\x9b2J\tdone"
    shown = "loss�]0;title� ��2J\tdone"
    assert _read(message=f"{said}\n").last_lines == (shown,)
    assert _read(message=said).message == shown.replace("\t", " ")
    waiting = world.pod(waiting="ImagePullBackOff", message=said, phase="Pending")
    assert waiting.waiting_message == shown
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    assert world.pod(phase="Pending", conditions=[unplaced]).unscheduled == shown
