"""The phases of a recovery, from the agent's notes and those of rank 0."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kubedet_trainer.contract import RecoveryPhase
from kubedet_trainer.telemetry import recovery
from kubedet_trainer.telemetry.recovery import AgentTimes, RankTimes


def test_phases_follow_one_another_from_the_last_step_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = AgentTimes(tmp_path)
    for phase, at in (("notice", 102.0), ("stop", 103.0), ("rendezvous", 105.0)):
        agent.note(RecoveryPhase(phase), at=at)
    agent.write()
    monkeypatch.setattr(recovery, "_process_start", lambda: 106.0)
    now = iter([108.0, 109.0, 120.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    rank = RankTimes(tmp_path)
    rank.note(RecoveryPhase.JOIN)
    rank.note_restore(4.0)
    found = rank.finish(step_seconds=5.0, last_step=100.0)
    assert found is not None
    assert found.seconds == {
        "notice": 2.0,
        "stop": 1.0,
        "rendezvous": 2.0,
        "start": 1.0,
        "import": 2.0,
        "join": 1.0,
        "prepare": 2.0,
        "restore": 4.0,
        "step": 5.0,
    }
    assert found.time.endswith("Z")


def test_start_that_follows_no_loss_is_no_recovery(tmp_path: Path) -> None:
    agent = AgentTimes(tmp_path)
    agent.note(RecoveryPhase.NOTICE)
    agent.write()
    agent.note(RecoveryPhase.RENDEZVOUS)
    agent.write()
    assert not (tmp_path / "recovery.json").exists()
    assert RankTimes(tmp_path).finish(step_seconds=1.0, last_step=None) is None


def test_process_knows_when_it_began() -> None:
    assert 0 <= time.monotonic() - recovery._process_start() < 86400


def test_agent_leaves_the_end_of_each_phase(tmp_path: Path) -> None:
    agent = AgentTimes(tmp_path)
    agent.note(RecoveryPhase.NOTICE, at=5.0)
    agent.note(RecoveryPhase.STOP, at=6.0)
    agent.write()
    assert json.loads((tmp_path / "recovery.json").read_text()) == {"notice": 5.0, "stop": 6.0}
