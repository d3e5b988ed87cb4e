"""What can end a run says so in one line."""

from __future__ import annotations

import pickle

from kubedet_trainer.errors import InvalidInput


def test_a_message_is_one_line_whatever_a_library_said() -> None:
    error = InvalidInput("x.pkl: is no pickle (a load instruction was met,\nbut no function was given)")

    assert str(error) == "x.pkl: is no pickle (a load instruction was met, but no function was given)"


def test_an_error_of_a_loader_process_arrives_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(InvalidInput("a.jpg: is broken")))

    assert isinstance(error, InvalidInput)
    assert str(error) == "a.jpg: is broken"
