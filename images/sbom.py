"""Write the bill of materials of an image: ``sbom.py ARCHIVE FILE``, as CycloneDX JSON.

ARCHIVE is what ``docker save`` writes. It is read rather than run, so that it may be for another machine.
Listed are the Python packages of the image's virtual environment; what its base holds is the base's to list.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path, PurePosixPath

SITE_PACKAGES = re.compile(r"(\./)?opt/kubedet/lib/python[\d.]+/site-packages/")


def extract_metadata(archive: Path, site_packages: Path) -> int:
    """Copy every package's metadata out of an image's layers; the number of packages."""
    with tarfile.open(archive) as image:
        manifest = image.extractfile("manifest.json")
        assert manifest is not None, "a file, not a folder"
        layers = json.load(manifest)[0]["Layers"]
        for name in layers:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                for member in layer:
                    path = SITE_PACKAGES.sub("", member.name, count=1)
                    if member.isfile() and path != member.name and ".dist-info/" in path:
                        _write(layer, member, site_packages / PurePosixPath(path))
    return len(list(site_packages.glob("*.dist-info")))


def _write(layer: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = layer.extractfile(member)
    assert content is not None, "a file, not a folder"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.read())


def write_bill(archive: Path, target: Path) -> None:
    """List what is in the image at `archive` in the file `target`."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        (site_packages,) = Path(folder).glob("lib/python*/site-packages")
        if extract_metadata(archive, site_packages) == 0:
            sys.exit(f"{archive}: got no package under /opt/kubedet, must be an image of kubedet's")
        command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        command += ["--output-file", str(target), "--pyproject", "pyproject.toml", folder]
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, env=alone, check=True)


if __name__ == "__main__":
    write_bill(Path(sys.argv[1]), Path(sys.argv[2]))
