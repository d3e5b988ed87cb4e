"""The rows of a ModelZoo: what each trains, what that means, and whose proposals it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubedet_operator.api import decoding, names, types, validation, zoo
from kubedet_operator.api.decoding import Violation
from kubedet_operator.api.zoo_validation import list_recipes, validate_zoo
from kubedet_operator.children.merge import merge
from kubedet_trainer.contract import catalogue

HASH_LENGTH = 16
_MEANING = ("recipe", "overrides", "pretrained", "dataset", "evaluation")
_NO_MEANING = ("secretRef", "endpoint")
"""How something is reached says nothing about what it is."""


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """One row of the table, as its spec has it."""

    recipe: str
    spec: Mapping[str, Any]
    """Of its DetectionJob, as a manifest has it, before a repeat makes it its own."""
    hash: str
    """Of what the row means: with another one its results are those of another training."""
    source: str | None = None
    """The row whose proposals it is trained on."""
    writes_proposals: bool = False
    """Whether other rows are trained on its proposals."""
    ttl_seconds: int | None = None
    """After these seconds a finished job is deleted."""
    repeats: int
    """How many trainings it has; their seeds count up from 0."""


def plan_rows(document: zoo.ModelZoo) -> tuple[tuple[RowPlan, ...], tuple[Violation, ...]]:
    """The rows of a zoo, or every rule that the zoo and the jobs of its rows break."""
    found = validate_zoo(document)
    if found:
        return (), tuple(found)
    spec = document.spec
    recipes = list_recipes(spec)
    task = {"task": "Measure"} if spec.measure == "Published" else {}
    changes = {change.recipe: index for index, change in enumerate(spec.changes)}
    jobs: dict[str, types.DetectionJobSpec] = {}
    specs: dict[str, Mapping[str, Any]] = {}
    sources: dict[str, str] = {}
    for recipe in recipes:
        change = spec.changes[changes[recipe]].spec if recipe in changes else {}
        specs[recipe] = {**merge(spec.template.spec, change), "recipe": recipe, **task}
        job, wrong = _read_job(document, specs[recipe])
        where = f"spec.changes[{changes[recipe]}].spec" if change else "spec.template.spec"
        found += [dataclasses.replace(item, path=item.path.replace("spec", where, 1)) for item in wrong]
        if job is None or wrong:
            continue
        jobs[recipe] = job
        source = catalogue.proposal_recipe(recipe)
        if source and job.dataset.proposals is None:
            sources[recipe] = source
    if found:
        return (), tuple(dict.fromkeys(found))
    found = list(_check_sources(sources, jobs))
    if found:
        return (), tuple(found)
    return tuple(
        _plan_row(recipe, specs[recipe], jobs, sources, zoo.repeats_of(spec, recipe)) for recipe in recipes
    ), ()


def list_trainings(rows: Sequence[RowPlan]) -> Iterator[tuple[RowPlan, int]]:
    """Every training as its row and its seed: the first of each row comes before the second of any."""
    for seed in range(max((row.repeats for row in rows), default=0)):
        yield from ((row, seed) for row in rows if seed < row.repeats)


def _read_job(
    document: zoo.ModelZoo, spec: Mapping[str, Any]
) -> tuple[types.DetectionJobSpec | None, list[Violation]]:
    """The typed spec of a row's job, and every rule that it breaks."""
    found: list[Violation] = []
    decoded = decoding.decode(types.DetectionJobSpec, spec, path="spec", found=found)
    if decoded is None or found:
        return None, found
    # Its own name is given by the zoo, and keeps to the rule.
    job = types.DetectionJob(metadata=types.Metadata(name="row", uid=document.metadata.uid), spec=decoded)
    return decoded, validation.validate(job)


def _check_sources(
    sources: Mapping[str, str], jobs: Mapping[str, types.DetectionJobSpec]
) -> Iterator[Violation]:
    for recipe, source in sources.items():
        if source not in jobs:
            rule = f"must have {source} next to it, whose proposals it needs; or set dataset.proposals for it"
            yield Violation(path="spec.rows", got=recipe, rule=rule)
    for source in dict.fromkeys(sources.values()):
        if source in jobs and jobs[source].checkpoint is None:
            rule = f"must be set: {source} leaves its proposals there for other rows"
            yield Violation(path="spec.template.spec.checkpoint", rule=rule, absent=True)


