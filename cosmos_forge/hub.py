"""Files of the Hugging Face hub, byte by byte into the cache that huggingface_hub keeps.

huggingface_hub asks, authenticates and lays out the cache; only where the bytes go on the way is ours: it throws away
half a file when a process ends (from version 2 on), and half of 45 GB is worth keeping. Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from cosmos_forge import machine
from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.options import Download

CHUNK = 1 << 20  # bytes: what a broken connection may cost, and how often progress is told. It is 10 MiB by default
AGAIN = "run the same command again, it goes on where it stopped"


@dataclass(frozen=True)
class File:
    """A file to download. name: its path in the repository. etag: SHA-256 of its content if git LFS keeps it, else the
    SHA-1 that git knows it by. size: bytes."""

    download: Download
    name: str
    url: str
    etag: str
    size: int

    @property
    def blob(self) -> Path:
        """Where huggingface_hub keeps the content."""
        return machine.hub_folder(self.download) / "blobs" / self.etag

    @property
    def incomplete(self) -> Path:
        """What has come of it; a name that huggingface_hub before version 2 goes on from, too."""
        return self.blob.with_name(f"{self.etag}.incomplete")

    @property
    def here(self) -> int:
        """Bytes that need not come any more."""
        return self.size if self.blob.exists() else _size(self.incomplete)


def listing(downloads: list[Download]) -> list[File]:
    """The files that the downloads name. Raises ForgeError with what stands in the way of each."""
    disable_progress_bars()
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    files: list[File] = []
    if problems := _problems(downloads, lambda download: files.extend(_listing(download))):
        raise ForgeError(problems)
    return files


def barred(downloads: list[Download]) -> list[Problem]:
    """What stands in the way of each, a licence to accept for one. Asks the hub and downloads nothing."""
    return _problems(downloads, lambda each: HfApi().auth_check(each.repo, repo_type=each.repo_type))


def _problems(downloads: list[Download], ask: Callable[[Download], None]) -> list[Problem]:
    """What comes of asking the hub for each."""
    problems: list[Problem] = []
    for download in downloads:
        try:
            ask(download)
        except ForgeError as error:
            problems += error.problems
        except (HTTPError, OSError) as error:
            problems.append(_problem(download, error))
            if not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
                break  # nobody answers, nor will for the next
    return problems


def receive(file: File, arrived: Callable[[int], None], checked: Callable[[int], None]) -> None:
    """Downloads the rest of a file and compares it with its checksum; both callbacks get bytes of the file so far.

    Raises ForgeError; what has come stays, unless it is damaged.
    """
    try:
        file.incomplete.parent.mkdir(parents=True, exist_ok=True)
        if _size(file.incomplete) > file.size:
            file.incomplete.unlink()
        _transfer(file, arrived)
        if not _is_sound(file, checked):
            file.incomplete.unlink()
            what = f"{file.name} of {file.download.repo} came damaged: its checksum is not {file.etag}"
            raise ForgeError(what, "run the same command again, it fetches this file anew")
        os.replace(file.incomplete, file.blob)
    except (HTTPError, OSError) as error:
        raise ForgeError(_problem(file.download, error)) from error


def lay_out(download: Download) -> None:
    """Puts what has been received where components look for it, all at once. Raises ForgeError."""
    try:
        snapshot_download(
            download.repo,
            repo_type=download.repo_type,
            revision=download.revision,
            allow_patterns=list(download.files),
            cache_dir=machine.hub_cache(),
        )
    except (HTTPError, OSError) as error:
        raise ForgeError(_problem(download, error)) from error


def _listing(download: Download) -> list[File]:
    api, kind = HfApi(), download.repo_type
    info = api.repo_info(download.repo, repo_type=kind, revision=download.revision)
    names = [entry.rfilename for entry in getattr(info, "siblings", None) or []]
    wanted = {pattern: [name for name in names if fnmatch(name, pattern)] for pattern in download.files}
    if lacking := [pattern for pattern, found in wanted.items() if not found]:
        what = f"{download.repo} holds no {' and no '.join(lacking)} (revision {download.revision})"
        raise ForgeError(what, f"its files are listed on {_page(download)}/tree/{download.revision}")
    files = []
    for name in dict.fromkeys(name for found in wanted.values() for name in found):
        url = hf_hub_url(download.repo, name, repo_type=kind, revision=info.sha)
        meta = get_hf_file_metadata(url)
        if meta.etag is None or meta.size is None:
            raise ForgeError(
                f"{constants.ENDPOINT} does not say how large {name} of {download.repo} is", "unset HF_ENDPOINT"
            )
        files.append(File(download, name, url, meta.etag, meta.size))
    return files


def _transfer(file: File, arrived: Callable[[int], None]) -> None:
    """Appends what is missing. A connection that breaks is taken up again for as long as bytes come."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # the bytes of the file, which can be counted
    while True:
        before = _size(file.incomplete)
        try:
            with _Watched(file.incomplete, arrived) as out:
                http_get(file.url, out, resume_size=before, headers=headers, expected_size=file.size)
            return
        except (HTTPError, OSError):
            if not before < _size(file.incomplete) < file.size:
                raise


