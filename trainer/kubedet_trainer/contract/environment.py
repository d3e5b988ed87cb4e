"""How a worker is started, and where in its work directory it leaves what others read."""

from __future__ import annotations

from enum import StrEnum

METRICS_PORT = 9091
"""Default port of a worker for ``/metrics``, ``/progress`` and ``/healthz``."""

RENDEZVOUS_PORT = 29400
"""Port of the rendezvous store, torchrun's default."""

LAUNCH_MODULE = "kubedet_trainer.worker.launch"
"""``python -m`` this runs PID 1 of a worker, which starts torchrun and turns its ending into an exit code."""

RENDEZVOUS_MODULE = "kubedet_trainer.worker.rendezvous"
"""``python -m`` this runs the rendezvous store of a job with several workers."""

RECIPES_MODULE = "kubedet_trainer.recipes"
"""``python -m`` this checks a recipe and its overrides, which are its arguments, and does nothing else."""

OWN_RECIPE = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"
"""Regular expression for a recipe of the user's own, ``module:attribute``. All others have plain names."""

PROGRESS_FILE = "progress.json"
"""In the work directory: the `ProgressRecord` of rank 0, replaced atomically. Only rank 0's worker has it."""

CAPACITY_FILE = "capacity.json"
"""In the work directory: ``{"mostImages": 8}``, how many images at a time the GPUs of this worker hold."""
COMMAND_MODULE = "kubedet_trainer.commands.kubedet"
"""The command `kubedet` as a module, of which an image of the trainer has the trainer's half."""

RESULTS_FILE = "results.json"
"""In the work directory: the `Results` that rank 0 writes at the end. Next to the checkpoints: its report."""

REPORT_FILE = "report.html"
"""Next to the checkpoints: the page of the report, which every evaluation writes again."""

ZOO_PAGE_FILE = "index.html"
"""The page of a ModelZoo, in the folder of its rows' checkpoints."""

FAILURES_DIRECTORY = "failures"
"""In the work directory: one `Failure` as JSON for every rank that failed, named by `failure_file`."""

SAVING_FILE = "saving"
"""In the work directory while rank 0 is writing a checkpoint that a restart of the ranks would lose."""

RECOVERY_FILE = "recovery.json"
"""In the work directory: steady times at which the agent had ended the phases of the newest recovery."""

METRICS_DIRECTORY = "metrics"
"""In the work directory: the metrics of this worker's ranks, as prometheus_client's multiprocess files."""

LOGS_DIRECTORY = "logs"
"""In the work directory: standard output and error of every rank."""

DATASET_DIRECTORY = "dataset"
"""In the work directory: the data set, if it was downloaded or generated."""

PROPOSALS_DIRECTORY = "proposals"
"""Next to the checkpoints of an RPN: its proposals, if it was asked to write them."""

CACHE_DIRECTORY = "cache"
"""In the work directory: annotations as arrays, and other files that can be rebuilt."""


def failure_file(rank: int) -> str:
    """Name of the record that a failed rank leaves in `FAILURES_DIRECTORY`."""
    return f"rank-{rank}.json"


