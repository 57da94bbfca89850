"""Encoders of users' own classes, named package.module:Class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ..config.pretrained import is_pretrained
from ..errors import ConfigError
from .encoders import ENCODERS, check_name, register_encoder


def import_encoders(encoders: Mapping[str, str]) -> None:
    """Import and register the encoders package.module:Class that a user names.

    A class is called with the ModelConfig, as a factory of `register_encoder`. Never call this with
    the names in a saved model: importing a module executes its code.

    Args:
        encoders: input or modality -> name of its encoder. Others than classes are left out.

    Raises:
        ConfigError: there is no such module or class.
    """
    for key, name in encoders.items():
        module, _, attribute = name.partition(":")
        if not attribute or is_pretrained(name) or name in ENCODERS:
            continue
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"encoders: {key}={name} cannot be imported ({error}); give package.module:Class, "
                "with the package in PYTHONPATH"
            ) from None
        register_encoder(name, found)


def check_imported(encoders: Mapping[str, str]) -> None:
    """Check that the classes that a saved model names are imported already.

    Raises:
        ConfigError: one is not.
    """
    for key, name in encoders.items():
        if ":" in name and not is_pretrained(name):
            check_name(name, key)


def declared_preprocessing(name: str) -> Any:
    """Return what a custom encoder declares about its files; None if it declares nothing."""
    return getattr(ENCODERS.get(name), "preprocessing", None)
