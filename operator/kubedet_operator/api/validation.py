"""Checks a DetectionJob against the API's rules: the bounds of its fields, and rules across fields.

The table `RULES` states each rule twice: in CEL for the API server, which gets it with the CRD, and in Python
for local mode and for objects that were stored before the rule existed. Rules about updates:
`transitions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubedet_operator.api import fields, names, patterns, types
from kubedet_operator.api.decoding import InvalidManifest, Violation
from kubedet_operator.api.limits import check_bounds

RESERVED_PREFIX = "KUBEDET_"


@dataclass(frozen=True, kw_only=True)
class Breach:
    """Where one rule is broken, and by what value."""

    path: str
    got: Any = None
    """None: there is no value, and there must be one."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule across fields."""

    scope: str
    """Path of the object that `cel` sees as ``self``; empty for the whole DetectionJob."""
    cel: str
    meaning: str
    """Completes "PATH: got VALUE, ...". The API server shows the same text."""
    got: str = ""
    """CEL for the value that breaks the rule, as a string. Empty where there is none, or only numbers: CEL
    takes their texts for endless, and the rule for too expensive."""
    field: str = ""
    """Path below `scope` of the field to name, ``.worker.replicas``; empty for the object itself."""
    breaches: Callable[[Any], Iterator[Breach]]
    """Of a whole document of the kind that the rule is about."""


def _name(document: Any) -> Iterator[Breach]:
    name = document.metadata.name
    if len(name) > names.MAX_JOB_NAME_LENGTH or not re.fullmatch(names.JOB_NAME_PATTERN, name):
        yield Breach(path="metadata.name", got=name)


def _two_intervals(job: types.DetectionJob) -> Iterator[Breach]:
    checkpoint = job.spec.checkpoint
    if checkpoint and checkpoint.intervalSeconds and checkpoint.intervalIterations:
        yield Breach(
            path="spec.checkpoint",
            got=f"intervalSeconds: {checkpoint.intervalSeconds}, "
            f"intervalIterations: {checkpoint.intervalIterations}",
        )


def _shared_memory(job: types.DetectionJob) -> Iterator[Breach]:
    worker = job.spec.worker
    limit = worker.resources.limits.get("memory")
    if (
        worker.sharedMemory
        and limit
        and fields.parse_quantity(worker.sharedMemory) > fields.parse_quantity(limit)
    ):
        yield Breach(path="spec.worker.sharedMemory", got=worker.sharedMemory)


def _proposals(job: types.DetectionJob) -> Iterator[Breach]:
    proposals = job.spec.dataset.proposals
    if proposals and (proposals.storageUri is None) == (proposals.fromJob is None):
        got = f"storageUri: {proposals.storageUri}, fromJob: {proposals.fromJob}"
        yield Breach(path="spec.dataset.proposals", got=got)


def _no_place_for_proposals(job: types.DetectionJob) -> Iterator[Breach]:
    if job.spec.writeProposals and not job.spec.checkpoint:
        yield Breach(path="spec.checkpoint")


def _reserved_variables(job: types.DetectionJob) -> Iterator[Breach]:
    for index, variable in enumerate(job.spec.worker.env):
        if variable.name.startswith(RESERVED_PREFIX):
            yield Breach(path=f"spec.worker.env[{index}].name", got=variable.name)


def _reserved_in_template(job: types.DetectionJob) -> Iterator[Breach]:
    spec = (job.spec.worker.template or {}).get("spec") or {}
    for kind in ("containers", "initContainers"):
        for place, container in enumerate(spec.get(kind) or ()):
            for index, variable in enumerate(container.get("env") or ()):
                if (variable.get("name") or "").startswith(RESERVED_PREFIX):
                    path = f"spec.worker.template.spec.{kind}[{place}].env[{index}].name"
                    yield Breach(path=path, got=variable["name"])


def _two_values(job: types.DetectionJob) -> Iterator[Breach]:
    for index, variable in enumerate(job.spec.worker.env):
        if variable.value is not None and variable.valueFrom is not None:
            yield Breach(path=f"spec.worker.env[{index}]", got=variable.name)


def _gpus_twice(job: types.DetectionJob) -> Iterator[Breach]:
    worker = job.spec.worker
    for kind in ("limits", "requests"):
        amounts: Mapping[str, str] = getattr(worker.resources, kind)
        if worker.gpuResource in amounts:
            path = f"spec.worker.resources.{kind}.{worker.gpuResource}"
            yield Breach(path=path, got=amounts[worker.gpuResource])


def _size(job: types.DetectionJob) -> Iterator[Breach]:
    elastic, replicas = job.spec.elasticPolicy, job.spec.worker.replicas
    if elastic and not elastic.minReplicas <= replicas <= elastic.maxReplicas:
        yield Breach(path="spec.worker.replicas", got=replicas)


def _elastic_state(job: types.DetectionJob) -> Iterator[Breach]:
    if job.spec.elasticPolicy and not job.spec.checkpoint:
        yield Breach(path="spec.checkpoint")