def _plan_row(
    recipe: str,
    spec: Mapping[str, Any],
    jobs: Mapping[str, types.DetectionJobSpec],
    sources: Mapping[str, str],
    repeats: int,
) -> RowPlan:
    source = sources.get(recipe)
    return RowPlan(
        recipe=recipe,
        spec={name: value for name, value in spec.items() if name != "ttlSecondsAfterFinished"},
        hash=_hash(_meaning_of(jobs, recipe, source)),
        source=source,
        writes_proposals=recipe in sources.values(),
        ttl_seconds=jobs[recipe].ttlSecondsAfterFinished,
        repeats=repeats,
    )


def _meaning_of(
    jobs: Mapping[str, types.DetectionJobSpec], recipe: str, source: str | None
) -> dict[str, Any]:
    """What decides a row's precision; that of its source included, because it learns from its proposals."""
    found = {name: _differences(getattr(jobs[recipe], name)) for name in _MEANING}
    meaning = {name: value for name, value in found.items() if value}
    if jobs[recipe].task != "Train":
        meaning["task"] = jobs[recipe].task
    return {**meaning, "source": _meaning_of(jobs, source, None)} if source else meaning


def _differences(value: Any) -> Any:
    """`value` without what is as usual: a new field of the API must not change what is known already."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return dict(value) if isinstance(value, Mapping) else value
    kept = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.name not in _NO_MEANING and (field.default is dataclasses.MISSING or item != field.default):
            kept[field.name] = _differences(item)
    return kept


def _hash(meaning: Mapping[str, Any]) -> str:
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def build_row_job(
    document: zoo.ModelZoo, row: RowPlan, *, seed: int, attempt: int, proposals: str | None
) -> dict[str, Any]:
    """The DetectionJob of one training of a row, as a manifest.

    Args:
        document: the zoo that owns it.
        row: what it trains.
        seed: number of the repeat, added to the recipe's seed.
        attempt: how many jobs there have been for this training with this one.
        proposals: URI of the proposals of the row's source, if it has one.
    """
    name = document.metadata.name
    job = names.row_job_name(name, row.recipe, seed)
    spec = dict(row.spec)
    overrides = dict(spec.get("overrides") or {})
    first = str(overrides.get("seed", 0))
    if seed and first.isdecimal():  # the trainer refuses any other
        overrides["seed"] = str(int(first) + seed)
    if overrides:
        spec["overrides"] = overrides
    if checkpoint := spec.get("checkpoint"):
        spec["checkpoint"] = {**checkpoint, "storageUri": _place(checkpoint["storageUri"], name, row, seed)}
    if row.writes_proposals and seed == 0:
        spec["writeProposals"] = True
    if proposals:
        kept = {field: checkpoint[field] for field in _NO_MEANING if checkpoint and field in checkpoint}
        spec["dataset"] = {**spec["dataset"], "proposals": {"storageUri": proposals, **kept}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": job,
            "namespace": document.metadata.namespace,
            "labels": {
                names.APP_NAME: names.APPLICATION,
                names.APP_MANAGED_BY: names.MANAGER,
                names.ZOO: name,
            },
            "annotations": {
                names.ZOO_RECIPE: row.recipe,
                names.ZOO_SEED: str(seed),
                names.ZOO_HASH: row.hash,
                names.ZOO_ATTEMPT: str(attempt),
            },
            **build_ownership(document),
        },
        "spec": spec,
    }


def _place(base: str, zoo_name: str, row: RowPlan, seed: int) -> str:
    """A prefix for each meaning and repeat, so that no training continues from another one's state."""
    recipe = row.recipe.replace(":", ".")
    return f"{base.rstrip('/')}/{zoo_name}/{recipe}/{row.hash}" + (f"-s{seed}" if seed else "")


def build_ownership(document: zoo.ModelZoo) -> dict[str, Any]:
    """The part of a child's metadata that names its zoo; empty while the zoo has no uid."""
    if not document.metadata.uid:
        return {}
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.ZOO_KIND,
        "name": document.metadata.name,
        "uid": document.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"ownerReferences": [owner]}


def build_row_jobs(document: zoo.ModelZoo, rows: Sequence[RowPlan]) -> list[dict[str, Any]]:
    """The jobs of all rows, as `kubedet render` shows them; proposals come from the job that makes them."""
    jobs = []
    for row, seed in list_trainings(rows):
        job = build_row_job(document, row, seed=seed, attempt=1, proposals=None)
        if row.source:
            maker = names.row_job_name(document.metadata.name, row.source, 0)
            dataset = {**job["spec"]["dataset"], "proposals": {"fromJob": maker}}
            job["spec"] = {**job["spec"], "dataset": dataset}
        jobs.append(job)
    return jobs
