"""Files and folders that others read while they are written."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from kubedet_trainer.storage.files import locked, make_folder, replacing, write_json


def test_a_write_that_fails_keeps_the_old_content_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def break_off() -> None:
        with replacing(target) as file:
            file.write(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_written_is_readable_for_everybody_and_its_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "record.json"
    write_json(file, {"iteration": 7})
    assert json.loads(file.read_text()) == {"iteration": 7}
    assert file.stat().st_mode & 0o777 == 0o644
    make_folder(tmp_path / "set", lambda scratch: (scratch / "a").touch())
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", lambda scratch: (scratch / "first").touch())
    make_folder(tmp_path / "set", lambda scratch: (scratch / "second").touch())
    assert os.listdir(tmp_path / "set") == ["first"]


def test_a_folder_that_could_not_be_filled_does_not_exist_and_can_be_made_later(tmp_path: Path) -> None:
    def break_off(scratch: Path) -> None:
        (scratch / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make_folder(tmp_path / "set", break_off)
    assert os.listdir(tmp_path) == [".set.lock"]
    make_folder(tmp_path / "set", lambda scratch: (scratch / "whole").touch())
    assert os.listdir(tmp_path / "set") == ["whole"]


def test_of_several_that_want_a_folder_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    made: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def fill(scratch: Path) -> None:
        made.append(threading.current_thread().name)
        begun.set()
        assert may_end.wait(30)
        (scratch / "file").touch()

    seen: list[bool] = []

    def want() -> None:
        make_folder(tmp_path / "set", fill)
        seen.append((tmp_path / "set" / "file").exists())

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    assert not (tmp_path / "set").exists()
    may_end.set()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert seen == [True, True, True]


def test_a_lock_is_of_one_target_only(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        assert sorted(os.listdir(tmp_path)) == [".a.lock", ".b.lock"]
