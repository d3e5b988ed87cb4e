"""The DetectionJob: every field that a user may set, with its default, bounds and description.

`policies` holds the parts that say how a job runs: `elasticPolicy`, `failurePolicy` and `schedulingPolicy`.
`schema` derives the CRD from both, `parse_job` reads manifests by them, and `validation` checks values
against them. `status` has what the operator writes. Names are those of the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kubedet_operator.api import decoding, names
from kubedet_operator.api.dataset import (
    BUCKET,
    CLAIM,
    ENDPOINT,
    FILE,
    MIRROR_URI,
    STORE_URI,
    WEIGHTS_URI,
    Dataset,
    SecretReference,
)
from kubedet_operator.api.fields import Pattern, Quantity, bounded
from kubedet_operator.api.policies import MAX_SECONDS, ElasticPolicy, FailurePolicy, SchedulingPolicy
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_trainer import contract

RECIPE = Pattern(
    regex=rf"[a-z0-9][a-z0-9_.-]*|{contract.OWN_RECIPE}",
    meaning="a name that `kubedet recipes` lists, or module:attribute",
)
CONTROLLER = Pattern(
    regex=r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?",
    meaning=f"a domain and a name, such as {names.MANAGED_BY}",
)
_QUANTITY = Pattern(
    regex=r"[0-9]+([.][0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", meaning="a quantity such as 16Gi"
)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to start from, or to measure, instead of the recipe's own."""

    storageUri: str = bounded(min_length=1, pattern=WEIGHTS_URI)
    """Weights of a backbone, or of a whole detector for any classes (task Measure: for those of the data). A
    file, a checkpoint, or the place of checkpoints, of which the newest is used. s3:// (read with the
    checkpoint's Secret), pvc://, file://, or https:// for a file."""
    sha256: str | None = bounded(
        default=None, max_length=64, pattern=Pattern(regex=r"[0-9a-f]{64}", meaning="64 hexadecimal digits")
    )
    """SHA-256 of the file, or of the checkpoint's state. Another hash is refused."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentVariable:
    """An environment variable to add to the worker's container, as in a pod."""

    name: str = bounded(
        min_length=1,
        max_length=253,
        pattern=Pattern(regex=r"[-._a-zA-Z][-._a-zA-Z0-9]*", meaning="the name of an environment variable"),
    )
    """Name of the variable. The prefix KUBEDET_ is reserved."""
    value: str | None = bounded(default=None, max_length=32768)
    """Value of the variable."""
    valueFrom: Mapping[str, Any] | None = bounded(default=None, shape="EnvVarSource")
    """Source of the value, as in a pod."""


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint that the worker pods tolerate, as in a pod."""

    key: str | None = bounded(default=None, max_length=317)
    """Key of the taint. With operator Exists and no key, every taint is tolerated."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the value is compared. Default: Equal."""
    value: str | None = bounded(default=None, max_length=63)
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Absent: every effect."""
    tolerationSeconds: int | None = None
    """Seconds for which a NoExecute taint is tolerated."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Compute resources of the worker's container other than its GPUs, as in a pod."""

    limits: Mapping[str, Quantity] = bounded(default_factory=dict, max_items=16, pattern=_QUANTITY)
    """Upper limits of the container. sharedMemory counts against the memory limit."""
    requests: Mapping[str, Quantity] = bounded(default_factory=dict, max_items=16, pattern=_QUANTITY)
    """Resources that the scheduler reserves."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The pods that train: number, size and image."""

    replicas: int = bounded(default=1, minimum=1, maximum=1000)
    """Number of worker pods; `kubectl scale` sets it. Without elasticPolicy a change restarts them all."""
    gpus: int = bounded(default=8, minimum=0, maximum=64)
    """GPUs of each pod. 0 trains on CPUs, with gloo."""
    gpuResource: str = bounded(default="nvidia.com/gpu", min_length=1, max_length=317)
    """Extended resource by which the pods request GPUs."""
    procsPerReplica: int | None = bounded(default=None, minimum=1, maximum=64)
    """Ranks (training processes) of each pod. Default: one for each GPU; one on CPU."""
    image: str | None = bounded(default=None, min_length=1)
    """Trainer image. Default: the image that the operator is configured with."""
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled, as in a pod."""
    imagePullSecrets: tuple[SecretReference, ...] = bounded(default=(), max_items=16, map_key="name")
    """Secrets to pull the image with."""
    env: tuple[EnvironmentVariable, ...] = bounded(default=(), max_items=64, map_key="name")
    """Environment variables to add to the container."""
    resources: Resources = Resources()
    """CPU, memory and any other resource except the GPUs."""
    nodeSelector: Mapping[str, str] = bounded(default_factory=dict, max_items=64, max_length=63)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = bounded(default=(), max_items=64)
    """Taints that the pods tolerate. Unless listed here, not-ready and unreachable are tolerated for 30 s."""
    affinity: Mapping[str, Any] | None = bounded(default=None, shape="Affinity")
    """Affinity of the pods, as in a pod."""
    sharedMemory: Quantity | None = bounded(default=None, max_length=32, pattern=_QUANTITY)
    """Size of the memory volume at /dev/shm, which counts against the memory limit. Default: 16Gi with
    GPUs, 1Gi on CPU."""
    terminationGracePeriodSeconds: int = bounded(default=120, minimum=1, maximum=86400)
    """Seconds between SIGTERM and SIGKILL. The worker must save its checkpoint within this time."""
    template: Mapping[str, Any] | None = bounded(default=None, shape="PodTemplate")
    """Partial PodTemplateSpec, merged last over worker and rendezvous pods, for what no other field sets."""


@dataclass(frozen=True, kw_only=True)
class KeepBest:
    """Keeps the checkpoints with the best evaluation, in addition to the newest ones."""

    metric: str = bounded(
        default="boxAP",
        min_length=1,
        max_length=64,
        pattern=Pattern(regex=r"[a-zA-Z][a-zA-Z0-9]*", meaning="the name of a metric, such as boxAP"),
    )
    """Metric to compare by. Greater is better."""
    count: int = bounded(default=1, minimum=1, maximum=100)
    """Number of best checkpoints to keep."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where and how often the training saves its state. Default: at the end of every epoch."""

    storageUri: str = bounded(min_length=1, pattern=STORE_URI)
    """Location of the checkpoints: s3://bucket/prefix, pvc://claim/path or file:///path. Immutable once a
    worker has trained."""
    endpoint: str | None = bounded(default=None, pattern=ENDPOINT)
    """Address of the object store. Default: the key endpoint of the Secret, else AWS."""
    secretRef: SecretReference | None = None
    """Secret with the keys accessKey and secretKey, and optionally endpoint and ca.crt."""
    intervalSeconds: int | None = bounded(default=None, minimum=1, maximum=604800)
    """Seconds between two checkpoints. Excludes intervalIterations."""
    intervalIterations: int | None = bounded(default=None, minimum=1, maximum=100000000)
    """Iterations between two checkpoints. Excludes intervalSeconds."""
    keepLast: int = bounded(default=3, minimum=1, maximum=1000)
    """Number of newest checkpoints to keep."""
    keepBest: KeepBest | None = None
    """Best checkpoints to keep in addition. Default: none."""
    saveDeadlineSeconds: int = bounded(default=1800, minimum=0, maximum=604800)
    """How long saves may fail, and are tried again next to the training, before the workers restart."""
    resume: str = bounded(
        default="Auto",
        min_length=1,
        pattern=Pattern(
            regex=rf"(Auto|Never|{BUCKET}|{CLAIM}|{FILE})",
            meaning="Auto, Never or the URI of one checkpoint",
        ),
    )
    """Where to resume from: Auto (the newest intact checkpoint), Never, or the URI of one checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When the detector is evaluated on the validation split, and what follows from it."""

    everyEpochs: int = bounded(default=1, minimum=1, maximum=1000)
    """Epochs between two evaluations. The last epoch is always evaluated."""
    stopAfter: int | None = bounded(default=None, minimum=1, maximum=1000)
    """Evaluations in a row without a better one after which the training ends and the job is complete. The
    metric is that of checkpoint.keepBest, else boxAP, or ar1000 for proposals. Default: never."""
    report: Literal["Last", "Best"] = "Last"
    """Checkpoint whose figures are the row: that of the last epoch, or that with the best evaluation, by the
    metric of stopAfter. The best one is then kept until the end."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measurement of the frames per second at batch size 1, including loading and post-processing; for task
    Measure of training steps, too."""

    enabled: bool = True
    """Whether to measure. Without it task Measure takes no training steps either."""
    images: int = bounded(default=200, minimum=1, maximum=100000)
    """Number of validation images to time."""
    iterations: int = bounded(default=200, minimum=1, maximum=100000)
    """Training steps of a job with task Measure, for seconds per iteration and memory. The first 50 are not
    timed; of fewer than 100 the first half."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Where workers serve /metrics, /progress and /healthz."""

    port: int = bounded(default=contract.METRICS_PORT, minimum=1024, maximum=65535)
    """Port in every worker pod."""


