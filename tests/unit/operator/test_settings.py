"""The operator's settings come from its environment."""

from __future__ import annotations

import pytest

from kubedet_operator.settings import InvalidSetting, OperatorSettings, read_settings


def test_an_empty_environment_means_the_defaults() -> None:
    assert read_settings({"KUBEDET_OPERATOR_CONCURRENCY": ""}) == OperatorSettings()


def test_values_are_read_by_type() -> None:
    settings = read_settings(
        {
            "KUBEDET_OPERATOR_TRAINER_IMAGE": "registry/trainer:1",
            "KUBEDET_OPERATOR_NAMESPACES": "a, b",
            "KUBEDET_OPERATOR_CONCURRENCY": "4",
        }
    )
    assert settings.trainer_image == "registry/trainer:1"
    assert settings.namespaces == ("a", "b")
    assert settings.concurrency == 4


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match=f"KUBEDET_OPERATOR_CONCURRENCY: got '{text}', must be"):
        read_settings({"KUBEDET_OPERATOR_CONCURRENCY": text})
