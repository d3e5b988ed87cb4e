"""The DetectionJob: every field a user may set, with its default, bounds and description.

This is the one place for all of them. `schema` prints the CRD from here, `parse_job` reads manifests by it,
and `validation` checks values against it; `status` has the other half. Names are the API's, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kubedet_operator.api import decoding, names
from kubedet_operator.api.fields import Pattern, Quantity, bounded
from kubedet_operator.api.policies import MAX_SECONDS, ElasticPolicy, FailurePolicy, SchedulingPolicy
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_trainer import contract

_DNS_NAME = Pattern(regex=r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", meaning="the name of an object (lower case)")
_BUCKET = r"s3://[a-z0-9][-.a-z0-9]+(/[^?#]*)?"
_CLAIM = r"pvc://[a-z0-9][-.a-z0-9]*(/[^?#]*)?"
_FILE = r"file:///[^?#]+"
_DATASET_URI = Pattern(
    regex=rf"({_BUCKET}|{_CLAIM}|{_FILE}|synthetic://shapes([?][a-zA-Z0-9_=&.-]*)?)",
    meaning="s3://bucket/prefix, pvc://claim/path, file:///path or synthetic://shapes",
)
_STORE_URI = Pattern(
    regex=rf"({_BUCKET}|{_CLAIM}|{_FILE})", meaning="s3://bucket/prefix, pvc://claim/path or file:///path"
)
_WEIGHTS_URI = Pattern(
    regex=rf"({_BUCKET}|{_CLAIM}|{_FILE}|https?://[^?#]+)",
    meaning="s3://bucket/file, pvc://claim/file, file:///file or https://host/file",
)
_MIRROR_URI = Pattern(
    regex=_WEIGHTS_URI.regex,
    meaning="https://host/path, s3://bucket/prefix, pvc://claim/path or file:///path",
)
_ENDPOINT = Pattern(regex=r"https?://[^/?#]+/?", meaning="https://host:port or http://host:port")
_RELATIVE_PATH = Pattern(regex=r"[^/].*", meaning="a path relative to the data set's storageUri")
_QUANTITY = Pattern(
    regex=r"[0-9]+([.][0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", meaning="a quantity such as 16Gi"
)


@dataclass(frozen=True, kw_only=True)
class SecretReference:
    """A Secret in the job's namespace; only the worker's kubelet reads it, never the operator."""

    name: str = bounded(min_length=1, max_length=253, pattern=_DNS_NAME)
    """Name of the Secret."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights that training starts from, instead of the recipe's own."""

    storageUri: str = bounded(min_length=1, pattern=_WEIGHTS_URI)
    """File of backbone or whole-model weights: s3:// (with the checkpoint's Secret), pvc://, file://, https://."""
    sha256: str | None = bounded(
        default=None, max_length=64, pattern=Pattern(regex=r"[0-9a-f]{64}", meaning="64 hexadecimal digits")
    )
    """SHA-256 of the file; other content is refused."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where images and annotations lie below the data set's storageUri; default: as published."""

    images: str | None = bounded(default=None, min_length=1, pattern=_RELATIVE_PATH)
    """Folder of the images."""
    annotations: str | None = bounded(default=None, min_length=1, pattern=_RELATIVE_PATH)
    """COCO: the annotation file. VOC: the lists of image names, separated by commas."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Regions proposed beforehand, which only Fast R-CNN needs; `kubedet propose` writes them."""

    storageUri: str = bounded(min_length=1, pattern=_STORE_URI)
    """Folder of both files: s3:// (with the data set's Secret), pvc:// or file://."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data to train and validate on. Immutable once the job has started."""

    storageUri: str = bounded(min_length=1, pattern=_DATASET_URI)
    """Where the data lies: s3://bucket/prefix, pvc://claim/path, file:///path in the image, synthetic://shapes."""
    format: Literal["COCO", "VOC"] = "COCO"
    """Layout of the annotations: one JSON file a split, or PASCAL VOC's XML files and lists."""
    train: Split = Split()
    """What to train on; default: train2017 of COCO, trainval of VOC 2007 and 2012."""
    val: Split = Split()
    """What to evaluate on; default: val2017 of COCO, test of VOC 2007."""
    proposals: Proposals | None = None
    """Regions proposed beforehand, for Fast R-CNN."""
    endpoint: str | None = bounded(default=None, pattern=_ENDPOINT)
    """Address of the object store; default: the Secret's key endpoint, else AWS."""
    secretRef: SecretReference | None = None
    """Secret with the keys accessKey and secretKey, optionally endpoint and ca.crt."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentVariable:
    """A further environment variable of the worker's container, as in a pod."""

    name: str = bounded(
        min_length=1,
        max_length=253,
        pattern=Pattern(regex=r"[-._a-zA-Z][-._a-zA-Z0-9]*", meaning="the name of an environment variable"),
    )
    """Name of the variable; KUBEDET_ is reserved."""
    value: str | None = bounded(default=None, max_length=32768)
    """Its value."""
    valueFrom: Mapping[str, Any] | None = None
    """Where its value comes from, as in a pod."""


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint that the worker pods tolerate, as in a pod."""

    key: str | None = bounded(default=None, max_length=317)
    """Key of the taint; absent with operator Exists means every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the value is compared; default: Equal."""
    value: str | None = bounded(default=None, max_length=63)
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; absent means every effect."""
    tolerationSeconds: int | None = None
    """For how long a NoExecute taint is tolerated."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Compute resources of the worker's container beside its GPUs, as in a pod."""

    limits: Mapping[str, Quantity] = bounded(default_factory=dict, max_items=16, pattern=_QUANTITY)
    """The most the container may use; sharedMemory counts against the memory."""
    requests: Mapping[str, Quantity] = bounded(default_factory=dict, max_items=16, pattern=_QUANTITY)
    """What the scheduler reserves."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The pods that train: how many, how large, and what image."""

    replicas: int = bounded(default=1, minimum=1, maximum=1000)
    """Number of worker pods, the scale subresource's field; without elasticPolicy a change restarts all."""
    gpus: int = bounded(default=8, minimum=0, maximum=64)
    """GPUs of each pod; 0 trains on CPU, with gloo."""
    gpuResource: str = bounded(default="nvidia.com/gpu", min_length=1, max_length=317)
    """Extended resource that the GPUs are asked for by."""
    procsPerReplica: int | None = bounded(default=None, minimum=1, maximum=64)
    """Processes of each pod; default: one for each GPU, one on CPU."""
    image: str | None = bounded(default=None, min_length=1)
    """Trainer image; default: the operator's."""
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled, as in a pod."""
    imagePullSecrets: tuple[SecretReference, ...] = bounded(default=(), max_items=16, map_key="name")
    """Secrets for the image's registry."""
    env: tuple[EnvironmentVariable, ...] = bounded(default=(), max_items=64, map_key="name")
    """Further environment variables."""
    resources: Resources = Resources()
    """CPU, memory and whatever else beside the GPUs."""
    nodeSelector: Mapping[str, str] = bounded(default_factory=dict, max_items=64, max_length=63)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = bounded(default=(), max_items=64)
    """Taints that the pods tolerate; node not-ready and unreachable for 30 s unless named here."""
    affinity: Mapping[str, Any] | None = None
    """Affinity of the pods, as in a pod."""
    sharedMemory: Quantity | None = bounded(default=None, max_length=32, pattern=_QUANTITY)
    """Size of the memory volume at /dev/shm, within the memory limit; default: 16Gi with GPUs, 1Gi on CPU."""
    terminationGracePeriodSeconds: int = bounded(default=120, minimum=1, maximum=86400)
    """Seconds between SIGTERM and SIGKILL; the state must be saved within them."""
    template: Mapping[str, Any] | None = None
    """Partial PodTemplateSpec, merged over worker and rendezvous pods last: the expert's way out."""


