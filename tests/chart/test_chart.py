"""What can be said of the chart without a cluster: linter, schema, generated files, values that are read."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from kubedet_operator.settings import OperatorSettings

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "charts" / "kubedet"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
OF_THE_POD = {"lease_namespace", "service_account"}
"""Settings that are no values: a pod knows its own."""

typos = pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"operatr": {}}, "at '': additional properties 'operatr' not allowed"),
        ({"operator": {"replica": 3}}, "at '/operator': additional properties 'replica' not allowed"),
        ({"operator": {"image": {"name": "x"}}}, "at '/operator/image': additional properties 'name'"),
        ({"operator": {"replicas": "three"}}, "at '/operator/replicas': got string, want integer"),
        ({"networkPolicy": {"egress": {"enabled": "yes"}}}, "at '/networkPolicy/egress/enabled': got string"),
        ({"operator": {"scope": "Everywhere"}}, "at '/operator/scope': value must be one of 'Namespaced'"),
        ({"trainer": {"image": {"digest": "1.0"}}}, "at '/trainer/image/digest': '1.0' does not match"),
        ({"trainer": {"image": {"tag": "a: b"}}}, "at '/trainer/image/tag': 'a: b' does not match"),
        ({"operator": {"image": {"registry": "{x}"}}}, "at '/operator/image/registry': '{x}' does not match"),
        ({"operator": None}, "missing property 'operator'"),
        ({"operator": {"metricsPort": None}}, "at '/operator': missing property 'metricsPort'"),
        ({"trainer": {"image": None}}, "at '/trainer': missing property 'image'"),
    ],
)


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helm_python.Chart]:
    """The chart; where its monitoring has not been generated, with a rule and a dashboard in its place."""
    folder = tmp_path_factory.mktemp("chart") / "kubedet"
    shutil.copytree(CHART, folder)
    for name in ("rules.yaml", "dashboards/fleet.json"):
        path = folder / "files" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text("groups: []")
    with helm_python.Chart.load(folder) as loaded:
        yield loaded


@pytest.mark.parametrize("path", [None, *CI], ids=lambda path: path.stem if path else "default")
def test_the_strict_linter_has_no_complaint(path: Path | None) -> None:
    values = yaml.safe_load(path.read_text()) if path else {}
    report = helm_python.chart.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@typos
def test_what_the_schema_does_not_know_is_refused_by_its_path(
    chart: helm_python.Chart, values: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(complaint)):
        chart.validate_schema(dict(values))


def test_contradictions_are_refused_by_their_path(chart: helm_python.Chart) -> None:
    cluster = {"scope": "Cluster"}
    with pytest.raises(helm_python.HelmRenderError, match=r"operator\.namespaces: must be empty"):
        chart.render({"operator": {**cluster, "namespaces": ["detectors"]}}, name="kubedet")
    with pytest.raises(helm_python.HelmRenderError, match=r"networkPolicy\.workers\.enabled: got true"):
        chart.render({"operator": cluster, "networkPolicy": {"workers": {"enabled": True}}}, name="kubedet")
    with pytest.raises(helm_python.HelmRenderError, match=r"operator\.healthPort: got 8080, must differ"):
        chart.render({"operator": {"healthPort": 8080}}, name="kubedet")
    for name in ("1st", "team.vision"):
        with pytest.raises(
            helm_python.HelmRenderError, match=r"trialStore\.enabled: got true, .* begins with"
        ):
            chart.render({"trialStore": {"enabled": True}}, name=name)


def test_lists_and_maps_may_be_removed(chart: helm_python.Chart) -> None:
    names = ("namespaces", "imagePullSecrets", "nodeSelector", "tolerations", "affinity", "podLabels")
    enabled = {"enabled": True}
    dashboards = {**enabled, "labels": None, "annotations": None}
    values: dict[str, Any] = {
        "operator": dict.fromkeys((*names, "podAnnotations", "resources")),
        "serviceAccount": {"annotations": None},
        "monitoring": {"labels": None, "podMonitor": enabled, "rules": enabled, "dashboards": dashboards},
    }
    chart.validate_schema(values)
    assert set(_load(chart, values)) >= {"Deployment", "PodMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize("name", ["123", "true", "null", "1e3", "on"])
def test_names_that_yaml_takes_for_something_else_stay_names(chart: helm_python.Chart, name: str) -> None:
    operator = {"namespaces": [name], "priorityClassName": name}
    values = {
        "operator": operator,
        "serviceAccount": {"name": name},
        "networkPolicy": {"workers": {"enabled": True}},
    }
    found = _load(chart, values, name=name, namespace=name)
    pod = found["Deployment"][0]["spec"]["template"]
    variables = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
    assert variables["KUBEDET_OPERATOR_NAMESPACES"] == name
    assert (pod["spec"]["serviceAccountName"], pod["spec"]["priorityClassName"]) == (name, name)
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == name
    assert found["Role"][0]["metadata"]["namespace"] == name
    assert found["RoleBinding"][0]["subjects"][0] == {
        "kind": "ServiceAccount", "name": name, "namespace": name,
    }  # fmt: skip
    workers = found["NetworkPolicy"][-1]
    assert workers["metadata"]["namespace"] == name


def test_annotations_replace_those_of_the_chart(chart: helm_python.Chart) -> None:
    given = {"prometheus.io/scrape": "false", "team": "vision"}
    found = _load(chart, {"operator": {"podAnnotations": given}})
    rendered = found["Deployment"][0]["spec"]["template"]["metadata"]["annotations"]
    assert rendered == {**given, "prometheus.io/port": "8080"}


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, as the API server does."""


