"""The environment of a worker's container: the contract's variables, filled from the spec."""

from __future__ import annotations

import json
from typing import Any

from kubedet_operator.api import names, types
from kubedet_operator.api.dataset import Proposals, SecretReference
from kubedet_operator.api.fields import parse_quantity
from kubedet_operator.children import storage
from kubedet_trainer import contract
from kubedet_trainer.contract import Environment

TERMINATION_MESSAGE_PATH = "/dev/termination-log"
THREADS_VARIABLE = "OMP_NUM_THREADS"

Variable = dict[str, Any]


def build_environment(
    job: types.DetectionJob, index: int, *, attempt: int, image: str, cause: str | None = None
) -> list[Variable]:
    """Environment variables of worker `index`; the user's own come last. Secrets stay references.

    `image` is that of its container and `cause` why the attempt before failed, for the report of the run.
    """
    locations = storage.locate(job.spec)
    own = [
        *_run_variables(job, index, attempt=attempt, locations=locations),
        *_values({Environment.IMAGE: image, Environment.RESTART_CAUSE: cause}),
        *_dataset_variables(job.spec, locations),
        *checkpoint_variables(job.spec, locations),
        *_rendezvous_variables(job, attempt=attempt),
    ]
    user = [user_variable(variable) for variable in job.spec.worker.env]
    return own + _thread_variables(job.spec.worker, {variable["name"] for variable in user}) + user


def build_rendezvous_environment(job: types.DetectionJob, *, image: str) -> list[Variable]:
    """Environment variables of the rendezvous pod: where the workers expect it, and the user's own."""
    user = [user_variable(variable) for variable in job.spec.worker.env]
    own = {Environment.RENDEZVOUS_ENDPOINT: _rendezvous_endpoint(job), Environment.IMAGE: image}
    return _values(own) + user


def processes(worker: types.Worker) -> int:
    """Processes of one pod: one for each GPU, or one on CPU, unless the user says otherwise."""
    return worker.procsPerReplica or worker.gpus or 1


def has_peers(spec: types.DetectionJobSpec) -> bool:
    """Whether there may be several workers: they find each other by name, at a rendezvous.

    A job of one worker has no Service and no rendezvous pod; both come if its spec is given more workers.
    """
    replicas = spec.elasticPolicy.maxReplicas if spec.elasticPolicy else spec.worker.replicas
    return replicas > 1


def _run_variables(
    job: types.DetectionJob, index: int, *, attempt: int, locations: storage.Locations
) -> list[Variable]:
    spec = job.spec
    elastic = spec.elasticPolicy
    return _values({
        Environment.JOB_NAME: job.metadata.name,
        Environment.TASK: spec.task,
        Environment.RECIPE: spec.recipe,
        Environment.OVERRIDES: json.dumps(dict(spec.overrides), sort_keys=True) if spec.overrides else None,
        Environment.PRETRAINED_URI: locations.pretrained.uri if locations.pretrained else None,
        Environment.PRETRAINED_SHA256: spec.pretrained.sha256 if spec.pretrained else None,
        Environment.WEIGHTS_MIRROR: locations.weights_mirror.uri if locations.weights_mirror else None,
        Environment.WRITE_PROPOSALS: "true" if spec.writeProposals else None,
        Environment.EVALUATE_EVERY_EPOCHS: spec.evaluation.everyEpochs,
        Environment.EVALUATION_STOP_AFTER: spec.evaluation.stopAfter,
        Environment.EVALUATION_REPORT: spec.evaluation.report,
        Environment.BENCHMARK_IMAGES: spec.benchmark.images if spec.benchmark.enabled else 0,
        Environment.BENCHMARK_ITERATIONS: spec.benchmark.iterations if spec.benchmark.enabled else 0,
        Environment.REPLICAS: spec.worker.replicas,
        Environment.MIN_REPLICAS: elastic.minReplicas if elastic else None,
        Environment.MAX_REPLICAS: elastic.maxReplicas if elastic else None,
        Environment.BATCH: elastic.batch if elastic else None,
        Environment.REPLICA_INDEX: index,
        Environment.PROCS_PER_REPLICA: processes(spec.worker),
        Environment.GPUS: spec.worker.gpus,
        Environment.ATTEMPT: attempt,
        Environment.METRICS_PORT: spec.metrics.port,
        Environment.WORK_DIRECTORY: storage.WORK_DIRECTORY,
        Environment.TERMINATION_MESSAGE_PATH: TERMINATION_MESSAGE_PATH,
        Environment.GRACE_SECONDS: spec.worker.terminationGracePeriodSeconds,
        Environment.HANG_TIMEOUT_SECONDS: spec.failurePolicy.hangTimeoutSeconds,
        Environment.HANG_MEDIAN_STEPS: spec.failurePolicy.hangMedianSteps,
    })  # fmt: skip