class Environment(StrEnum):
    """Every environment variable that the trainer reads; all values are strings.

    `trainer/kubedet_trainer/settings.py` parses them and documents each.
    """

    JOB_NAME = "KUBEDET_JOB_NAME"
    TASK = "KUBEDET_TASK"
    RECIPE = "KUBEDET_RECIPE"
    OVERRIDES = "KUBEDET_OVERRIDES"
    PRETRAINED_URI = "KUBEDET_PRETRAINED_URI"
    PRETRAINED_SHA256 = "KUBEDET_PRETRAINED_SHA256"
    WEIGHTS_MIRROR = "KUBEDET_WEIGHTS_MIRROR"
    DATASET_URI = "KUBEDET_DATASET_URI"
    DATASET_FORMAT = "KUBEDET_DATASET_FORMAT"
    TRAIN_IMAGES = "KUBEDET_TRAIN_IMAGES"
    TRAIN_ANNOTATIONS = "KUBEDET_TRAIN_ANNOTATIONS"
    VAL_IMAGES = "KUBEDET_VAL_IMAGES"
    VAL_ANNOTATIONS = "KUBEDET_VAL_ANNOTATIONS"
    VALIDATE = "KUBEDET_VALIDATE"
    TEST_IMAGES = "KUBEDET_TEST_IMAGES"
    TEST_ANNOTATIONS = "KUBEDET_TEST_ANNOTATIONS"
    PROPOSALS_URI = "KUBEDET_PROPOSALS_URI"
    PROPOSALS_ENDPOINT = "KUBEDET_PROPOSALS_ENDPOINT"
    PROPOSALS_ACCESS_KEY = "KUBEDET_PROPOSALS_ACCESS_KEY"
    PROPOSALS_SECRET_KEY = "KUBEDET_PROPOSALS_SECRET_KEY"
    PROPOSALS_CA = "KUBEDET_PROPOSALS_CA"
    DATASET_ENDPOINT = "KUBEDET_DATASET_ENDPOINT"
    DATASET_ACCESS_KEY = "KUBEDET_DATASET_ACCESS_KEY"
    DATASET_SECRET_KEY = "KUBEDET_DATASET_SECRET_KEY"
    DATASET_CA = "KUBEDET_DATASET_CA"
    CHECKPOINT_URI = "KUBEDET_CHECKPOINT_URI"
    CHECKPOINT_ENDPOINT = "KUBEDET_CHECKPOINT_ENDPOINT"
    CHECKPOINT_ACCESS_KEY = "KUBEDET_CHECKPOINT_ACCESS_KEY"
    CHECKPOINT_SECRET_KEY = "KUBEDET_CHECKPOINT_SECRET_KEY"
    CHECKPOINT_CA = "KUBEDET_CHECKPOINT_CA"
    CHECKPOINT_INTERVAL_SECONDS = "KUBEDET_CHECKPOINT_INTERVAL_SECONDS"
    CHECKPOINT_INTERVAL_ITERATIONS = "KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS"
    CHECKPOINT_KEEP_LAST = "KUBEDET_CHECKPOINT_KEEP_LAST"
    CHECKPOINT_KEEP_BEST_METRIC = "KUBEDET_CHECKPOINT_KEEP_BEST_METRIC"
    CHECKPOINT_KEEP_BEST_COUNT = "KUBEDET_CHECKPOINT_KEEP_BEST_COUNT"
    CHECKPOINT_SAVE_DEADLINE_SECONDS = "KUBEDET_CHECKPOINT_SAVE_DEADLINE_SECONDS"
    CHECKPOINT_RESUME = "KUBEDET_CHECKPOINT_RESUME"
    WRITE_PROPOSALS = "KUBEDET_WRITE_PROPOSALS"
    EVALUATE_EVERY_EPOCHS = "KUBEDET_EVALUATE_EVERY_EPOCHS"
    EVALUATION_STOP_AFTER = "KUBEDET_EVALUATION_STOP_AFTER"
    EVALUATION_REPORT = "KUBEDET_EVALUATION_REPORT"
    BENCHMARK_IMAGES = "KUBEDET_BENCHMARK_IMAGES"
    BENCHMARK_ITERATIONS = "KUBEDET_BENCHMARK_ITERATIONS"
    REPLICAS = "KUBEDET_REPLICAS"
    MIN_REPLICAS = "KUBEDET_MIN_REPLICAS"
    MAX_REPLICAS = "KUBEDET_MAX_REPLICAS"
    BATCH = "KUBEDET_BATCH"
    REPLICA_INDEX = "KUBEDET_REPLICA_INDEX"
    PROCS_PER_REPLICA = "KUBEDET_PROCS_PER_REPLICA"
    GPUS = "KUBEDET_GPUS"
    ATTEMPT = "KUBEDET_ATTEMPT"
    IMAGE = "KUBEDET_IMAGE"
    RESTART_CAUSE = "KUBEDET_RESTART_CAUSE"
    RENDEZVOUS_ENDPOINT = "KUBEDET_RENDEZVOUS_ENDPOINT"
    RENDEZVOUS_ID = "KUBEDET_RENDEZVOUS_ID"
    LOCAL_ADDRESS = "KUBEDET_LOCAL_ADDRESS"
    METRICS_PORT = "KUBEDET_METRICS_PORT"
    WORK_DIRECTORY = "KUBEDET_WORK_DIRECTORY"
    TERMINATION_MESSAGE_PATH = "KUBEDET_TERMINATION_MESSAGE_PATH"
    GRACE_SECONDS = "KUBEDET_GRACE_SECONDS"
    HANG_TIMEOUT_SECONDS = "KUBEDET_HANG_TIMEOUT_SECONDS"
    HANG_MEDIAN_STEPS = "KUBEDET_HANG_MEDIAN_STEPS"


class Task(StrEnum):
    """What a run does; the value of `Environment.TASK`."""

    TRAIN = "Train"
    """Train the recipe and report its row."""
    MEASURE = "Measure"
    """Report the row of weights that exist: their figures on the validation split, and the speed and memory
    of some training steps, of which nothing is kept. It needs no training split."""
    BENCHMARK = "Benchmark"
    """Take some training steps for their speed and memory, and evaluate nothing. Not part of the API."""


class BatchPolicy(StrEnum):
    """What stays the same when the number of processes changes; the value of `Environment.BATCH`."""

    KEEP_GLOBAL = "KeepGlobal"
    """The images of a step, as far as the processes can divide them evenly."""
    SCALE_LEARNING_RATE = "ScaleLearningRate"
    """The images of each process; the learning rate follows the linear rule of Goyal et al., 2017."""


class ReportedCheckpoint(StrEnum):
    """The checkpoint whose figures are the row; the value of `Environment.EVALUATION_REPORT`."""

    LAST = "Last"
    """That of the last iteration."""
    BEST = "Best"
    """That of the best evaluation."""