@dataclass(frozen=True, kw_only=True)
class DetectionJobSpec:
    """What to train, on which data set, and with how many pods."""

    task: Literal["Train", "Measure"] = "Train"
    """Train: train the recipe. Measure: report the row of the weights in pretrained, by default of those that
    the zoo published: their precision on the validation split, and the speed and memory of some training
    steps, of which nothing is kept. It reads no training split. Immutable once a worker has trained."""
    recipe: str = bounded(min_length=1, max_length=128, pattern=RECIPE)
    """A name that `kubedet recipes` lists, or module:attribute for a recipe of your own in a Python module
    that the worker can import. Immutable once a worker has trained."""
    overrides: Mapping[str, str] = bounded(default_factory=dict, max_items=64, max_length=256)
    """Fields of the recipe to change, such as optimizer.lr: "0.01". Immutable once a worker has trained.
    `kubedet explain spec.overrides` lists the fields."""
    pretrained: Pretrained | None = None
    """Weights to start from. Default: the recipe's own. With task Measure: the weights to measure. Default:
    those that the zoo published for the recipe."""
    weightsMirror: str | None = bounded(default=None, min_length=1, pattern=MIRROR_URI)
    """Address of a mirror of the published weights, which has each file by its published path or its name."""
    dataset: Dataset
    """The data to train and validate on. Immutable once a worker has trained."""
    writeProposals: bool = False
    """Whether an RPN writes its proposals for both splits next to its checkpoints when it is trained (task
    Measure: for the validation split). Jobs that name it in dataset.proposals.fromJob take them."""
    worker: Worker = field(default_factory=Worker)
    """The pods that train."""
    elasticPolicy: ElasticPolicy | None = None
    """Lets the number of workers change while the job trains. Absent: the number is fixed."""
    backoffLimit: int = bounded(default=3, minimum=0, maximum=1000)
    """Restarts after application failures before the job fails, counted since the newest checkpoint."""
    failurePolicy: FailurePolicy = field(default_factory=FailurePolicy)
    """Limits for other failures, exceptions by rule, hang detection and nodes to avoid."""
    suspend: bool = False
    """True saves a checkpoint and deletes the pods, but keeps the job. False resumes it."""
    managedBy: str = bounded(default=names.MANAGED_BY, min_length=1, max_length=63, pattern=CONTROLLER)
    """Controller of this job. The operator ignores jobs of others. Immutable once the job has started."""
    activeDeadlineSeconds: int | None = bounded(default=None, minimum=1, maximum=MAX_SECONDS)
    """Seconds until an unfinished job fails. Suspended time does not count."""
    preRunningDeadlineSeconds: int | None = bounded(default=None, minimum=1, maximum=MAX_SECONDS)
    """Seconds that the workers may take from the creation of their pods until all run, at the start and
    after a resume. Then the job fails."""
    ttlSecondsAfterFinished: int | None = bounded(default=None, minimum=0, maximum=MAX_SECONDS)
    """Seconds after its end until the job and its pods are deleted. Absent: never."""
    cleanPodPolicy: Literal["Running", "All", "None"] = "Running"
    """Pods to delete when the job ends. Running: those that still run. All: all except the one that explains
    a failure. None: no pods."""
    schedulingPolicy: SchedulingPolicy = field(default_factory=SchedulingPolicy)
    """How the worker pods are queued and scheduled."""
    checkpoint: Checkpoint | None = None
    """Where checkpoints are kept. Without it the loss of a pod is the loss of the whole training."""
    evaluation: Evaluation = Evaluation()
    """When to evaluate the detector, when to stop early, and which checkpoint to report."""
    benchmark: Benchmark = Benchmark()
    """Whether to measure the speed of inference, and on how many images."""
    metrics: Metrics = Metrics()
    """Where workers serve metrics and progress."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What kubedet reads of an object's metadata."""

    name: str = ""
    namespace: str = "default"
    uid: str | None = None
    """None before the API server has stored the object: local mode and `kubedet render`."""
    generation: int = 0
    deletionTimestamp: str | None = None
    creationTimestamp: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DetectionJob:
    """Trains or measures one detector on one data set and reports its row of the model zoo."""

    metadata: Metadata
    spec: DetectionJobSpec
    """The desired training."""
    status: DetectionJobStatus = field(default_factory=DetectionJobStatus)
    """The observed state of the training."""


