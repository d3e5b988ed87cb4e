"""Constants on the device serve every part of a run."""

from __future__ import annotations

import torch

from kubedet_trainer.models import host


def test_constant_that_an_evaluation_was_first_to_need_serves_the_training() -> None:
    values = (0.25, 4096.0)
    with torch.inference_mode():
        host.constant(values, torch.device("cpu"))
    learnt = torch.ones(2, requires_grad=True)

    (learnt * host.constant(values, torch.device("cpu"))).sum().backward()  # type: ignore[no-untyped-call]

    assert learnt.grad is not None
    assert learnt.grad.tolist() == list(values)
