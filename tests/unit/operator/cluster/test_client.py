"""What the answers of an API server mean to the operator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest

import api_server
import builders
from builders import make_manifest
from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import ALL_JOBS, PODS, Cluster
from kubedet_operator.telemetry.metrics import Metrics
from zoo_simulation import make_zoo


class Server:
    """An API server that answers everything with one status."""

    def __init__(self) -> None:
        self.code = 200
        self.body: dict[str, Any] = {"metadata": {"namespace": "n"}}
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str, str, Any]] = []
        self.accepted: list[str] = []

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        body = await request.text()
        kind = request.content_type if body else ""
        self.accepted.append(request.headers["Accept"])
        self.requests.append((request.method, request.path_qs, kind, json.loads(body) if body else None))
        return aiohttp.web.json_response(self.body, status=self.code, headers=self.headers)


class Found(Server):
    """An API server that has an object already."""

    found: dict[str, Any]

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.code = 409 if request.method == "POST" else 200
        self.body = {"message": "already exists"} if request.method == "POST" else self.found
        return await super().answer(request)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    return getattr(request, "param", Server)()


@pytest.fixture
async def kubeconfig(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A kubeconfig of the server, which answers until the test ends."""
    application = aiohttp.web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    path = tmp_path / "config"
    api_server.write_kubeconfig(path, f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield path
    await runner.cleanup()


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(Metrics())
    yield cluster
    await cluster.close()


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (400, "bad request", errors.Rejected),
        (401, "Unauthorized", errors.LoginFailed),
        (403, 'pods is forbidden: User "x" cannot patch resource "pods"', errors.PermissionMissing),
        (403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest"', errors.Rejected),
        (403, 'pods "a" is forbidden: exceeded quota: q', errors.Rejected),
        (404, "namespaces x not found", errors.NotFound),
        (409, "the object has been modified", errors.Conflict),
        (422, "spec: Invalid value", errors.Rejected),
        (429, "too many requests", errors.ApiBusy),
        (500, "etcd is down", errors.ApiUnreachable),
        (500, 'Internal error occurred: failed calling webhook "a": timeout', errors.Rejected),
        (500, "resourceVersion should not be set on objects to be created", errors.Rejected),
        (503, "starting", errors.ApiUnreachable),
    ],
)
async def test_every_refusal_has_its_meaning_and_keeps_the_server_s_words(
    cluster: Cluster, server: Server, code: int, message: str, expected: type[errors.OperatorError]
) -> None:
    server.code, server.body = code, {"kind": "Status", "message": message}
    server.headers = {"Retry-After": "7"}
    with pytest.raises(expected) as raised:
        await cluster.read_job("n", "a")
    assert type(raised.value) is expected
    assert message in str(raised.value)
    if isinstance(raised.value, errors.ApiBusy):
        assert raised.value.retry_after_seconds == 7


async def test_an_unknown_kind_names_the_missing_definition(cluster: Cluster, server: Server) -> None:
    server.code, server.body = 404, {"message": "the server could not find the requested resource"}
    with pytest.raises(errors.DefinitionMissing, match="manifests/crds"):
        await anext(cluster.list_pages(ALL_JOBS, None))


async def test_the_status_is_written_only_over_the_version_that_was_read(
    cluster: Cluster, server: Server
) -> None:
    metadata = {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7"}
    kind = {"apiVersion": names.API_VERSION, "kind": "DetectionJob"}
    await cluster.write_status({**kind, "metadata": {**metadata, "generation": 3}}, {"phase": "Running"})
    method, path, _, body = server.requests[0]
    assert method == "PUT"
    assert path.startswith("/apis/kubedet.dev/v1alpha1/namespaces/n/detectionjobs/a/status?")
    assert body["metadata"] == metadata
    assert body["status"] == {"phase": "Running"}


async def test_the_status_of_a_zoo_goes_to_the_zoo(cluster: Cluster, server: Server) -> None:
    zoo = make_zoo(name="a", namespace="n")
    zoo["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    await cluster.write_status(zoo, {"phase": "Running"})
    method, path, _, _ = server.requests[0]
    assert (method, path.partition("?")[0]) == (
        "PUT",
        "/apis/kubedet.dev/v1alpha1/namespaces/n/modelzoos/a/status",
    )


async def test_a_job_that_exists_is_never_repaired_by_the_creation_of_a_row_s_job(
    cluster: Cluster, server: Server
) -> None:
    server.code = 409
    with pytest.raises(errors.Conflict):
        await cluster.create(make_manifest(name="a", namespace="n"))
    assert [request[0] for request in server.requests] == ["POST"]


async def test_this_very_job_is_suspended_and_marked_in_one_request(cluster: Cluster, server: Server) -> None:
    await cluster.suspend_job("n", "a", uid="u", suspend=False)
    method, _, _, body = server.requests[0]
    assert method == "PATCH"
    assert body == {
        "metadata": {"uid": "u", "annotations": {"kubedet.dev/zoo-suspended": None}},
        "spec": {"suspend": False},
    }


async def test_of_what_was_just_sent_only_the_metadata_is_asked_back(
    cluster: Cluster, server: Server
) -> None:
    server.body = {"kind": "PartialObjectMetadata", "metadata": {"namespace": "n", "uid": "u"}}
    pod = {"kind": "Pod", "metadata": {"namespace": "n", "name": "a"}, "spec": {"nodeName": "b"}}
    assert await cluster.ensure(pod) == {**pod, "metadata": server.body["metadata"]}
    assert "as=PartialObjectMetadata" in server.accepted[0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, 'pods "a" not found'),
        (409, "Precondition failed: UID in precondition: u, UID in object meta: v"),
    ],
)
async def test_a_pod_that_is_gone_or_replaced_counts_as_deleted(
    cluster: Cluster, server: Server, code: int, message: str
) -> None:
    server.code, server.body = code, {"message": message}
    await cluster.delete("pods", "n", "a", uid="u")
    assert server.requests[0][3]["preconditions"] == {"uid": "u"}


