"""What the operator knows about one ModelZoo at one moment: a frozen view that decisions are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from kubedet_operator.api import decoding, names, types, zoo
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.zoo_status import FIGURES, ModelZooStatus, Row, Run, RunPhase
from kubedet_operator.children.rows import RowPlan, plan_rows
from kubedet_operator.decision import reports
from kubedet_operator.decision.objects import Owner, read_number
from kubedet_operator.decision.pods import PodFacts, read_pod
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract
from kubedet_trainer.contract.times import read_time

RunKey = tuple[str, int]
"""Recipe and number of the repeat."""


@dataclass(frozen=True, kw_only=True)
class ChildFacts:
    """The few fields of a row's job that decisions need."""

    name: str
    uid: str
    owner: str | None
    """Uid of the zoo that it belongs to; None for a job of somebody else."""
    recipe: str = ""
    seed: int = 0
    hash: str = ""
    """Of what the row meant when the job was created."""
    attempt: int = 0
    writes_proposals: bool = False
    suspend: bool = False
    """Whether its spec has it suspended."""
    suspended_by_zoo: bool = False
    deleting: bool = False
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Type to message of the conditions that hold."""
    completion_time: str | None = None
    results: contract.Results | None = None

    @property
    def key(self) -> RunKey:
        """Which training it is."""
        return self.recipe, self.seed

    @property
    def phase(self) -> RunPhase:
        """How far its training is."""
        for condition, phase in _PHASES:
            if condition in self.conditions:
                return phase
        return RunPhase.RUNNING

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.phase in (RunPhase.SUCCEEDED, RunPhase.FAILED)


_PHASES = (
    (ConditionType.FAILED, RunPhase.FAILED),
    (ConditionType.COMPLETE, RunPhase.SUCCEEDED),
    (ConditionType.SUSPENDED, RunPhase.SUSPENDED),
)


class ParsedZoo(NamedTuple):
    """The spec of a zoo as it was read: the same as long as its generation is."""

    document: zoo.ModelZoo | None
    """None where it cannot be read at all."""
    rows: tuple[RowPlan, ...]
    violations: tuple[decoding.Violation, ...]


@dataclass(frozen=True, kw_only=True)
class ZooFacts:
    """One zoo and its jobs, now."""

    metadata: types.Metadata
    status: ModelZooStatus
    parsed: ParsedZoo
    children: Mapping[str, ChildFacts] = field(default_factory=dict)
    """The zoo's own jobs by name."""
    occupied: frozenset[str] = frozenset()
    """Names of rows' jobs that jobs of others have."""
    rejection: str | None = None
    """What the API server said when it last refused a job of this zoo."""
    page: PodFacts | None = None
    """The pod that writes the page, while there is one."""
    page_rejection: str | None = None
    """What the API server said when it last refused that pod."""
    settings: OperatorSettings = field(default_factory=OperatorSettings)
    written_status: Mapping[str, Any] = field(default_factory=dict)
    """The status as it is, with what others may have written."""
    now: datetime

    @property
    def spec(self) -> zoo.ModelZooSpec:
        """The spec of a zoo that can be read."""
        assert self.parsed.document is not None
        return self.parsed.document.spec

    def row_of(self, child: ChildFacts) -> RowPlan | None:
        """The row that a job trains; None for a job that the table does not ask for."""
        row = self._rows.get(child.recipe)
        wanted = names.row_job_name(self.metadata.name, child.recipe, child.seed)
        return row if row and child.seed < row.repeats and child.name == wanted else None

    def is_current(self, child: ChildFacts, row: RowPlan) -> bool:
        """Whether a job trains what its row means now, and writes the proposals that others need."""
        lacks_proposals = is_source(row, child.seed) and not child.writes_proposals
        return child.hash == row.hash and not lacks_proposals

    def published(self, recipe: str) -> Mapping[str, float]:
        """The published figures of a recipe, as a trainer has told them."""
        if (told := self._references.get(recipe)) is not None:
            return {figure: told[figure] for figure in FIGURES if figure in told}
        known = self._known_rows.get(recipe)
        return known.published if known else {}

    def known_run(self, recipe: str, seed: int, *, hash: str) -> Run:  # noqa: A002
        """What the status says about one training; an empty one if the row meant something else then."""
        row = self._known_rows.get(recipe)
        runs = row.runs if row is not None and row.hash == hash else ()
        return next((run for run in runs if run.seed == seed), Run(seed=seed))

    @cached_property
    def _rows(self) -> Mapping[str, RowPlan]:
        return {row.recipe: row for row in self.parsed.rows}

    @cached_property
    def _known_rows(self) -> Mapping[str, Row]:
        return {row.recipe: row for row in self.status.rows}

    @cached_property
    def _references(self) -> Mapping[str, Mapping[str, float]]:
        """The published figures by recipe, as far as jobs that exist have told them."""
        return {
            child.recipe: child.results.reference
            for child in self.children.values()
            if child.results is not None
        }


