"""Models from the Hugging Face hub. huggingface_hub fetches and keeps them; its cache folder is
shared with other programs.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hedge.common.errors import BadInput, Denied, HedgeError, Unreachable

PREFIX = "hf:"
# Of a repository of safetensors: the weights, what describes them, the tokenizer, the card.
WANTED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer*",
    "*.model",
    "merges.txt",
    "vocab.txt",
    "README.md",
]
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/(.+\.gguf))?")
_SPLIT = re.compile(r"-00001-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class HubName:
    """`hf:OWNER/REPO`, safetensors, or `hf:OWNER/REPO/FILE.gguf`."""

    repo: str
    file: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"/{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the hub's cache folder: its name, bytes, and the licence that its card names."""

    name: str
    bytes: int
    licence: str


def hub_name(where: str) -> HubName | None:
    """The name on the hub that `where` is; None for a path. BadInput for an impossible name."""
    asked = where.startswith(PREFIX)
    found = _NAME.fullmatch(where.removeprefix(PREFIX))
    if found and ".." not in where and not found[1].endswith(".gguf"):
        return HubName(found[1], found[2]) if asked or not Path(where).exists() else None
    if asked:
        raise BadInput(f"{where} is no name on the hub: hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf")
    return None


def fetch(name: HubName) -> Path:
    """The file, or the folder of safetensors, downloaded where it is not here yet. A download that
    was cut goes on.

    BadInput for what the hub does not have, Denied for what it does not give, Unreachable without a
    network.
    """
    if (here := _local(name)) is not None:
        return here
    from huggingface_hub import hf_hub_download, snapshot_download

    with _translate_errors(name):
        if name.file is None:
            for file in _files(name.repo, ".safetensors"):
                _bring(name.repo, file)
            folder = Path(snapshot_download(name.repo, allow_patterns=WANTED, max_workers=2))
            if not _is_complete(folder):
                raise BadInput(
                    f"{name} has no safetensors weights with a config.json{_choices(name.repo)}"
                )
            return folder
        for part in _parts(name.file):
            _bring(name.repo, part)
        paths = [Path(hf_hub_download(name.repo, part)) for part in _parts(name.file)]
        # Whose licence it is: not every repository has a card.
        with _optional():
            hf_hub_download(name.repo, "README.md")
        return paths[0]


