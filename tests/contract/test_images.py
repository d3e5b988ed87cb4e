"""What the Dockerfiles, the pins and the target `images` promise; tests/e2e asks the built images."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kubedet_operator.settings import OperatorSettings

ROOT = Path(__file__).resolve().parent.parent.parent
HALVES = ("operator", "trainer")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILDERS = {"docker": "docker build", "podman": "podman build", "buildah": "buildah build"}


def _instructions(half: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: ``("RUN", "python3 ...")``, one a line."""
    text = (ROOT / "images" / half / "Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def _last_stage(half: str) -> list[tuple[str, str]]:
    instructions = _instructions(half)
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[start:]


@pytest.mark.parametrize("half", HALVES)
def test_hadolint_has_no_complaint(half: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "images" / half / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("half", HALVES)
def test_every_stage_stands_on_the_one_base(half: str) -> None:
    instructions = _instructions(half)
    assert instructions[0][0] == "ARG"
    assert instructions[0][1].startswith("BASE_IMAGE=")
    stages = {rest.partition(" AS ")[2] for word, rest in instructions if word == "FROM"}
    parents = {rest.partition(" AS ")[0] for word, rest in instructions if word == "FROM"}
    assert parents - stages == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("half", HALVES)
def test_what_builds_an_image_is_not_left_in_it(half: str) -> None:
    """The last stage only copies: neither a compiler nor a cache can come into it."""
    last = _last_stage(half)
    assert last[0] == ("FROM", "${BASE_IMAGE}")
    words = [word for word, _ in last]
    assert set(words) <= {"FROM", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD", "ARG", "LABEL"}
    assert all(rest.startswith("--from=") for word, rest in last if word == "COPY")
    assert [rest for word, rest in last if word == "USER"] == ["1000:1000"]


@pytest.mark.parametrize("half", HALVES)
def test_a_version_changes_no_layer_of_packages(half: str) -> None:
    """What changes with a version comes after all copies, and packages are copied before kubedet."""
    words = [word for word, _ in _last_stage(half)]
    assert words.index("ARG") > max(index for index, word in enumerate(words) if word == "COPY")
    sources = [re.match(r"--from=(\w+)", rest) for word, rest in _last_stage(half) if word == "COPY"]
    order = [found.group(1) for found in sources if found]
    assert order.index("packages") < order.index("release")
    assert order.index("torch" if half == "trainer" else "packages") == 0


@pytest.mark.parametrize("half", HALVES)
def test_whatever_pip_fetches_is_pinned(half: str) -> None:
    installs = [rest for word, rest in _instructions(half) if word == "RUN" and " install " in rest]
    assert installs
    for command in installs:
        if " pip " in command:
            assert " -c " in command or " --no-deps " in command, command


def test_all_that_the_images_hold_has_a_pin() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", text, re.MULTILINE))
    assert len(pins) == len([line for line in text.splitlines() if line and not line.startswith("#")])
    extras = PROJECT["optional-dependencies"]
    needed = set(_closure([*PROJECT["dependencies"], *extras["operator"], *extras["trainer"]]))
    assert len(needed) > 50, "the closure was not found"
    assert needed - pins.keys() == set(), "add these to constraints.txt, in [run] or [torch]"


def _closure(requirements: Iterable[str], extras: Iterable[str] = ("",)) -> Iterator[str]:
    """The names of all distributions that `requirements` bring, as installed here."""
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(text), extra) for text in requirements for extra in extras]
    while left:
        requirement, asked = left.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": asked}):
            continue
        yield name
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                left += [(Requirement(text), extra) for text in importlib.metadata.requires(name) or []]


@pytest.mark.parametrize(("half", "other"), [("operator", "torch"), ("trainer", "kopf")])
def test_an_image_holds_its_own_half_alone(half: str, other: str, tmp_path: Path) -> None:
    files = _requirements(half, ROOT, tmp_path)
    asked = {Requirement(line).name for line in files["packages.txt"].splitlines()}
    assert asked & {"torch", "torchvision", other} == set()
    assert asked >= {"click", "prometheus-client"}


def test_the_pins_of_a_tool_make_no_layer_anew(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    pins = (ROOT / "constraints.txt").read_text()
    written = {}
    for change, text in {
        "none": pins,
        "tool": re.sub(r"^ruff==.*", "ruff==9", pins, flags=re.MULTILINE),
        "package": re.sub(r"^click==.*", "click==9", pins, flags=re.MULTILINE),
    }.items():
        (tmp_path / "constraints.txt").write_text(text)
        written[change] = _requirements("trainer", tmp_path, tmp_path / change)
    assert written["tool"] == written["none"]
    assert written["package"]["torch-constraints.txt"] == written["none"]["torch-constraints.txt"]
    assert "click==9" in written["package"]["constraints.txt"]


def _requirements(half: str, directory: Path, folder: Path) -> dict[str, str]:
    command = [sys.executable, str(ROOT / "images" / "requirements.py"), half, str(folder)]
    subprocess.run(command, cwd=directory, check=True)
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def test_the_operator_asks_for_the_trainer_of_its_own_version() -> None:
    assert OperatorSettings().trainer_image == f"kubedet-trainer:{PROJECT['version']}"


@pytest.mark.parametrize("builder", BUILDERS)
def test_make_images_passes_the_one_version(builder: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", "images", f"IMAGE_BUILDER={builder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(HALVES)
    for line, half in zip(lines, HALVES, strict=True):
        assert line.startswith(BUILDERS[builder])
        words = shlex.split(line)
        assert words[words.index("--tag") + 1] == f"kubedet-{half}:{PROJECT['version']}"
        assert f"VERSION={PROJECT['version']}" in words
        assert "BASE_IMAGE" not in line, "the Dockerfile's own, which is public"
        assert words[-1] == "."
