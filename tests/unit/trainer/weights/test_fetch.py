"""Files of weights from a real HTTP server that breaks off, refuses and lies; addresses tried in order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from http_servers import Handler, serve
from kubedet_trainer.errors import InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.weights import fetch

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"model-{DIGEST[:8]}.pth"


@dataclass(kw_only=True)
class Site:
    """What the server has, how it behaves, and what it was asked for."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"first"'
    breaks: int = 0
    """Answers yet to be cut off after half of what they announced."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of each."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(fetch, "_BODY_WAIT_SECONDS", 0.0)
    site = Site()

    class Answers(Handler):
        def answer(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append((self.path, wanted))
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            begin = 0
            if wanted and self.headers.get("If-Range") == site.etag:
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if begin else 200)
            self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            body = content[begin:]
            if site.breaks:
                site.breaks -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

    with serve(Answers) as port:
        site.base = f"http://127.0.0.1:{port}"
        yield site


def test_a_download_that_breaks_off_is_continued_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.files["/a/" + NAME] = CONTENT
    site.breaks = 2
    file = fetch.fetch_weights([f"{site.base}/a/{NAME}"], cache=tmp_path)
    assert file.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    ranges = [wanted for _, wanted in site.requests]
    assert ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_later_process_continues_what_an_earlier_one_began(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/" + NAME] = CONTENT
    site.breaks = 1
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_BODY_ATTEMPTS", 1)
        with pytest.raises(StorageUnreachable, match=rf"{NAME}: no answer"):
            fetch.fetch_weights([f"{site.base}/{NAME}"], cache=tmp_path)
    assert fetch.fetch_weights([f"{site.base}/{NAME}"], cache=tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == (f"/{NAME}", f"bytes={len(CONTENT) // 2}-")


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_BODY_ATTEMPTS", 1)
    site.files["/" + NAME] = b"another" * 1000
    site.breaks = 1
    with pytest.raises(StorageUnreachable):
        fetch.fetch_weights([f"{site.base}/{NAME}"], cache=tmp_path)
    site.files["/" + NAME], site.etag = CONTENT, '"second"'
    assert fetch.fetch_weights([f"{site.base}/{NAME}"], cache=tmp_path).read_bytes() == CONTENT


def test_addresses_are_tried_in_order_and_the_cache_serves_the_next(site: Site, tmp_path: Path) -> None:
    site.files["/liar/" + NAME] = b"something else"
    site.files["/good/" + NAME] = CONTENT
    places = [f"{site.base}/{place}/{NAME}" for place in ("none", "liar", "good")]
    assert fetch.fetch_weights(places, cache=tmp_path).read_bytes() == CONTENT
    assert [path.split("/")[1] for path, _ in site.requests] == ["none", "liar", "good"]
    assert fetch.fetch_weights(places[::-1], cache=tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 3
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [NAME]


def test_the_error_names_every_address_that_was_tried(site: Site, tmp_path: Path) -> None:
    places = [f"{site.base}/{place}/{NAME}" for place in ("one", "two")]
    with pytest.raises(MissingInput, match="none of 2 addresses has the file") as caught:
        fetch.fetch_weights(places, cache=tmp_path)
    assert all(f"{place} answers 404" in str(caught.value) for place in places)
    with pytest.raises(StorageUnreachable, match="answers 404") as unreachable:  # worth another try
        fetch.fetch_weights([*places, "http://127.0.0.1:9/nobody.pth"], cache=tmp_path)
    assert "http://127.0.0.1:9/nobody.pth: no answer" in str(unreachable.value)


def _at_once(action: Callable[[], object], *, times: int) -> None:
    threads = [threading.Thread(target=action) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_processes_at_the_same_time_download_once(site: Site, tmp_path: Path) -> None:
    site.files["/" + NAME] = CONTENT
    found: list[bytes] = []
    _at_once(
        lambda: found.append(fetch.fetch_weights([f"{site.base}/{NAME}"], cache=tmp_path).read_bytes()),
        times=4,
    )
    assert found == [CONTENT] * 4
    assert len(site.requests) == 1


def test_the_hash_is_checked_from_the_setting_or_else_from_the_name(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    good, bad = tmp_path / NAME, tmp_path / "resnet50-00000000.pth"
    for file in (good, bad):
        file.write_bytes(CONTENT)
    assert fetch.fetch_weights([good.as_uri()], cache=cache).read_bytes() == CONTENT
    assert fetch.fetch_weights([bad.as_uri()], sha256=DIGEST, cache=cache).read_bytes() == CONTENT
    (cache / bad.name).unlink()
    with pytest.raises(InvalidInput, match=f"has SHA-256 {DIGEST}, must begin with 00000000"):
        fetch.fetch_weights([bad.as_uri()], cache=cache)
    assert not (cache / bad.name).exists()


def test_files_without_a_hash_in_their_name_are_told_apart_by_their_address(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.pth").write_text(folder)
    found = [
        fetch.fetch_weights([(tmp_path / folder / "model.pth").as_uri()], cache=tmp_path / "cache")
        for folder in ("one", "two")
    ]
    assert [file.read_text() for file in found] == ["one", "two"]


def test_absent_weights_are_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        fetch.fetch_weights([(tmp_path / "none.pth").as_uri()], cache=tmp_path)


@pytest.mark.parametrize("folder", ["my drive", "50% #1", "a?b&c=d", "[x] 'y'", "划痕"])
def test_no_character_of_a_path_hides_a_file(folder: str, tmp_path: Path) -> None:
    file = tmp_path / folder / f"{folder}.pth"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    found = fetch.fetch_weights([file.as_uri()], cache=tmp_path / "cache")
    assert found.read_bytes() == b"weights"