def _never_evaluated(job: types.DetectionJob) -> Iterator[Breach]:
    evaluation = job.spec.evaluation
    if not job.spec.dataset.validate and (evaluation.stopAfter or evaluation.report == "Best"):
        yield Breach(
            path="spec.evaluation", got=f"stopAfter: {evaluation.stopAfter}, report: {evaluation.report}"
        )


def _nothing_to_measure_on(job: types.DetectionJob) -> Iterator[Breach]:
    if job.spec.task == "Measure" and not job.spec.dataset.validate:
        yield Breach(path="spec.dataset.validate", got="validate: false")


def _elastic_measurement(job: types.DetectionJob) -> Iterator[Breach]:
    if job.spec.task == "Measure" and job.spec.elasticPolicy:
        yield Breach(path="spec.elasticPolicy", got="an elasticPolicy")


def _no_queue(job: types.DetectionJob) -> Iterator[Breach]:
    scheduling = job.spec.schedulingPolicy
    if scheduling.gang == "Kueue" and scheduling.queue is None:
        yield Breach(path="spec.schedulingPolicy.queue")


def _empty_rules(job: types.DetectionJob) -> Iterator[Breach]:
    for index, rule in enumerate(job.spec.failurePolicy.rules):
        if not rule.onExitCodes and not rule.onMessagePatterns:
            yield Breach(path=f"spec.failurePolicy.rules[{index}]", got=rule.name)


def _bad_patterns(job: types.DetectionJob) -> Iterator[Breach]:
    for index, rule in enumerate(job.spec.failurePolicy.rules):
        for place, pattern in enumerate(rule.onMessagePatterns):
            if not patterns.is_valid(pattern):
                path = f"spec.failurePolicy.rules[{index}].onMessagePatterns[{place}]"
                yield Breach(path=path, got=pattern)


NAME_RULE = Rule(
    scope="",
    cel=f"size(self.metadata.name) <= {names.MAX_JOB_NAME_LENGTH} && "
    f"self.metadata.name.matches('^{names.JOB_NAME_PATTERN}$')",
    meaning=f"metadata.name must have at most {names.MAX_JOB_NAME_LENGTH} characters, all of them "
    "lower-case letters, digits or '-'; it must start with a letter and not end with '-', because it "
    "becomes part of the names of pods",
    got="self.metadata.name",
    breaches=_name,
)

