"""The Hugging Face Hub: download a model file, upload the folder of a model card. Needs the extra `hub`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnetlab import __version__
from resnetlab.errors import BadInput, printable

PREFIX = "hf:"
MODEL = "model.safetensors"  # of the model file in a repository; timm and other libraries use the same name
SOURCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
HEADERS = {"user-agent": f"resnetlab/{__version__}"}  # huggingface_hub would add Python, torch and the environment


def is_on_hub(source: str) -> bool:
    """Return True for a source such as hf:owner/name or hf:owner/name@revision."""
    return source.startswith(PREFIX)


def download(source: str) -> Path:
    """Download the model file of hf:owner/name[@revision] into huggingface_hub's cache, and return its path.

    If the Hub cannot be reached, the file in the cache is used. Only `model.safetensors` is downloaded. `revision` is a
    branch, a tag or a commit; default: main.

    Raises BadInput if the name is wrong, there is no such repository or file, or the Hub cannot be reached.
    """
    found = SOURCE.fullmatch(source)
    if found is None:
        raise BadInput(f"{printable(source)} is no model on the Hub; give hf:owner/name or hf:owner/name@revision")
    hub = import_hub()
    place = {"revision": found[2], "endpoint": endpoint()}
    with sentences(source):
        try:  # once; `hf_hub_download` would try again for 23 seconds where there is no network
            hub.get_hf_file_metadata(hub.hf_hub_url(found[1], MODEL, **place), headers=HEADERS)
            is_offline = False
        except Exception as error:
            is_offline = is_unreachable(error)
            if not is_offline:
                raise
        return Path(hub.hf_hub_download(found[1], MODEL, **place, headers=HEADERS, local_files_only=is_offline))


def upload(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload the files of a folder in one commit to the repository owner/name, and return the commit's address.

    The repository is created if there is none; with `private`, one that everybody can read is refused. The token is
    that of `hf auth login` or $HF_TOKEN. Raises BadInput if the name is wrong, or the Hub cannot be reached or refuses.
    """
    require_name(name)
    hub = import_hub()
    api = hub.HfApi(endpoint=endpoint(), headers=HEADERS)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with sentences(name):
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise BadInput(
                f"{printable(name)} exists on the Hub, and everybody can read it; make it private there, or give "
                "another name"
            )
        added = [hub.CommitOperationAdd(path.name, path) for path in files]
        commit = api.create_commit(name, added, commit_message="Upload model and card with resnetlab")
    return str(commit.commit_url)


def require_name(name: str) -> None:
    """Raise BadInput unless a name is owner/name."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise BadInput(f"{printable(name)!r} is no name of a repository on the Hub; give owner/name")


def endpoint() -> str | None:
    """Return the address of the Hub if $HF_ENDPOINT has one; huggingface_hub reads it only when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def import_hub() -> Any:
    """Import huggingface_hub, or raise BadInput with the command that installs it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise BadInput("the Hugging Face Hub needs huggingface_hub: pip install 'resnetlab[hub]'") from error
    return huggingface_hub


@contextmanager
def sentences(what: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub and of the network into BadInput with the next step."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error  # an error of the network while uploading is the cause of a RuntimeError
        while cause is not None:
            if found := sentence(cause, printable(what)):
                raise BadInput(found) from error
            cause = cause.__cause__
        raise


def sentence(error: BaseException, shown: str) -> str:
    """Return what an error of huggingface_hub or of the network means for a model; empty for any other error."""
    from huggingface_hub import errors

    hub, status = endpoint() or "huggingface.co", getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            found = f"{shown} is open only to those whom its owner admits; ask for access on its page"
        case errors.RepositoryNotFoundError():
            found = f"there is no model {shown} on {hub}, or it is private; check the name, or log in: hf auth login"
        case errors.RevisionNotFoundError():
            found = f"{shown}: there is no such revision; give a branch, a tag or a commit of it"
        case errors.LocalEntryNotFoundError():
            found = f"{hub} cannot be reached, and {shown} is not in the cache; connect to the network"
        case errors.EntryNotFoundError():
            found = f"{shown} has no {MODEL}, which `resnetlab push` uploads; it is no model of resnetlab"
        case errors.HfHubHTTPError() if status in (401, 403):
            found = f"{hub} does not let you do this with {shown}; log in with a token that may write: hf auth login"
        case errors.HfHubHTTPError():
            found = f"{hub} answered with an error for {shown}: {printable(error)[:200]}"
        case errors.HFValidationError():
            found = f"{shown}: {printable(error)[:200]}"
        case OSError() if error.filename is not None and not is_unreachable(error):
            found = f"could not download {shown}: {printable(error)[:200]}"
        case _ if is_unreachable(error):
            found = f"{hub} cannot be reached ({printable(error)[:100]}); connect to the network"
        case _:
            found = ""
    return found


def is_unreachable(error: BaseException) -> bool:
    """Return True for an error of the network, which is one of httpx or requests, by version, but no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    is_of_client = type(error).__module__.startswith(("httpx", "httpcore", "requests"))
    is_of_system = isinstance(error, ConnectionError | TimeoutError)
    return (is_of_client or is_of_system or type(error).__name__ == "OfflineModeIsEnabled") and not isinstance(
        error, HfHubHTTPError
    )