async def test_a_deletion_that_met_another_write_has_not_happened(cluster: Cluster, server: Server) -> None:
    server.code, server.body = 409, {"message": "the object has been modified"}
    with pytest.raises(errors.Conflict):
        await cluster.delete("pods", "n", "a", uid="u")


class Deep(Server):
    """An API server with two objects, of which one is nested too deeply for its readers."""

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.requests.append((request.method, request.path, "", None))
        deep = '{"metadata":{"namespace":"n","name":"deep"},"spec":' + "[" * 3000 + "]" * 3000 + "}"
        metadata = {name: {"metadata": {"namespace": "n", "name": name}} for name in ("deep", "fine")}
        fine = json.dumps(metadata["fine"] | {"spec": {}})
        kind = '"apiVersion":"v1","kind":"PodList","metadata":{"resourceVersion":"7"}'
        if request.path.endswith("/deep"):
            return aiohttp.web.Response(text=deep)
        if request.path.endswith("/fine"):
            return aiohttp.web.Response(text=fine)
        if "watch" in request.query:
            events = "".join(f'{{"type":"ADDED","object":{found}}}\n' for found in (deep, fine))
            return aiohttp.web.Response(text=events)
        if "PartialObjectMetadataList" in request.headers["Accept"]:
            return aiohttp.web.Response(text=f'{{{kind},"items":{json.dumps(list(metadata.values()))}}}')
        return aiohttp.web.Response(text=f'{{{kind},"items":[{deep},{fine}]}}')


