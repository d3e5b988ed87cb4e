"""What commands say of places and numbers that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kubedet_trainer.commands import weights
from kubedet_trainer.commands.data import check_data
from kubedet_trainer.commands.inference import evaluate, predict, propose
from kubedet_trainer.commands.publish import publish
from kubedet_trainer.commands.train import train
from kubedet_trainer.errors import InvalidInput


@pytest.mark.parametrize("below", ["", "/inner/folder"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["w.pth", "pictures", "--output"]),
        (predict, ["w.pth", "pictures", "--work-directory"]),
        (publish, ["run", "--output"]),
        (check_data, ["--dataset", "data", "--work-directory"]),
        (evaluate, ["w.pth", "--dataset", "data", "--work-directory"]),
        (propose, ["w.pth", "--dataset", "data", "--output", "found", "--work-directory"]),
        (train, ["smoke_rpn", "--dataset", "data", "--work-directory"]),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_refused(
    command: click.Command, arguments: list[str], below: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(command, [*arguments, f"{tmp_path}/file{below}"])
    assert result.exit_code == 2
    assert f"got '{tmp_path}/file{below}', must be a folder, but {tmp_path}/file is a file" in result.output


@pytest.mark.parametrize("score", ["nan", "-0.1", "1.1", "high"])
def test_a_score_is_a_number_from_0_to_1(score: str) -> None:
    result = CliRunner().invoke(predict, ["w.pth", "pictures", "--score", score])
    assert result.exit_code == 2
    assert "Invalid value for '--score'" in result.output


def test_classes_are_different_names() -> None:
    assert weights.parse_classes(" cat, dog,") == ("cat", "dog")
    with pytest.raises(InvalidInput, match="classes: got 'cat' twice, must be different names"):
        weights.parse_classes("cat,dog,cat")
