"""Find a model in a folder, or download it from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from . import checkpoint
from .data.preprocessing import FILE_NAMES
from .errors import ConfigError

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)  # OWNER/NAME
_SECONDS = 10.0  # timeout of the first request to the Hub
_UNREACHABLE = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled)


def find(name: str | Path, **how: Any) -> Path:
    """Return the folder of a model.

    Args:
        name: a folder, or OWNER/NAME on the Hub.
        how: the Hub's options: revision, token, cache_dir, force_download, local_files_only.

    Raises:
        ConfigError: there is no such model.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name}: no such folder; give the folder of a model or of a run, or OWNER/NAME for a "
            "model on the Hub"
        )
    return _downloaded(name, **how)


def _downloaded(name: str, **how: Any) -> Path:
    """Download a model from the Hub and return its folder.

    Raises:
        ConfigError: the model does not exist or cannot be downloaded. The message says what to do.
    """
    why = None
    if not how.get("local_files_only"):
        asked = {each: how[each] for each in ("revision", "token") if each in how}
        try:
            HfApi().model_info(name, timeout=_SECONDS, **asked)
        except Exception as error:  # the type depends on the HTTP library of the Hub's client
            # A download would retry many times, so fall back to the local cache.
            why, how = error, {**how, "local_files_only": True}
    try:
        # Download only these files from an untrusted repository.
        return Path(snapshot_download(name, allow_patterns=[*checkpoint.FILES, FILE_NAMES], **how))
    except _UNREACHABLE as error:
        reason = str(why or error).strip().partition("\n")[0]
        raise ConfigError(
            f"{name}: no such folder, and the model cannot be loaded from the Hub ({reason}); "
            "check the name and the network, or give the folder of a model or of a run"
        ) from error
