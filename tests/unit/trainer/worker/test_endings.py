"""Every ending of the contract, from what the agent, the ranks and the kernel say."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from typing import Any

import pytest

from kubedet_trainer.contract import Failure, FailureClass, failure_class
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.worker import endings
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding


def rank(exit_code: int, *, number: int = 0, time: float = 100.0) -> RankEnding:
    return RankEnding(rank=number, exit_code=exit_code, time=time, last_lines=["the end"])


def failed(*ranks: RankEnding) -> AgentEnding:
    return AgentEnding(outcome=Outcome.RANK_FAILED, ranks=list(ranks), joined=True)


def record(code: int, *, number: int = 0, second: int = 0, reason: str = "Recorded") -> Failure:
    return Failure(
        exitCode=code,
        reason=reason,
        message="m",
        rank=number,
        time=f"2026-01-01T00:00:{second:02d}.000Z",
    )


ENDINGS: dict[str, tuple[AgentEnding, dict[str, Any], tuple[int, str] | None]] = {
    "done": (AgentEnding(outcome=Outcome.FINISHED), {}, None),
    "python exception": (failed(rank(1)), {"records": [record(1, reason="ValueError")]}, (1, "ValueError")),
    "usage": (failed(rank(2)), {"records": [record(2)]}, (2, "Recorded")),
    "invalid input": (failed(rank(65)), {"records": [record(65)]}, (65, "Recorded")),
    "missing input": (failed(rank(66)), {"records": [record(66)]}, (66, "Recorded")),
    "credentials": (failed(rank(77)), {"records": [record(77)]}, (77, "Recorded")),
    "do not restart, no record": (failed(rank(93)), {}, (93, "NoRestart")),
    "out of GPU memory": (failed(rank(95)), {"records": [record(95)]}, (95, "Recorded")),
    "loss not finite": (failed(rank(96)), {"records": [record(96)]}, (96, "Recorded")),
    "record of a rank that was killed while it waited": (
        failed(rank(-9, number=1), rank(-9)),
        {"records": [record(96, number=1)]},
        (96, "Recorded"),
    ),
    "unknown code": (failed(rank(3)), {}, (3, "Exited")),
    "abort": (failed(rank(-signal.SIGABRT)), {}, (134, "SIGABRT")),
    "bus error": (failed(rank(-signal.SIGBUS)), {}, (135, "SIGBUS")),
    "segmentation fault": (failed(rank(-signal.SIGSEGV)), {}, (139, "SIGSEGV")),
    "killed": (failed(rank(-signal.SIGKILL)), {}, (137, "SIGKILL")),
    "real-time signal": (failed(rank(-40)), {}, (168, "Signal40")),
    "killed for memory": (failed(rank(-signal.SIGKILL)), {"memory_limit_hit": True}, (137, "OOMKilled")),
    "crash is not blamed on memory": (
        failed(rank(-signal.SIGSEGV)),
        {"memory_limit_hit": True},
        (139, "SIGSEGV"),
    ),
    "stopped and saved": (
        AgentEnding(outcome=Outcome.TERMINATED, ranks=[rank(143), rank(143, number=1)]),
        {"stop_requested": True},
        (143, "TerminatedSaved"),
    ),
    "stopped before the ranks could handle the signal": (
        AgentEnding(outcome=Outcome.TERMINATED, ranks=[rank(-signal.SIGTERM)]),
        {"stop_requested": True},
        (143, "TerminatedSaved"),
    ),
    "stopped before any rank ran": (
        AgentEnding(outcome=Outcome.TERMINATED),
        {"stop_requested": True},
        (143, "TerminatedSaved"),
    ),
    "stopped while the agent was importing": (
        AgentEnding(outcome=Outcome.CRASHED, exit_code=-signal.SIGTERM),
        {"stop_requested": True},
        (143, "TerminatedSaved"),
    ),
    "stopped, the save failed": (
        AgentEnding(outcome=Outcome.TERMINATED, ranks=[rank(143), rank(144, number=1)]),
        {"stop_requested": True},
        (144, "TerminatedUnsaved"),
    ),
    "stopped, killed while saving": (
        AgentEnding(outcome=Outcome.TERMINATED, ranks=[rank(-9)]),
        {"stop_requested": True},
        (144, "TerminatedUnsaved"),
    ),
    "stopped, the agent had to be killed": (
        AgentEnding(outcome=Outcome.CRASHED, exit_code=-9),
        {"stop_requested": True},
        (144, "TerminatedUnsaved"),
    ),
    "stopped just as it finished": (
        AgentEnding(outcome=Outcome.FINISHED),
        {"stop_requested": True},
        None,
    ),
    "stopped, but the loss had become NaN": (
        AgentEnding(outcome=Outcome.TERMINATED, ranks=[rank(-9)]),
        {"stop_requested": True, "records": [record(96)]},
        (96, "Recorded"),
    ),
    "store lost": (AgentEnding(outcome=Outcome.RENDEZVOUS_LOST), {}, (150, "RendezvousLost")),
    "peers missing": (AgentEnding(outcome=Outcome.RENDEZVOUS_INCOMPLETE), {}, (150, "RendezvousLost")),
    "run closed by a peer": (AgentEnding(outcome=Outcome.RENDEZVOUS_CLOSED), {}, (151, "PeerFailed")),
    "only peers failed": (failed(rank(151), rank(151, number=1)), {}, (151, "PeerFailed")),
    "peer failed first, own crash later": (
        failed(rank(151, time=1), rank(-signal.SIGSEGV, number=1, time=2)),
        {},
        (139, "SIGSEGV"),
    ),
    "told to stop because a peer failed": (
        failed(rank(-15, time=1), rank(151, number=1, time=2)),
        {},
        (151, "PeerFailed"),
    ),
    "hang": (failed(rank(152)), {}, (152, "Hang")),
    "GPU hardware": (failed(rank(153)), {"records": [record(153)]}, (153, "Recorded")),
    "storage": (failed(rank(154)), {"records": [record(154)]}, (154, "Recorded")),
    "agent broken": (AgentEnding(outcome=Outcome.CRASHED, exit_code=1), {}, (1, "Unexpected")),
    "agent killed for memory": (
        AgentEnding(outcome=Outcome.CRASHED, exit_code=-9),
        {"memory_limit_hit": True},
        (137, "OOMKilled"),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_ending_is_translated_to_the_contract(name: str) -> None:
    ending, evidence, expected = ENDINGS[name]
    failure = endings.translate(ending, **evidence)
    assert (failure and (failure.exitCode, failure.reason)) == expected
    if failure is not None:
        assert failure.message
        assert failure.time


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (record(139, number=0, second=5), record(134, number=1, second=4), 1),
        (record(139, number=0, second=5), record(151, number=1, second=4), 0),
        (record(143, number=0, second=1), record(154, number=1, second=4), 1),
        (record(143, number=0, second=1), record(151, number=1, second=4), 1),
        (record(151, number=0, second=2), record(151, number=1, second=1), 1),
    ],
)
def test_earliest_failure_wins_and_peers_count_last(first: Failure, second: Failure, expected: int) -> None:
    cause = endings.root_cause([first, second])
    assert cause is not None
    assert cause.rank == expected


def test_root_cause_is_a_permanent_record_even_when_a_crash_came_first() -> None:
    failure = endings.translate(
        failed(rank(-signal.SIGSEGV, time=0), rank(-9, number=1)), records=[record(65, number=1)]
    )
    assert failure is not None
    assert failure.exitCode == 65


_ABORT = (
    "terminate called after throwing an instance of 'c10::DistBackendError'\n"
    "  what():  [PG ID 0 Rank 1] Process group watchdog thread terminated with exception: "
)


@pytest.mark.parametrize(
    ("said", "expected", "words"),
    [
        ("NCCL error: remote process exited or there was a network error", 151, "another rank went away"),
        ("CUDA error: uncorrectable NVLink error detected during the execution", 153, "a GPU is broken"),
        ("CUDA error: unspecified launch failure", 134, "the GPU or one of its libraries failed"),
        ("std::bad_alloc", 134, "aborted in native code"),
    ],
)
def test_a_watchdogs_abort_is_what_the_watchdog_says(said: str, expected: int, words: str) -> None:
    ending = endings.rank_ending(1, exit_code=-signal.SIGABRT, time=100.0, output=_ABORT + said)
    failure = endings.translate(failed(ending))
    assert failure is not None
    assert failure.exitCode == expected
    assert failure.message.startswith(f"rank 1: {words}")


def test_an_abort_for_a_lost_peer_is_no_crash_of_this_worker() -> None:
    said = _ABORT + "NCCL error: remote process exited or there was a network error"
    ending = endings.rank_ending(0, exit_code=-signal.SIGABRT, time=100.0, output=said)
    assert not endings.is_crash(ending.exit_code)
    assert endings.is_worth_a_restart([ending.exit_code], crashes_in_a_row=0)


def test_last_lines_of_a_crashed_rank_are_kept() -> None:
    failure = endings.translate(failed(rank(-signal.SIGSEGV, number=3)))
    assert failure is not None
    assert (failure.rank, failure.lastLines) == (3, ["the end"])
    assert "rank 3" in failure.message


@pytest.mark.parametrize(
    ("exit_codes", "crashes", "expected"),
    [
        ([-9], 1, True),
        ([-9], endings.RANK_CRASHES_IN_A_ROW, False),
        ([151], 0, True),
        ([143, 143], 0, True),
        ([154], 1, True),
        ([1, 151], 1, False),
        ([65], 1, False),
        ([153], 1, False),
    ],
)
def test_group_restarts_only_while_that_can_help(exit_codes: list[int], crashes: int, expected: bool) -> None:
    assert endings.is_worth_a_restart(exit_codes, crashes_in_a_row=crashes) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (-9, True),
        (139, True),
        (1, True),
        (154, True),
        (0, False),
        (143, False),
        (144, False),
        (151, False),
        (-15, False),
    ],
)
def test_only_own_failures_count_as_crashes(code: int, expected: bool) -> None:
    assert endings.is_crash(code) is expected


def test_agent_ending_survives_its_file() -> None:
    ending = AgentEnding(
        outcome=Outcome.RANK_FAILED, ranks=[rank(-11, number=2)], joined=True, message="said torch"
    )
    assert endings.parse_agent_ending(json.dumps(asdict(ending))) == ending


def test_half_written_records_are_skipped(tmp_path: Any) -> None:
    (tmp_path / "rank-0.json").write_text(json.dumps({"exitCode": 65, "reason": "R", "message": "m"}))
    (tmp_path / "rank-1.json").write_text('{"exitCode": 6')
    assert [item.exitCode for item in endings.read_failures(tmp_path)] == [65]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MissingInput("no file"), 66, "MissingInput"),
        (InvalidInput("bad"), 65, "InvalidInput"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"),
    ],
)
def test_exception_becomes_a_failure_with_its_code(error: Exception, code: int, reason: str) -> None:
    failure = endings.failure_of(error, last_lines=["traceback"])
    assert (failure.exitCode, failure.reason) == (code, reason)
    assert failure.message
    assert failure_class(failure.exitCode) is FailureClass.PERMANENT
