"""What the operator and the trainer promise each other, named once.

The operator runs the trainer as a program: environment variables in; exit code, progress record and
termination message out. Both halves take the names from here. It uses only the standard library, so that the
operator's image does not need torch.
"""

from kubedet_trainer.contract.codes import (
    ExitCode,
    FailureClass,
    failure_class,
)
from kubedet_trainer.contract.environment import (
    CACHE_DIRECTORY,
    DATASET_DIRECTORY,
    FAILURES_DIRECTORY,
    LAUNCH_MODULE,
    LOGS_DIRECTORY,
    METRICS_DIRECTORY,
    METRICS_PORT,
    OWN_RECIPE,
    PROGRESS_FILE,
    PROPOSALS_DIRECTORY,
    RECIPES_MODULE,
    RENDEZVOUS_MODULE,
    RENDEZVOUS_PORT,
    REPORT_FILE,
    RESULTS_FILE,
    BatchPolicy,
    Environment,
    ReportedCheckpoint,
    failure_file,
)
from kubedet_trainer.contract.records import (
    COMPARABLE_PRECISIONS,
    TERMINATION_MESSAGE_BYTES,
    CheckpointStatus,
    Failure,
    Progress,
    ProgressRecord,
    Results,
    Stage,
    TimePhase,
    TimeSpent,
    dump_termination_message,
    without_none,
)

__all__ = [
    "CACHE_DIRECTORY",
    "COMPARABLE_PRECISIONS",
    "DATASET_DIRECTORY",
    "FAILURES_DIRECTORY",
    "LAUNCH_MODULE",
    "LOGS_DIRECTORY",
    "METRICS_DIRECTORY",
    "METRICS_PORT",
    "OWN_RECIPE",
    "PROGRESS_FILE",
    "PROPOSALS_DIRECTORY",
    "RECIPES_MODULE",
    "RENDEZVOUS_MODULE",
    "RENDEZVOUS_PORT",
    "REPORT_FILE",
    "RESULTS_FILE",
    "TERMINATION_MESSAGE_BYTES",
    "BatchPolicy",
    "CheckpointStatus",
    "Environment",
    "ExitCode",
    "Failure",
    "FailureClass",
    "Progress",
    "ProgressRecord",
    "ReportedCheckpoint",
    "Results",
    "Stage",
    "TimePhase",
    "TimeSpent",
    "dump_termination_message",
    "failure_class",
    "failure_file",
    "without_none",
]