def _dataset_variables(spec: types.DetectionJobSpec, locations: storage.Locations) -> list[Variable]:
    dataset = spec.dataset
    return _values({
        Environment.DATASET_URI: locations.dataset.uri,
        Environment.DATASET_FORMAT: dataset.format,
        Environment.TRAIN_IMAGES: dataset.train.images,
        Environment.TRAIN_ANNOTATIONS: dataset.train.annotations,
        Environment.VAL_IMAGES: dataset.val.images,
        Environment.VAL_ANNOTATIONS: dataset.val.annotations,
        Environment.VALIDATE: None if dataset.validate else "false",
        Environment.TEST_IMAGES: dataset.test.images if dataset.test else None,
        Environment.TEST_ANNOTATIONS: dataset.test.annotations if dataset.test else None,
        Environment.PROPOSALS_URI: locations.proposals.uri if locations.proposals else None,
        Environment.DATASET_ENDPOINT: dataset.endpoint,
    }) + _secret_variables(
        dataset.secretRef,
        endpoint=None if dataset.endpoint else Environment.DATASET_ENDPOINT,
        access_key=Environment.DATASET_ACCESS_KEY,
        secret_key=Environment.DATASET_SECRET_KEY,
        ca=Environment.DATASET_CA,
    ) + _proposal_variables(dataset.proposals)  # fmt: skip


def _proposal_variables(proposals: Proposals | None) -> list[Variable]:
    """How proposals are reached, where that is not as the data set is."""
    if proposals is None:
        return []
    return _values({Environment.PROPOSALS_ENDPOINT: proposals.endpoint}) + _secret_variables(
        proposals.secretRef,
        endpoint=None if proposals.endpoint else Environment.PROPOSALS_ENDPOINT,
        access_key=Environment.PROPOSALS_ACCESS_KEY,
        secret_key=Environment.PROPOSALS_SECRET_KEY,
        ca=Environment.PROPOSALS_CA,
    )


def checkpoint_variables(spec: types.DetectionJobSpec, locations: storage.Locations) -> list[Variable]:
    """The variables that say where the checkpoints are, and how that place is reached."""
    checkpoint = spec.checkpoint
    uri = {Environment.CHECKPOINT_URI: locations.checkpoint.uri}
    if checkpoint is None:
        return _values(uri)
    best = checkpoint.keepBest
    return _values({
        **uri,
        Environment.CHECKPOINT_ENDPOINT: checkpoint.endpoint,
        Environment.CHECKPOINT_INTERVAL_SECONDS: checkpoint.intervalSeconds,
        Environment.CHECKPOINT_INTERVAL_ITERATIONS: checkpoint.intervalIterations,
        Environment.CHECKPOINT_KEEP_LAST: checkpoint.keepLast,
        Environment.CHECKPOINT_KEEP_BEST_METRIC: best.metric if best else None,
        Environment.CHECKPOINT_KEEP_BEST_COUNT: best.count if best else None,
        Environment.CHECKPOINT_SAVE_DEADLINE_SECONDS: checkpoint.saveDeadlineSeconds,
        Environment.CHECKPOINT_RESUME: locations.resume.uri if locations.resume else checkpoint.resume,
    }) + _secret_variables(
        checkpoint.secretRef,
        endpoint=None if checkpoint.endpoint else Environment.CHECKPOINT_ENDPOINT,
        access_key=Environment.CHECKPOINT_ACCESS_KEY,
        secret_key=Environment.CHECKPOINT_SECRET_KEY,
        ca=Environment.CHECKPOINT_CA,
    )  # fmt: skip


def _rendezvous_variables(job: types.DetectionJob, *, attempt: int) -> list[Variable]:
    return [
        *_values({
            Environment.RENDEZVOUS_ENDPOINT: _rendezvous_endpoint(job) if has_peers(job.spec) else None,
            # Not the job's name: a job that is deleted and made again must not join the old one's workers.
            Environment.RENDEZVOUS_ID: f"{job.metadata.uid or job.metadata.name}-{attempt}",
        }),
        {
            "name": Environment.LOCAL_ADDRESS.value,
            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
        },
    ]  # fmt: skip


def _rendezvous_endpoint(job: types.DetectionJob) -> str:
    name = job.metadata.name
    address = names.pod_address(names.rendezvous_name(name), job=name, namespace=job.metadata.namespace)
    return f"{address}:{contract.RENDEZVOUS_PORT}"


def _secret_variables(
    reference: SecretReference | None,
    *,
    endpoint: Environment | None,
    access_key: Environment,
    secret_key: Environment,
    ca: Environment,
) -> list[Variable]:
    if reference is None:
        return []
    keys = ((access_key, "accessKey", False), (secret_key, "secretKey", False), (endpoint, "endpoint", True))
    return [
        {
            "name": variable.value,
            "valueFrom": {
                "secretKeyRef": {
                    "name": reference.name,
                    "key": key,
                    **({"optional": True} if optional else {}),
                }
            },
        }
        for variable, key, optional in (*keys, (ca, "ca.crt", True))
        if variable is not None
    ]


def _thread_variables(worker: types.Worker, given: set[str]) -> list[Variable]:
    """Threads of each process by the CPU limit: torch counts the machine's cores, not the pod's."""
    limit = worker.resources.limits.get("cpu")
    if limit is None or THREADS_VARIABLE in given:
        return []
    cores = int(parse_quantity(limit))
    return [{"name": THREADS_VARIABLE, "value": str(max(1, cores // processes(worker)))}]


def user_variable(variable: types.EnvironmentVariable) -> Variable:
    """A variable of the user's own."""
    if variable.valueFrom is not None:
        return {"name": variable.name, "valueFrom": dict(variable.valueFrom)}
    return {"name": variable.name, "value": variable.value or ""}


def _values(values: dict[Environment, Any]) -> list[Variable]:
    return [{"name": name.value, "value": str(value)} for name, value in values.items() if value is not None]