@pytest.mark.parametrize("server", [Deep], indirect=True)
async def test_an_object_that_no_reader_takes_hides_no_other(
    kubeconfig: Path, server: Deep, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    cluster = Cluster(metrics)
    pages = [page async for page in cluster.list_pages(PODS, "n")]
    assert [item["metadata"]["name"] for page in pages for item in page.items] == ["fine"]
    async with cluster.watch(PODS, "n", version="7", seconds=1) as events:
        assert [event["object"]["metadata"]["name"] async for event in events] == ["fine"]
    await cluster.close()
    assert "n/deep" in caplog.text
    name = "kubedet_operator_unreadable_objects_total"
    assert metrics.registry.get_sample_value(name, {"resource": "pods"}) == 2


def child(kind: str, **metadata: Any) -> dict[str, Any]:
    owners = [builders.make_owner()]
    known = {
        "namespace": "n",
        "name": "a",
        "labels": {names.ATTEMPT: "2", "x": "y"},
        "ownerReferences": owners,
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": {**known, **metadata}}


async def test_a_missing_child_is_created_and_unknown_fields_are_refused(
    cluster: Cluster, server: Server
) -> None:
    group = {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup"}
    await cluster.ensure({**group, "metadata": {"namespace": "n", "name": "a"}})
    assert server.requests[0][:2] == (
        "POST",
        "/apis/scheduling.volcano.sh/v1beta1/namespaces/n/podgroups"
        "?fieldManager=kubedet-operator&fieldValidation=Strict",
    )


@pytest.mark.parametrize("server", [Found], indirect=True)
async def test_the_job_s_own_service_is_made_what_it_should_be(cluster: Cluster, server: Found) -> None:
    server.found = child("Service", uid="u", resourceVersion="7")
    await cluster.ensure(child("Service"))
    assert server.requests[-1] == (
        "PATCH",
        "/api/v1/namespaces/n/services/a?fieldManager=kubedet-operator&fieldValidation=Strict&force=true",
        "application/apply-patch+yaml",
        child("Service", uid="u"),
    )


@pytest.mark.parametrize("server", [Found], indirect=True)
async def test_the_job_s_own_pod_gets_its_labels_back_but_stays_of_its_attempt(
    cluster: Cluster, server: Found
) -> None:
    server.found = child("Pod", uid="u", resourceVersion="7", labels={names.ATTEMPT: "1"})
    await cluster.ensure(child("Pod"))
    method, _, kind, body = server.requests[-1]
    assert (method, kind) == ("PATCH", "application/merge-patch+json")
    labels = {names.ATTEMPT: "1", "x": "y"}
    assert body == {"metadata": {"uid": "u", "resourceVersion": "7", "labels": labels}}


@pytest.mark.parametrize("kind", ["Pod", "Service", "PodGroup"])
@pytest.mark.parametrize(
    ("owners", "whose"),
    [
        ([], "belongs to no DetectionJob"),
        ([builders.make_owner("other")], "belongs to the DetectionJob other"),
        ([{**builders.make_owner(), "controller": False}], "belongs to no DetectionJob"),
        ([{**builders.make_owner(), "apiVersion": "evil.dev/v1"}], "belongs to no DetectionJob"),
    ],
)
@pytest.mark.parametrize("server", [Found], indirect=True)
async def test_what_is_not_the_job_s_is_neither_changed_nor_taken_over(
    cluster: Cluster, server: Found, kind: str, owners: list[dict[str, Any]], whose: str
) -> None:
    server.found = child(kind, uid="u", ownerReferences=owners)
    with pytest.raises(
        errors.Rejected, match=f"a exists and {whose}; delete it, or give the job another name"
    ):
        await cluster.ensure(child(kind))
    assert [request[0] for request in server.requests] == ["POST", "GET"]


@pytest.mark.parametrize("server", [Found], indirect=True)
async def test_the_child_of_an_earlier_job_is_waited_for(cluster: Cluster, server: Found) -> None:
    server.found = child("Service", ownerReferences=[builders.make_owner(uid="earlier")])
    with pytest.raises(errors.Conflict, match="of an earlier job of this name is not gone yet"):
        await cluster.ensure(child("Service"))


async def test_nothing_is_sent_while_the_server_has_asked_for_silence(
    cluster: Cluster, server: Server
) -> None:
    server.code, server.headers = 429, {"Retry-After": "60"}
    for _ in range(3):
        with pytest.raises(errors.ApiBusy) as raised:
            await cluster.read_job("n", "a")
        assert raised.value.retry_after_seconds > 50
    assert len(server.requests) == 1
    server.code = 200
    await cluster.read_lease("n", "a")


@pytest.mark.parametrize(
    ("told", "seconds"), [("86400", 60), ("9" * 400, 60), ("Thu, 01 Jan 2026 00:00:00 GMT", 1), ("-5", 1)]
)
async def test_silence_lasts_a_minute_whatever_is_asked(
    cluster: Cluster, server: Server, told: str, seconds: float
) -> None:
    server.code, server.headers = 429, {"Retry-After": told}
    with pytest.raises(errors.ApiBusy) as raised:
        await cluster.read_job("n", "a")
    assert raised.value.retry_after_seconds == seconds


async def test_a_standby_reads_and_campaigns_but_writes_nothing(kubeconfig: Path, server: Server) -> None:
    cluster = Cluster(Metrics(), may_write=lambda: False)
    pod = {"kind": "Pod", "metadata": {"namespace": "n", "name": "a"}}
    for write in (cluster.ensure(pod), cluster.delete("pods", "n", "a", uid="u")):
        with pytest.raises(errors.NotLeading):
            await write
    await cluster.read_job("n", "a")
    await cluster.write_lease({"metadata": {"namespace": "n", "name": "a"}})
    assert [request[0] for request in server.requests] == ["GET", "POST"]
    await cluster.close()


async def test_a_server_that_does_not_answer_is_named(cluster: Cluster, kubeconfig: Path) -> None:
    api_server.write_kubeconfig(kubeconfig, "http://127.0.0.1:1")
    with pytest.raises(errors.ApiUnreachable, match=r"http://127\.0\.0\.1:1 does not answer"):
        await cluster.read_job("n", "a")


async def test_credentials_are_read_again_after_a_refused_login(
    cluster: Cluster, server: Server, kubeconfig: Path
) -> None:
    server.code, server.body = 401, {"message": "Unauthorized"}
    with pytest.raises(errors.LoginFailed):
        await cluster.read_job("n", "a")
    kubeconfig.write_text(kubeconfig.read_text().replace("secret-token", "renewed"))
    assert (await cluster.credentials()).token == "renewed"


async def test_other_clients_get_the_same_credentials(cluster: Cluster) -> None:
    credentials = await cluster.credentials()
    assert credentials.token == "secret-token"
    assert credentials.server.startswith("http://127.0.0.1:")
