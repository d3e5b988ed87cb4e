"""Which name somebody may have meant."""

from __future__ import annotations

from kubedet_trainer.contract.nearest import did_you_mean, nearest


def test_the_most_similar_of_the_known_names_is_offered() -> None:
    assert nearest("replica", ["recipe", "replicas", "worker"]) == "replicas"
    assert did_you_mean("replica", ["recipe", "replicas"]) == " Did you mean 'replicas'?"


def test_nothing_is_offered_where_no_name_is_similar() -> None:
    assert nearest("zebra", ["recipe", "worker"]) is None
    assert did_you_mean("zebra", ["recipe", "worker"]) == ""


def test_of_equally_similar_names_the_first_is_offered() -> None:
    known = ["rpn_r50_fpn_1x", "rpn_r50_fpn_2x", "rpn_r101_fpn_1x"]
    assert nearest("rpn_r50_fpn", known) == "rpn_r50_fpn_1x"
    assert nearest("rpn_r50_fpn", reversed(known)) == "rpn_r50_fpn_2x"