@dataclass(frozen=True, kw_only=True)
class KeepBest:
    """Keeps the checkpoints with the best evaluation beside the newest ones."""

    metric: str = bounded(
        default="boxAP",
        min_length=1,
        max_length=64,
        pattern=Pattern(regex=r"[a-zA-Z][a-zA-Z0-9]*", meaning="the name of a metric, such as boxAP"),
    )
    """Metric to compare, greater is better."""
    count: int = bounded(default=1, minimum=1, maximum=100)
    """Number of best checkpoints that are kept."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where and how often the state of the training is kept; by default at the end of every epoch only."""

    storageUri: str = bounded(min_length=1, pattern=_STORE_URI)
    """Where to keep them: s3://bucket/prefix, pvc://claim/path, file:///path. Immutable once started."""
    endpoint: str | None = bounded(default=None, pattern=_ENDPOINT)
    """Address of the object store; default: the Secret's key endpoint, else AWS."""
    secretRef: SecretReference | None = None
    """Secret with the keys accessKey and secretKey, optionally endpoint and ca.crt."""
    intervalSeconds: int | None = bounded(default=None, minimum=1, maximum=604800)
    """Seconds between two checkpoints; excludes intervalIterations."""
    intervalIterations: int | None = bounded(default=None, minimum=1, maximum=100000000)
    """Iterations between two checkpoints; excludes intervalSeconds."""
    keepLast: int = bounded(default=3, minimum=1, maximum=1000)
    """Number of newest checkpoints that are kept."""
    keepBest: KeepBest | None = None
    """Which best checkpoints are kept beside them."""
    resume: str = bounded(
        default="Auto",
        min_length=1,
        pattern=Pattern(
            regex=rf"(Auto|Never|{_BUCKET}|{_CLAIM}|{_FILE})",
            meaning="Auto, Never or the URI of one checkpoint",
        ),
    )
    """Auto: from the newest valid checkpoint below storageUri; Never; or the URI of one checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When the model is evaluated on the validation split."""

    everyEpochs: int = bounded(default=1, minimum=1, maximum=1000)
    """Epochs between two evaluations; the last epoch is always evaluated."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measures inference frames per second at batch size 1, loading and post-processing included."""

    enabled: bool = True
    """Whether to measure."""
    images: int = bounded(default=200, minimum=1, maximum=100000)
    """Number of validation images that are timed."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Where workers answer /metrics, /progress and /healthz."""

    port: int = bounded(default=contract.METRICS_PORT, minimum=1024, maximum=65535)
    """Port of every worker pod."""