def is_source(row: RowPlan, seed: int) -> bool:
    """Whether a training of a row makes proposals for others: the first of its repeats does."""
    return row.writes_proposals and seed == 0


def parse_zoo(manifest: Mapping[str, Any]) -> ParsedZoo:
    """The zoo in `manifest` with its rows, and every rule of the API that it breaks."""
    found: list[decoding.Violation] = []
    document = zoo.decode_zoo(manifest, found=found)
    if document is None or found:
        return ParsedZoo(None, (), tuple(found))
    rows, violations = plan_rows(document)
    return ParsedZoo(document, rows, violations)


def observe_zoo(
    manifest: Mapping[str, Any],
    *,
    jobs: Iterable[Mapping[str, Any]],
    parsed: ParsedZoo | None = None,
    rejection: str | None = None,
    page: PodFacts | None = None,
    page_rejection: str | None = None,
    settings: OperatorSettings | None = None,
    now: datetime,
) -> ZooFacts:
    """The facts of the zoo in `manifest`, which may break any rule of the API, or is `parsed` already.

    Args:
        manifest: of the zoo.
        jobs: manifests of its own jobs, and of others that have the names of its rows' jobs.
        parsed: what `parse_zoo` makes of the manifest.
        rejection: what the API server said when it last refused a job.
        page: the pod that writes the zoo's page.
        page_rejection: what the API server said when it last refused that pod.
        settings: of the operator; those of a local run by default.
        now: the time.
    """
    metadata = manifest.get("metadata") or {}
    uid = metadata.get("uid")
    known = [parse_child(job) for job in jobs]
    status = zoo.decode_zoo_status(manifest)
    read = decoding.decode(types.Metadata, metadata, path="metadata", found=[], strict=False)
    return ZooFacts(
        metadata=read or types.Metadata(),
        status=status,
        parsed=_keep_meaning(parsed or parse_zoo(manifest), status, generation=metadata.get("generation")),
        children={child.name: child for child in known if child.owner == uid},
        occupied=frozenset(child.name for child in known if child.owner != uid),
        rejection=rejection,
        page=page,
        page_rejection=page_rejection,
        settings=settings or OperatorSettings(),
        written_status=manifest.get("status") or {},
        now=now,
    )


def _keep_meaning(parsed: ParsedZoo, status: ModelZooStatus, *, generation: int | None) -> ParsedZoo:
    """`parsed` with the hashes of the status, if that describes the same spec.

    An operator of another version has another hash for the same training.
    """
    if generation is None or status.observedGeneration != generation:
        return parsed
    hashes = {row.recipe: row.hash for row in status.rows}
    rows = (replace(row, hash=hashes.get(row.recipe, row.hash)) for row in parsed.rows)
    return ParsedZoo(parsed.document, tuple(rows), parsed.violations)


def owner_of(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Uid and name of the zoo that owns a job; None for a job that none owns."""
    for owner in job["metadata"].get("ownerReferences") or ():
        if owner.get("kind") == names.ZOO_KIND and owner.get("controller"):
            return str(owner["uid"]), str(owner["name"])
    return None


def parse_page_pod(manifest: Mapping[str, Any]) -> PodFacts | None:
    """The facts of a pod in the API's JSON, or None for a pod that writes no page of a zoo."""
    owner = owner_of(manifest)
    if owner is None or manifest["metadata"]["name"] != names.page_name(owner[1]):
        return None
    return read_pod(manifest, owner=Owner(name=owner[1], uid=owner[0]), component=names.PAGE)


def parse_child(job: Mapping[str, Any]) -> ChildFacts:
    """The facts of a job in the API's JSON. Others write its annotations and its status, too."""
    metadata, spec, status = job["metadata"], job.get("spec") or {}, job.get("status") or {}
    owner = owner_of(job)
    given = metadata.get("annotations") or {}
    results = status.get("results")
    return ChildFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        owner=owner[0] if owner else None,
        recipe=given.get(names.ZOO_RECIPE, ""),
        seed=read_number(given.get(names.ZOO_SEED)) or 0,
        hash=given.get(names.ZOO_HASH, ""),
        attempt=read_number(given.get(names.ZOO_ATTEMPT)) or 0,
        writes_proposals=bool(spec.get("writeProposals")),
        suspend=bool(spec.get("suspend")),
        suspended_by_zoo=names.ZOO_SUSPENDED in given,
        deleting="deletionTimestamp" in metadata,
        conditions={
            item["type"]: item.get("message", "")
            for item in status.get("conditions") or ()
            if item.get("status") == "True"
        },
        completion_time=ended if read_time(ended := status.get("completionTime")) else None,
        results=reports.read_results(results) if results else None,
    )