def _construct_once(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key of {keys} is there twice"
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor("tag:yaml.org,2002:map", _construct_once)


def _load(
    chart: helm_python.Chart, values: Mapping[str, Any], *, name: str = "kubedet", namespace: str = "kubedet"
) -> dict[str, list[dict[str, Any]]]:
    """The rendered objects by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file, text in chart.render(dict(values), name=name, namespace=namespace).items():
        if file.endswith(".yaml") and "/crds" not in file:
            for item in yaml.load_all(text, Loader=_Strict):
                if item is not None:
                    found.setdefault(item["kind"], []).append(item)
    return found


def test_it_works_as_a_subchart(tmp_path: Path) -> None:
    dependency = {"name": "kubedet", "version": "*", "condition": "kubedet.enabled"}
    parent = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    shutil.copytree(CHART, tmp_path / "charts" / "kubedet")
    with helm_python.Chart.load(tmp_path) as loaded:
        values = {"global": {"team": "vision"}, "kubedet": {"enabled": True}}
        rendered = loaded.render(values, name="platform", namespace="vision")
    deployment = yaml.safe_load(rendered["platform/charts/kubedet/templates/operator/deployment.yaml"])
    assert deployment["metadata"]["name"] == "platform-kubedet-operator"


def test_generated_files_are_current() -> None:
    command = [sys.executable, str(ROOT / "charts" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_version_is_that_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)
    assert OperatorSettings().trainer_image == f"kubedet-trainer:{version}"


def test_every_setting_of_the_operator_is_a_value(chart: helm_python.Chart) -> None:
    deployment = chart.render(name="kubedet")["kubedet/templates/operator/deployment.yaml"]
    container = yaml.safe_load(deployment)["spec"]["template"]["spec"]["containers"][0]
    fields = {field.name for field in dataclasses.fields(OperatorSettings)} - OF_THE_POD
    variables = {f"KUBEDET_OPERATOR_{name.upper()}" for name in fields}
    assert {item["name"] for item in container["env"]} == variables
    described = (CHART / "README.md").read_text()
    assert {name for name in variables if name not in described} == set()
    plain = {item["name"]: item.get("value") for item in container["env"]}
    for name in ("concurrency", "progress_interval_seconds", "metrics_port", "health_port", "trainer_image"):
        assert plain[f"KUBEDET_OPERATOR_{name.upper()}"] == str(getattr(OperatorSettings(), name))


def test_the_ci_files_set_every_value(chart: helm_python.Chart) -> None:
    everywhere = {path for file in CI for path, _ in _leaves(yaml.safe_load(file.read_text()), chart)}
    assert everywhere == {path for path, _ in _leaves(chart.values, chart)}


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_every_value_makes_a_difference(chart: helm_python.Chart, file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    values.pop("global", None)
    before = _render(chart, values)
    vain = [path for path, rest in _leaves(values, chart) if _render(chart, rest) == before]
    assert vain == []


def _render(chart: helm_python.Chart, values: Mapping[str, Any]) -> str:
    rendered = json.dumps(chart.render(dict(values), name="kubedet", namespace="kubedet"), sort_keys=True)
    return re.sub(r"secretKey: \w+", "", rendered)


def _leaves(values: Mapping[str, Any], chart: helm_python.Chart) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of every value, and all values without it."""
    for path in _paths(values, chart.schema or {}):
        rest = json.loads(json.dumps(values))
        *groups, last = path.split(".")
        node = rest
        for group in groups:
            node = node[group]
        del node[last]
        yield path, rest


def _paths(values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        known = schema["properties"].get(name, {})
        if "properties" in known:
            yield from _paths(value, known, f"{prefix}{name}.")
        elif name not in ("global", "enabled") or prefix:
            yield prefix + name


@pytest.mark.parametrize(
    ("registries", "warned"),
    [
        ({}, ["operator", "trainer"]),
        ({"operator": "r"}, ["trainer"]),
        ({"operator": "r", "trainer": "r"}, []),
    ],
)
def test_the_notes_name_the_images_without_a_registry(
    chart: helm_python.Chart, registries: Mapping[str, str], warned: list[str]
) -> None:
    values = {name: {"image": {"registry": registry}} for name, registry in registries.items()}
    notes = chart.render(values, name="kubedet", namespace="kubedet")["kubedet/templates/NOTES.txt"]
    found = re.search(r"No registry is set for (.*)\. kubedet publishes no images", notes)
    assert re.findall(r"kubedet-(\w+):", found[1] if found else "") == warned