@dataclass(frozen=True, kw_only=True)
class DetectionJobSpec:
    """What to train, on what, and with how many pods."""

    recipe: str = bounded(
        min_length=1,
        max_length=128,
        pattern=Pattern(regex=r"[a-z0-9][a-z0-9_.-]*", meaning="a name that `kubedet recipes` lists"),
    )
    """A recipe of the zoo; `kubedet recipes` lists them. Immutable once started."""
    overrides: Mapping[str, str] = bounded(default_factory=dict, max_items=64, max_length=256)
    """Fields of the recipe to change, such as optimizer.lr: "0.01". Immutable once started."""
    pretrained: Pretrained | None = None
    """Weights to start from; default: the recipe's own."""
    weightsMirror: str | None = bounded(default=None, min_length=1, pattern=_MIRROR_URI)
    """Base address to fetch published weights from; below it are their paths, or only their names."""
    dataset: Dataset
    """What to train and validate on. Immutable once started."""
    worker: Worker = field(default_factory=Worker)
    """The pods that train."""
    elasticPolicy: ElasticPolicy | None = None
    """Between how many workers the job may go on; absent: always with worker.replicas."""
    backoffLimit: int = bounded(default=3, minimum=0, maximum=1000)
    """Failures of the application that are retried while no newer checkpoint comes between them."""
    failurePolicy: FailurePolicy = field(default_factory=FailurePolicy)
    """What is restarted how often beside that."""
    suspend: bool = False
    """Saves the state, gives the pods back and keeps the job; false resumes it from its checkpoint."""
    managedBy: str = bounded(
        default=names.MANAGED_BY,
        min_length=1,
        max_length=63,
        pattern=Pattern(
            regex=r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?",
            meaning=f"a domain and a name, such as {names.MANAGED_BY}",
        ),
    )
    """Controller of this job; one of another name is left alone. Immutable once started."""
    activeDeadlineSeconds: int | None = bounded(default=None, minimum=1, maximum=MAX_SECONDS)
    """Seconds until an unfinished job fails; time suspended does not count."""
    preRunningDeadlineSeconds: int | None = bounded(default=None, minimum=1, maximum=MAX_SECONDS)
    """Seconds from the creation of the pods until the workers must run, at the start and after a resume."""
    ttlSecondsAfterFinished: int | None = bounded(default=None, minimum=0, maximum=MAX_SECONDS)
    """Seconds after its end when the job is deleted with all of its pods; absent: never."""
    cleanPodPolicy: Literal["Running", "All", "None"] = "Running"
    """Pods deleted at the end: those that still run; all but the one that explains a failure; none."""
    schedulingPolicy: SchedulingPolicy = field(default_factory=SchedulingPolicy)
    """How the workers get their places."""
    checkpoint: Checkpoint | None = None
    """Where the state is kept; without it a lost pod costs the whole training, and the model with it."""
    evaluation: Evaluation = Evaluation()
    """When to evaluate."""
    benchmark: Benchmark = Benchmark()
    """Whether to measure the speed of inference."""
    metrics: Metrics = Metrics()
    """Where to answer for metrics and progress."""


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
    """Trains one detector on one data set, and reports its row of the model zoo."""

    metadata: Metadata
    spec: DetectionJobSpec
    """What the user asks for."""
    status: DetectionJobStatus = field(default_factory=DetectionJobStatus)
    """What the operator has seen."""


def parse_job(manifest: Mapping[str, Any]) -> DetectionJob:
    """The typed view of a DetectionJob's manifest, defaults filled in.

    The spec is read strictly; metadata and status, which others write too, keep only what kubedet knows.
    Bounds and cross-field rules are not looked at: `validation.validate` does that.

    Raises:
        decoding.InvalidManifest: an unknown field, a missing one, or a value of another type; all at once.
    """
    found: list[decoding.Violation] = []
    job = decode_job(manifest, found=found)
    if found or job is None:
        raise decoding.InvalidManifest(found)
    return job


def decode_job(manifest: Mapping[str, Any], *, found: list[decoding.Violation]) -> DetectionJob | None:
    """As `parse_job`, but adds what is wrong to `found` and returns what could be read, if anything."""
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
