"""Scenarios: every exit code of the contract, and whom it is charged to."""

from __future__ import annotations

from kubedet_trainer.contract import ExitCode
from scenario import Scenario, crash

_PERMANENT = (
    ExitCode.UNEXPECTED,
    ExitCode.USAGE,
    ExitCode.INVALID_INPUT,
    ExitCode.MISSING_INPUT,
    ExitCode.CREDENTIALS_REFUSED,
    ExitCode.NO_RESTART,
    ExitCode.OUT_OF_GPU_MEMORY,
    ExitCode.LOSS_NOT_FINITE,
)
_APPLICATION = (ExitCode.ABORTED, ExitCode.KILLED, ExitCode.CRASHED, ExitCode.HANG)
_INFRASTRUCTURE = (
    ExitCode.TERMINATED_SAVED,
    ExitCode.TERMINATED_UNSAVED,
    ExitCode.RENDEZVOUS_LOST,
    ExitCode.GPU_HARDWARE,
    ExitCode.STORAGE_UNREACHABLE,
    ExitCode.PEER_FAILED,  # the only one: what it saw fail left no trace
)

CODES = [
    *(
        Scenario(
            name=f"exit code {code.value} is permanent",
            spec={},
            steps=[
                {"run": [0]},
                crash(code=code.value),
                {"expect": {"Failed": "True PermanentFailure", "restarts.total": 0, "workers": [0]}},
                {"expect": {"lastFailure.exitCode": code.value, "lastFailure.class": "Permanent"}},
            ],
        )
        for code in _PERMANENT
    ),
    *(
        Scenario(
            name=f"exit code {code.value} is the application's",
            spec={},
            steps=[
                {"run": [0]},
                crash(code=code.value),
                {"expect": {"phase": "Restarting", "restarts.application": 1, "workers": [0]}},
                {"expect": {"restarts.infrastructure": 0, "lastFailure.class": "Application"}},
            ],
        )
        for code in _APPLICATION
    ),
    *(
        Scenario(
            name=f"exit code {code.value} is a disruption",
            spec={"backoffLimit": 0},
            steps=[
                {"run": [0]},
                crash(code=code.value),
                {"expect": {"phase": "Restarting", "restarts.infrastructure": 1, "workers": [0]}},
                {"expect": {"restarts.application": 0, "lastFailure.class": "Infrastructure"}},
            ],
        )
        for code in _INFRASTRUCTURE
    ),
]
