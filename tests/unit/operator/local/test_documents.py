"""One DetectionJob and its Secrets are read from YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builders import make_manifest
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.local.documents import read_documents

SECRET = {
    "kind": "Secret",
    "metadata": {"name": "minio"},
    "data": {"accessKey": "YWNjZXNz", "secretKey": "b2xk"},
    "stringData": {"secretKey": "new"},
}


def _file(tmp_path: Path, *documents: object, name: str = "job.yaml") -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_secrets_lie_beside_the_job_or_in_a_file_of_their_own(tmp_path: Path) -> None:
    job, secret = _file(tmp_path, make_manifest()), _file(tmp_path, SECRET, name="secret.yaml")
    for paths in ([_file(tmp_path, SECRET, make_manifest(), None, {"kind": "ConfigMap"})], [job, secret]):
        documents = read_documents(paths)
        assert documents.job["metadata"]["name"] == "demo"
        assert documents.secrets == {"minio": {"accessKey": "access", "secretKey": "new"}}
        assert "access" not in repr(documents)


@pytest.mark.parametrize("jobs", [0, 2])
def test_there_must_be_exactly_one_job(tmp_path: Path, jobs: int) -> None:
    path = _file(tmp_path, SECRET, *[make_manifest()] * jobs)
    with pytest.raises(InvalidManifest, match=f"got {jobs}, must contain exactly one document of kind"):
        read_documents([path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "must be YAML"),
        ("- a\n- b\n", "document 0: got .*, must be an object"),
        ("[" * 5000, "must be YAML"),
        ("a: 2026-13-41", "month must be in 1..12.*must be YAML"),
        (f"a: {'9' * 5000}", "must be YAML"),
        ("kind: DetectionJob\nmetadata: demo", "DetectionJob: metadata: got 'str', must be an object"),
        ("kind: ModelZoo\nspec: [a]", "ModelZoo: spec: got 'list', must be an object"),
        ("kind: Secret\nmetadata: 5", "Secret: metadata: got 'int', must be an object"),
        ("kind: Secret\nstringData: a-password", "Secret: stringData: got 'str', must be an object"),
        ("kind: Secret\nmetadata: {name: m}\ndata: {accessKey: '!'}\n", "Secret m: data.accessKey: .*base64"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InvalidManifest, match=f"broken.yaml.*{said}"):
        read_documents([path])


@pytest.mark.parametrize("top", ["spec: *a8", "metadata: {labels: *a8}\nspec: {}"])
def test_aliases_never_make_more_values_than_a_job_may_have(top: str, tmp_path: Path) -> None:
    powers = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 9))
    path = tmp_path / "job.yaml"
    path.write_text(f"kind: DetectionJob\nx:\n  a0: &a0 [y]\n{powers}{top}\n")
    with pytest.raises(InvalidManifest, match=r"job\.yaml: document 0: got 'more than 100000 values'"):
        read_documents([path])
    path.write_text("&a\nkind: DetectionJob\nspec: {self: *a}\n")
    with pytest.raises(InvalidManifest, match="more than 100000 values"):
        read_documents([path])
