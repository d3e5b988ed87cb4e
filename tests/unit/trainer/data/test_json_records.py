"""Reading a large JSON file record by record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubedet_trainer.data import json_records
from kubedet_trainer.errors import InvalidInput

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    document=st.dictionaries(st.text(), _SCALARS | st.lists(_VALUES, max_size=5), max_size=5),
    chunk=st.integers(1, 40),
    indent=st.none() | st.just(2),
)
def test_records_are_those_of_the_standard_parser_wherever_chunks_end(
    document: dict[str, object],
    chunk: int,
    indent: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(json_records, "_CHUNK_CHARACTERS", chunk)
        read = [(record.section, record.position, record.value) for record in json_records.read_records(file)]
    expected = [
        (section, index, value)
        for section, values in document.items()
        if isinstance(values, list)
        for index, value in enumerate(values)
    ]
    assert read == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "expected one of '{'"),
        ("", "the end of the file"),
        ('{"images": [{"id": 1}', "the end of the file"),
        ('{"images": [{"id": 1},, ]}', "character 22"),
        ('{"images": [{"id": tru}]}', "character 19"),
    ],
)
def test_what_is_not_json_is_refused_with_file_and_place(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"broken\.json: not valid JSON") as refused:
        list(json_records.read_records(file))
    assert reason in str(refused.value)


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "picture.json"
    file.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InvalidInput, match="not valid JSON"):
        list(json_records.read_records(file))


@pytest.mark.parametrize("more", ["{}", '{"a": [2]}', "x", "\0"])
def test_what_follows_the_document_is_refused(more: str, tmp_path: Path) -> None:
    for document in ('{"a": [1]}', "{}"):
        (tmp_path / "x.json").write_text(f"{document}\n{more}")
        with pytest.raises(InvalidInput, match="expected the end of the file, found"):
            list(json_records.read_records(tmp_path / "x.json"))