RULES = (
    NAME_RULE,
    Rule(
        scope="spec.dataset.proposals",
        cel="has(self.storageUri) != has(self.fromJob)",
        meaning="must have storageUri or fromJob, and not both",
        breaches=_proposals,
    ),
    Rule(
        scope="spec",
        cel="!has(self.writeProposals) || !self.writeProposals || has(self.checkpoint)",
        meaning="a job with writeProposals must have a place for them; set checkpoint.storageUri",
        field=".checkpoint",
        breaches=_no_place_for_proposals,
    ),
    Rule(
        scope="spec.checkpoint",
        cel="!(has(self.intervalSeconds) && has(self.intervalIterations))",
        meaning="must have intervalSeconds or intervalIterations, not both; remove one",
        breaches=_two_intervals,
    ),
    Rule(
        scope="spec.worker",
        cel="!has(self.sharedMemory) || !has(self.resources) || !has(self.resources.limits) || "
        "!('memory' in self.resources.limits) || "
        "!quantity(string(self.sharedMemory)).isGreaterThan(quantity(string(self.resources.limits['memory'])))",
        got="string(self.sharedMemory)",
        meaning="sharedMemory counts against resources.limits.memory and must not exceed it; "
        "raise the limit or lower sharedMemory",
        field=".sharedMemory",
        breaches=_shared_memory,
    ),
    Rule(
        scope="spec.worker",
        cel="!has(self.resources) || "
        "((!has(self.resources.limits) || !(self.gpuResource in self.resources.limits)) && "
        "(!has(self.resources.requests) || !(self.gpuResource in self.resources.requests)))",
        got="self.gpuResource",
        meaning="resources must not contain the GPUs; set worker.gpus instead",
        breaches=_gpus_twice,
    ),
    Rule(
        scope="spec.worker.env[]",
        cel=f"!self.name.startsWith('{RESERVED_PREFIX}')",
        got="self.name",
        meaning=f"the name of a variable must not start with {RESERVED_PREFIX}, which is reserved; "
        "set the field of the spec instead",
        field=".name",
        breaches=_reserved_variables,
    ),
    Rule(
        scope="spec.worker",
        cel=" && ".join(
            f"(!has(self.template) || !has(self.template.spec) || !has(self.template.spec.{kind}) || "
            f"self.template.spec.{kind}.all(container, !has(container.env) || container.env.all(variable, "
            f"!has(variable.name) || !variable.name.startsWith('{RESERVED_PREFIX}'))))"
            for kind in ("containers", "initContainers")
        ),
        meaning=f"the name of a variable must not start with {RESERVED_PREFIX}, which is reserved, in the "
        "template either; set the field of the spec instead",
        field=".template.spec",
        breaches=_reserved_in_template,
    ),
    Rule(
        scope="spec.worker.env[]",
        cel="!(has(self.value) && has(self.valueFrom))",
        got="self.name",
        meaning="a variable must have value or valueFrom, not both; remove one",
        breaches=_two_values,
    ),
    Rule(
        scope="spec",
        cel="!has(self.elasticPolicy) || (self.elasticPolicy.minReplicas <= self.worker.replicas && "
        "self.worker.replicas <= self.elasticPolicy.maxReplicas)",
        meaning="worker.replicas must be from elasticPolicy.minReplicas to elasticPolicy.maxReplicas; "
        "change one of the three",
        field=".worker.replicas",
        breaches=_size,
    ),
    Rule(
        scope="spec",
        cel="!has(self.elasticPolicy) || has(self.checkpoint)",
        meaning="an elastic job must have a checkpoint to continue from when its size changes; "
        "set checkpoint.storageUri",
        field=".checkpoint",
        breaches=_elastic_state,
    ),
    Rule(
        scope="spec",
        cel="!has(self.dataset.validate) || self.dataset.validate || !has(self.evaluation) || "
        "(!has(self.evaluation.stopAfter) && (!has(self.evaluation.report) || "
        "self.evaluation.report == 'Last'))",
        got="'report: ' + (has(self.evaluation.report) ? self.evaluation.report : 'Last')",
        meaning="stopAfter and report Best compare evaluations, which need a validation split; "
        "remove them or set dataset.validate to true",
        field=".evaluation",
        breaches=_never_evaluated,
    ),
    Rule(
        scope="",
        cel="!has(self.spec.task) || self.spec.task != 'Measure' || !has(self.spec.dataset.validate) || "
        "self.spec.dataset.validate",
        meaning="a job with task Measure must have a validation split to measure on; set validate to true",
        got="'validate: false'",
        field=".spec.dataset.validate",
        breaches=_nothing_to_measure_on,
    ),
    Rule(
        scope="",
        cel="!has(self.spec.task) || self.spec.task != 'Measure' || !has(self.spec.elasticPolicy)",
        meaning="a job with task Measure must keep its number of workers, because it has no checkpoint to "
        "continue from; remove elasticPolicy",
        got="'an elasticPolicy'",
        field=".spec.elasticPolicy",
        breaches=_elastic_measurement,
    ),
    Rule(
        scope="spec.schedulingPolicy",
        cel="!has(self.gang) || self.gang != 'Kueue' || has(self.queue)",
        meaning="gang Kueue must have a queue; set queue to a LocalQueue in the job's namespace",
        field=".queue",
        breaches=_no_queue,
    ),
    Rule(
        scope="spec.failurePolicy.rules[]",
        cel="(has(self.onExitCodes) && size(self.onExitCodes) > 0) || "
        "(has(self.onMessagePatterns) && size(self.onMessagePatterns) > 0)",
        got="self.name",
        meaning="a rule must have onExitCodes or onMessagePatterns; without both it would match any failure",
        breaches=_empty_rules,
    ),
    Rule(
        scope="spec.failurePolicy.rules[]",
        cel="!has(self.onMessagePatterns) || self.onMessagePatterns.all(pattern, "
        "''.matches(pattern) || !''.matches(pattern))",
        meaning="a pattern must be a valid RE2 expression; RE2 has neither backreferences nor look-around",
        breaches=_bad_patterns,
    ),
)


def load_job(manifest: Mapping[str, Any]) -> types.DetectionJob:
    """The typed view of a valid manifest.

    Raises:
        InvalidManifest: with every violation that was found.
    """
    found: list[Violation] = []
    job = types.decode_job(manifest, found=found)
    if job is not None:
        known = tuple(violation.path for violation in found)
        found += [violation for violation in validate(job) if not _is_below(violation.path, known)]
    if found or job is None:
        raise InvalidManifest(found)
    return job


def check_account(job: types.DetectionJob, own: str) -> list[Violation]:
    """The violation of a job whose pods would run as `own`, the operator's service account.

    It may do more than the people who create jobs. `own` has a namespace and a name, ``kubedet/operator``.
    """
    spec = (job.spec.worker.template or {}).get("spec") or {}
    given = [field for field in ("serviceAccountName", "serviceAccount") if spec.get(field)]
    field = next(iter(given), "serviceAccountName")
    account = spec.get(field, "default")
    if f"{job.metadata.namespace}/{account}" != own:
        return []
    path = f"spec.worker.template.spec.{field}"
    rule = "must not be the operator's own service account; create one for the job"
    return [Violation(path=path, got=account, rule=rule)]


def validate(document: Any, rules: tuple[Rule, ...] = RULES) -> list[Violation]:
    """Every bound and rule that an object breaks, by default a DetectionJob; empty for a valid one."""
    found = list(check_bounds(document.spec, "spec"))
    broken = {violation.path for violation in found}
    for rule in rules:
        scope = rule.scope.rstrip("[]")
        if scope and any(_is_below(path, (scope,)) for path in broken):
            continue  # a rule may rely on values that are within their bounds
        found += [
            Violation(path=breach.path, got=breach.got, rule=rule.meaning, absent=breach.got is None)
            for breach in rule.breaches(document)
        ]
    return found


def _is_below(path: str, others: tuple[str, ...]) -> bool:
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in others)
