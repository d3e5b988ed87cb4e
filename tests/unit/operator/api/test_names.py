"""Names of children stay within what Kubernetes allows."""

from __future__ import annotations

from kubedet_operator.api import names


def test_the_longest_job_name_gives_host_names_of_at_most_63_characters() -> None:
    job = "j" * names.MAX_JOB_NAME_LENGTH
    assert len(names.spare_worker_name(job, 999)) <= 63
    assert len(names.rendezvous_name(job)) <= 63
    assert len(names.service_name(job)) <= 63


def test_a_child_without_index_and_attempt_has_no_such_labels() -> None:
    labels = names.labels("demo", component=names.NETWORK, uid=None)
    assert not {names.REPLICA_INDEX, names.ATTEMPT, names.JOB_UID} & set(labels)


def test_the_selector_of_the_scale_subresource_selects_workers_only() -> None:
    worker = names.labels("demo", component=names.WORKER, uid="u", index=0, attempt=0)
    rendezvous = names.labels("demo", component=names.RENDEZVOUS, uid="u")
    wanted = dict(pair.split("=") for pair in names.worker_selector("demo").split(","))
    assert wanted.items() <= worker.items()
    assert not wanted.items() <= rendezvous.items()


def test_both_names_of_a_worker_tell_its_index_and_no_other_name_does() -> None:
    for name in (names.worker_name("demo", 12), names.spare_worker_name("demo", 12)):
        assert names.read_pod_name(name, "demo") == (names.WORKER, 12)
        assert names.read_pod_name(name, "dem") is None
    for name in (
        "demo-worker-12-b-b",
        "demo-worker-012",
        "demo-worker-12-c",
        "demo-worker--b",
        "demo-rendezvous-b",
    ):
        assert names.read_pod_name(name, "demo") is None