class _Watched(io.BufferedWriter):
    """A file that is appended to, and says how long it is."""

    def __init__(self, path: Path, arrived: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))  # type: ignore[arg-type]
        self._arrived = arrived

    def write(self, data: bytes) -> int:  # type: ignore[override]
        count = super().write(data)
        self._arrived(self.tell())
        return count


def _is_sound(file: File, checked: Callable[[int], None]) -> bool:
    """Whether size and checksum are the hub's. A mirror may have tags of another sort; then the size must do."""
    if _size(file.incomplete) != file.size:
        return False
    digests = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % file.size)}
    digest = digests.get(len(file.etag))
    if digest is None:
        return True
    done = 0
    with file.incomplete.open("rb") as content:
        while block := content.read(1 << 24):
            digest.update(block)
            done += len(block)
            checked(done)
    return digest.hexdigest() == file.etag


def _problem(download: Download, error: Exception) -> Problem:
    """What the hub, the network or the disk said, and the way out."""
    repo, page, token = download.repo, _page(download), get_token()
    licence = f" ({download.licence})" if download.licence else ""
    login = "`hf auth login` with a token of that account"
    match error:
        case GatedRepoError() if token:
            return Problem(
                f"{repo} is gated, and the account of your token has not been let in",
                fix=f"accept its licence{licence} on {page}; then run the same command again",
            )
        case GatedRepoError():
            return Problem(
                f"{repo} asks you to accept its licence first{licence}",
                fix=f"log in on {page} and accept it, then {login}",
            )
        case RepositoryNotFoundError() if token:
            return Problem(f"{repo} does not exist, or your token may not read it", fix=f"look at {page}, and {login}")
        case RepositoryNotFoundError():
            return Problem(
                f"{repo} does not exist, or is not open to everybody, and there is no token here",
                fix=f"look at {page}; if it is there, {login}",
            )
        case RevisionNotFoundError():
            return Problem(f"{repo} has no revision {download.revision}", fix=f"its revisions are listed on {page}")
        case OfflineModeIsEnabled():
            return Problem(f"{repo} is not on this machine, and HF_HUB_OFFLINE forbids fetching it", fix="unset it")
        case HfHubHTTPError(response=response) if response is not None:
            return _refusal(repo, response.status_code, page)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            folder = machine.hub_cache()
            return Problem(
                f"the disk of {folder} is full", fix=f"free some space, then {AGAIN}; HF_HOME chooses another disk"
            )
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Problem(
        f"{repo} could not be downloaded from {constants.ENDPOINT}: {said}",
        fix=f"look at the network and HF_ENDPOINT, then {AGAIN}. Without a network: copy {machine.hub_cache()} from a "
        "machine that has one, and set HF_HUB_OFFLINE=1",
    )


def _refusal(repo: str, status: int, page: str) -> Problem:
    what = f"the hub refused {repo} (HTTP {status})"
    if status == 401:
        return Problem(f"{what}: the token is not valid", fix="`hf auth login`, or unset HF_TOKEN")
    if status == 403:
        return Problem(
            f"{what}: the token may not read it", fix=f"give it the right to read gated repositories; {page}"
        )
    return Problem(what, fix=f"wait a while, then {AGAIN}")


def _page(download: Download) -> str:
    kind = "datasets/" if download.repo_type == "dataset" else ""
    return f"{constants.ENDPOINT}/{kind}{download.repo}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
