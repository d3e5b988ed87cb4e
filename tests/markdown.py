"""Pages of Markdown: their fenced blocks, the commands in them, their links and what links can lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ELSEWHERE = {"build", "runs", "dist"}
_PROGRAMS = ("docker", "helm", "kubectl", "kubedet", "make", "pip", "python", "python3")
_SHELLS = ("bash", "console", "sh", "shell")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path in the comment of the first line, ``# job.yaml``."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ") if re.fullmatch(r"# [\w./-]+\.(yaml|py)", first) else None

    @property
    def commands(self) -> list[str]:
        """The commands, each with its continuation lines; none where this is no block of commands."""
        first_word = self.text.split()[0] if self.text.split() else ""
        if self.language not in _SHELLS and not (self.language == "" and first_word in _PROGRAMS):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line.partition("   # ")[0].strip() for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One file."""

    name: str
    """Path from the repository's root."""
    text: str

    @property
    def blocks(self) -> list[Block]:
        """The fenced blocks, in order."""
        return [Block(language=language, text=text) for language, text in _FENCE.findall(self.text)]

    @property
    def links(self) -> list[str]:
        """Where its links lead, but for addresses elsewhere."""
        prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", self.text))
        return [link for link in _LINK.findall(prose) if "://" not in link and not link.startswith("mailto:")]

    @property
    def anchors(self) -> set[str]:
        """What a link can name behind ``#``, made of headings as GitHub does."""
        found: set[str] = set()
        for heading in _HEADING.findall(_FENCE.sub("", self.text)):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
            number = 0
            while (anchor := f"{slug}-{number}" if number else slug) in found:
                number += 1
            found.add(anchor)
        return found


def read_page(name: str) -> Page:
    """The page at this path from the repository's root."""
    return Page(name=name, text=(ROOT / name).read_text())


def read_pages() -> list[Page]:
    """Every page of the repository."""
    return [read_page(str(path.relative_to(ROOT))) for path in sorted(_find(ROOT))]


def _find(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _ELSEWHERE or path.is_symlink():
            continue
        if path.is_dir():
            yield from _find(path)
        elif path.suffix == ".md":
            yield path
