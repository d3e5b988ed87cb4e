"""Which name somebody may have meant."""

from __future__ import annotations

from kubedet_trainer.contract.nearest import did_you_mean, nearest


def test_the_most_similar_of_the_known_names_is_offered() -> None:
    assert nearest("replica", ["recipe", "replicas", "worker"]) == "replicas"
    assert did_you_mean("replica", ["recipe", "replicas"]) == " Did you mean 'replicas'?"


def test_nothing_is_offered_where_no_name_is_similar() -> None:
    assert nearest("zebra", ["recipe", "worker"]) is None
    assert did_you_mean("zebra", ["recipe", "worker"]) == ""
