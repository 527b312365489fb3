"""fetch: downloads what the recipe's components need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cosmos_forge import events
from cosmos_forge.errors import ForgeError
from cosmos_forge.run import Run

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def run(plan: Plan, run: Run, emit: Callable[[events.Event], None]) -> None:
    """Leaves the files in the Hugging Face cache, where components find them again. Raises ForgeError."""
    downloads = plan.downloads()
    total = sum(download.gigabytes for download in downloads)
    if not downloads:
        emit(events.Note("nothing to download"))
    done = 0.0
    for download in downloads:
        emit(events.Progress(download.repo, done, total, "GB"))
        _snapshot(download)
        done += download.gigabytes
        emit(events.Progress(download.repo, done, total, "GB"))


def _snapshot(download: object) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    from cosmos_forge.options import Download

    assert isinstance(download, Download)
    try:
        snapshot_download(
            download.repo,
            repo_type=download.repo_type,
            revision=download.revision,
            allow_patterns=list(download.files),
        )
    except GatedRepoError:
        raise ForgeError(
            f"{download.repo} asks you to accept its terms first",
            f"accept them on the page of {download.repo}, then `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise ForgeError(
            f"{download.repo} does not exist or is not yours to read", "check the name; `hf auth login` with a token"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ForgeError(
            f"{download.repo} could not be downloaded: {error}".splitlines()[0],
            "run the same command again, it goes on where it stopped; HF_HUB_OFFLINE=1 uses what is on this machine",
        ) from None