def list_cached() -> list[CachedModel]:
    """The models in the cache folder, in order of their names."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found: list[CachedModel] = []
    for repo in repos:
        every = [
            (revision.snapshot_path, file) for revision in repo.revisions for file in revision.files
        ]
        files = {str(file.file_path.relative_to(snapshot)): file for snapshot, file in every}
        licence = _licence(files["README.md"].file_path) if "README.md" in files else "not known"
        for name, file in files.items():
            if name.endswith(".gguf"):
                found.append(
                    CachedModel(str(HubName(repo.repo_id, name)), file.size_on_disk, licence)
                )
        weights = [
            file.size_on_disk for name, file in files.items() if name.endswith(".safetensors")
        ]
        if weights:
            found.append(CachedModel(str(HubName(repo.repo_id, None)), sum(weights), licence))
    return sorted(found, key=lambda one: one.name)


def _parts(file: str) -> list[str]:
    """All files of a split set whose first one is `file`."""
    if not (found := _SPLIT.search(file)):
        return [file]
    return [
        f"{file[: found.start()]}-{part:05d}-of-{found[1]}.gguf"
        for part in range(1, int(found[1]) + 1)
    ]


def _local(name: HubName) -> Path | None:
    """What is here already, whole."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    if name.file is not None:
        paths = [try_to_load_from_cache(name.repo, part) for part in _parts(name.file)]
        return Path(paths[0]) if all(isinstance(path, str) for path in paths) else None  # type: ignore[arg-type]
    try:
        folder = Path(snapshot_download(name.repo, allow_patterns=WANTED, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot has a configuration and all of its weights."""
    index = folder / "model.safetensors.index.json"
    try:
        names = (
            set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            if index.exists()
            else {"model.safetensors"}
        )
    except (ValueError, KeyError, AttributeError):
        return False
    return all((folder / name).is_file() for name in ("config.json", *names))


def _licence(card: Path) -> str:
    from huggingface_hub import ModelCard

    try:
        found: Any = ModelCard.load(card).data.license
    except (ValueError, OSError):
        found = None
    return str(found or "not known")


def _bring(repo: str, file: str) -> None:
    """Puts a large file among the blobs of the cache folder, from where the last try ended.

    huggingface_hub itself throws away what it has when a download fails.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo, file)
    known = get_hf_file_metadata(url)
    if not known.etag or not known.size or known.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    folder = (
        Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    )
    blob = folder / known.etag
    part = folder / f"{known.etag}.part"
    if blob.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # A token is for the hub, not for where it sends us on.
    same = urlsplit(known.location).netloc == urlsplit(url).netloc
    headers = build_hf_headers() if same else build_hf_headers(token=False)
    with part.open("ab") as target:
        start = target.tell() if target.tell() <= known.size else target.truncate(0)
        http_get(
            known.location,
            target,
            resume_size=start,
            headers=headers,
            expected_size=known.size,
            displayed_filename=file,
        )
    if re.fullmatch("[0-9a-f]{64}", known.etag) and _sha256(part) != known.etag:
        part.unlink()
        raise HedgeError(f"{repo}/{file} did not come whole: its SHA-256 is another")
    part.replace(blob)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(repo: str, ending: str) -> list[str]:
    from huggingface_hub import HfApi

    # One request: list_repo_files tries for 23 seconds where there is no network.
    found = HfApi().model_info(repo, timeout=10).siblings or []
    return [one.rfilename for one in found if one.rfilename.endswith(ending)]


def _choices(repo: str) -> str:
    """The GGUF files of a repository, to choose from."""
    with _optional():
        if files := _files(repo, ".gguf"):
            return f"; it has {', '.join(files[:8])}{' and more' if len(files) > 8 else ''}"
    return ""


@contextmanager
def _optional() -> Iterator[None]:
    """What goes wrong in it does not matter."""
    with suppress(Exception):
        yield


@contextmanager
def _translate_errors(name: HubName) -> Iterator[None]:
    """Turns what the hub or the disk says into one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import logging

    quieten: Any = logging.set_verbosity_error
    quieten()
    try:
        yield
    except GatedRepoError:
        raise Denied(
            f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name.repo}, then `hf auth "
            "login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise BadInput(
            f"the hub has no repository {name.repo}, or shows it to others only (HF_TOKEN)"
        ) from None
    except (LocalEntryNotFoundError, ConnectionError):
        raise _unreachable() from None
    except EntryNotFoundError:
        raise BadInput(f"{name.repo} has no file {name.file}{_choices(name.repo)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        if status in (401, 403):
            raise Denied(
                f"the hub does not give {name} to you ({status}): `hf auth login` or set HF_TOKEN"
            ) from None
        raise HedgeError(f"the hub answers {status} for {name}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = os.statvfs(
                constants.HF_HUB_CACHE if Path(constants.HF_HUB_CACHE).exists() else "/"
            )
            raise HedgeError(
                f"the disk is full: {free.f_bavail * free.f_frsize / 1e6:.0f} MB are free at "
                f"{constants.HF_HUB_CACHE}; "
                f"what of {name} has come stays, and the next try goes on from there"
            ) from None
        raise HedgeError(f"{name} did not come whole: {str(error).splitlines()[0]}") from None
    except Exception as error:
        # Whatever the HTTP library of the hub's client raises when the network is gone.
        if "httpx" in type(error).__module__:
            raise _unreachable() from None
        raise


def _unreachable() -> Unreachable:
    cached = ", ".join(model.name for model in list_cached()) or "nothing"
    return Unreachable(f"cannot reach the hub; already here: {cached}")
