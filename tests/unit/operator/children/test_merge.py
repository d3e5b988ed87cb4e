"""A partial pod template is laid over a pod the way Kubernetes would."""

from __future__ import annotations

from typing import Any

from kubedet_operator.children.merge import merge

POD = {
    "spec": {
        "containers": [
            {"name": "trainer", "image": "a", "env": [{"name": "X", "value": "1"}], "args": ["1", "2"]}
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "a"}],
    }
}


def _over(spec: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = merge(POD, {"spec": spec})["spec"]
    return merged


def test_lists_of_named_objects_are_merged_by_name() -> None:
    merged = _over({"containers": [{"name": "trainer", "env": [{"name": "X", "value": "2"}, {"name": "Y"}]}]})
    assert merged["containers"] == [
        {
            "name": "trainer",
            "image": "a",
            "env": [{"name": "X", "value": "2"}, {"name": "Y"}],
            "args": ["1", "2"],
        }
    ]


def test_a_new_item_is_added() -> None:
    assert [item["name"] for item in _over({"volumes": [{"name": "torch"}]})["volumes"]] == ["tmp", "torch"]
    assert len(_over({"containers": [{"name": "sidecar"}]})["containers"]) == 2


def test_other_lists_are_replaced() -> None:
    assert _over({"tolerations": [{"key": "b"}]})["tolerations"] == [{"key": "b"}]
    assert _over({"containers": [{"name": "trainer", "args": ["3"]}]})["containers"][0]["args"] == ["3"]


def test_none_removes_a_field() -> None:
    assert "tolerations" not in _over({"tolerations": None})


def test_what_no_pod_can_be_without_is_not_removed() -> None:
    assert _over({"containers": None}) == POD["spec"]


def test_the_pod_itself_is_left_alone() -> None:
    before = repr(POD)
    _over({"containers": [{"name": "trainer", "env": [{"name": "X", "value": "9"}]}], "volumes": []})
    assert repr(POD) == before


def test_an_item_without_its_name_is_left_for_the_api_server_to_refuse() -> None:
    assert _over({"containers": [{"image": "b"}]})["containers"][1] == {"image": "b"}