def parse_job(manifest: Mapping[str, Any]) -> DetectionJob:
    """The typed view of a DetectionJob's manifest, defaults filled in.

    The spec is read strictly. Metadata and status, which others write too, keep only the fields that kubedet
    knows. Bounds and rules across fields are not checked here: `validation.validate` does that.

    Raises:
        decoding.InvalidManifest: all unknown fields, missing fields and values of another type.
    """
    found: list[decoding.Violation] = []
    job = decode_job(manifest, found=found)
    if found or job is None:
        raise decoding.InvalidManifest(found)
    return job


def decode_job(manifest: Mapping[str, Any], *, found: list[decoding.Violation]) -> DetectionJob | None:
    """Like `parse_job`, but adds violations to `found` and returns what could be read, if anything."""
    for path, expected in (("apiVersion", names.API_VERSION), ("kind", names.KIND)):
        if manifest.get(path) != expected:
            found.append(decoding.Violation(path=path, got=manifest.get(path), rule=f"must be {expected}"))
    metadata = decoding.decode(
        Metadata, manifest.get("metadata") or {}, path="metadata", found=found, strict=False
    )
    spec = decoding.decode(DetectionJobSpec, manifest.get("spec") or {}, path="spec", found=found)
    status = decoding.decode(
        DetectionJobStatus, manifest.get("status") or {}, path="status", found=found, strict=False
    )
    if metadata is None or spec is None or status is None:
        return None
    return DetectionJob(metadata=metadata, spec=spec, status=status)
