"""The warm standby: what it forks is like a new process, and it forks only while that is safe."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubedet_trainer.worker import processes, warm
from kubedet_trainer.worker.warm import ForkedProgram, Standby

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a standby")

PROGRAM = """
import os, sys
exec(os.environ["CODE"])
"""

OBSTRUCTED = """
import sys
from kubedet_trainer.worker import standby
standby._PRELOADED = standby._PRELOADED_PACKAGES = ()
standby.torch.compiler.reset = lambda: None  # which takes its time
standby.processes.fork_obstacle = lambda: "has 3 threads"
standby.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "brief.py").write_text(PROGRAM)
    return folder


@pytest.fixture(scope="module")
def warmed(folder: Path) -> Iterator[Standby]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with warm.standby(environment) as started:
        assert started is not None
        yield started


def run(warmed: Standby, folder: Path, code: str, *arguments: str) -> tuple[ForkedProgram, Path]:
    output = folder / f"output-{time.monotonic_ns()}"
    with output.open("wb") as file:
        program = warmed.fork(
            "brief",
            arguments=arguments,
            environment={"CODE": code},
            output=(file.fileno(), file.fileno()),
        )
    return program, output


def test_forked_program_is_like_a_new_one(warmed: Standby, folder: Path) -> None:
    code = "print(sys.argv[1:], __name__, os.getsid(0) == os.getpid()); sys.exit(7)"
    program, output = run(warmed, folder, code, "a", "b")
    assert program.wait(120) == 7
    assert output.read_text() == "['a', 'b'] __main__ True\n"


def test_forked_program_has_torch_already_and_computes_with_its_own_threads(
    warmed: Standby, folder: Path
) -> None:
    code = """
print("torch" in sys.modules, "kubedet_trainer.training.loop" in sys.modules)
import torch
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
value = torch.ones(512, 512) @ torch.ones(512, 512)
layer = torch.nn.Conv2d(3, 8, 3)
layer(torch.ones(2, 3, 64, 64)).sum().backward()
print(before, torch.get_num_threads(), threads() > 1, float(value[0, 0]), layer.weight.grad.abs().sum() > 0)
"""
    program, output = run(warmed, folder, code)
    assert program.wait(120) == 0, output.read_text()
    assert output.read_text().splitlines() == ["True True", "1 2 True 512.0 tensor(True)"]


@pytest.mark.skipif(shutil.which("g++") is None and not os.environ.get("CI"), reason="inductor needs g++")
def test_forked_program_compiles(warmed: Standby, folder: Path) -> None:
    code = f"""
os.environ["TORCHINDUCTOR_CACHE_DIR"] = {str(folder / "graphs")!r}
import torch
layer = torch.compile(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh()), fullgraph=True)
print(layer(torch.tensor([-1.0, 0.0])).tolist())
"""
    program, output = run(warmed, folder, code)
    assert program.wait(240) == 0, output.read_text()
    assert output.read_text().splitlines()[-1] == "[0.0, 0.0]"  # after what torch finds of a CUDA toolkit
    assert list((folder / "graphs").rglob("*.so"))


def test_exception_ends_a_forked_program_with_1_and_its_traceback(warmed: Standby, folder: Path) -> None:
    program, output = run(warmed, folder, "raise LookupError('gone')")
    assert program.wait(120) == 1
    assert output.read_text().splitlines()[-1] == "LookupError: gone"


def test_signals_end_a_forked_program_as_they_do_a_new_one(warmed: Standby, folder: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        program, _ = run(warmed, folder, "import time; time.sleep(300)")
        while not program.pid:
            time.sleep(0.02)
        assert program.poll() is None
        program.send_signal(number)
        assert program.wait(120) == -number


def test_end_of_a_program_is_told_after_what_it_had_asked_for_has_ended(
    warmed: Standby, folder: Path
) -> None:
    code = """
import time
from kubedet_trainer.worker import warm
sleep = {"CODE": "import time; time.sleep(300)"}
child = warm.inherited.fork("brief", arguments=[], environment=sleep, output=(1, 2))
while not child.pid:
    time.sleep(0.02)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    program, output = run(warmed, folder, code)
    assert program.wait(120) == -signal.SIGKILL
    assert not Path(f"/proc/{output.read_text().strip()}").exists()


def test_program_that_is_ended_while_the_standby_imports_does_not_run(folder: Path) -> None:
    mark = folder / "late"
    with warm.standby({**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}) as started:
        assert started is not None
        program, _ = run(started, folder, f"import time; time.sleep(1); open({str(mark)!r}, 'w')")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
        assert run(started, folder, "import time; time.sleep(2)")[0].wait(120) == 0
    assert not mark.exists()


def test_programs_count_as_killed_when_their_standby_is(folder: Path) -> None:
    with warm.standby({**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"}) as started:
        assert started is not None
        program, _ = run(started, folder, "import time; time.sleep(300)")
        while not program.pid:
            time.sleep(0.05)
        parent = int(Path(f"/proc/{program.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert program.wait(120) == -signal.SIGKILL
        with pytest.raises(BrokenPipeError):
            run(started, folder, "")


def test_standby_that_cannot_serve_is_not_started_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "obstructed.py").write_text(OBSTRUCTED)
    monkeypatch.setattr(warm, "STANDBY_MODULE", "obstructed")
    with warm.standby({**os.environ, "PYTHONPATH": str(folder)}) as started:
        assert started is not None
        unread, _ = run(started, folder, "")
        assert unread.wait(120) == -signal.SIGKILL
        known = started._process
        started.renew()
        assert started._process is known


def test_program_starts_the_cold_way_without_a_standby(tmp_path: Path) -> None:
    (tmp_path / "brief.py").write_text(PROGRAM)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with (tmp_path / "output").open("wb") as output:
        program = warm.start(
            "brief",
            arguments=["a"],
            environment={**os.environ, "PYTHONPATH": str(tmp_path)},
            changes={"CODE": "print(sys.argv[1:])"},
            output=(output.fileno(), output.fileno()),
            using=Standby(ours),
        )
    ours.close()
    assert program.wait(120) == 0
    assert (tmp_path / "output").read_text() == "['a']\n"


def test_process_with_threads_is_no_standby() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    obstacle = processes.fork_obstacle()
    ended.set()
    thread.join()
    assert obstacle is not None
    assert "threads" in obstacle
