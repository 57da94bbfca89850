"""The parameters of FusionModel, with scikit-learn's get_params and set_params."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from . import options
from .renamed import renamed
from .schema import FitConfig

Model = TypeVar("Model", bound="Parameters")

# Parameters in addition to the options of a fit, and their defaults.
_DEFAULTS: dict[str, Any] = {
    "preset": "default",
    "problem_type": None,
    "baselines": False,
    "folds": 0,
    "init_from": None,
    "report_to": (),
    "output_dir": None,
    "device": "auto",
}


class Parameters:
    """Base class of FusionModel that keeps the parameters of the constructor."""

    def __init__(self, **parameters: Any) -> None:
        self._parameters: dict[str, Any] = {}
        self.set_params(**parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters of the constructor, with their values."""
        chosen = options.preset(self._parameters.get("preset", "default"))
        defaults = {name: each.default for name, each in options.OPTIONS.items()}
        return defaults | _DEFAULTS | chosen | self._parameters

    def set_params(self: Model, **parameters: Any) -> Model:
        """Set parameters of the constructor for the next fit; return the model.

        Raises:
            ConfigError: an unknown parameter (the message suggests the closest), or an invalid
                value. The parameters then stay as they were.

        Warns:
            RenamedOptionWarning: a parameter has its old name.
        """
        known = {*options.OPTIONS, *_DEFAULTS}
        parameters = renamed(parameters, known)
        options.check_names(parameters, known)
        parameters = self._parameters | parameters
        _fit_config(parameters)  # checks the values
        self._parameters = parameters
        return self

    def parameter(self, name: str) -> Any:
        """Return the value of a parameter that is no option of a fit."""
        return self._parameters.get(name, _DEFAULTS[name])

    def fit_config(self) -> FitConfig:
        """Return the options of a fit."""
        return _fit_config(self._parameters)


def _fit_config(given: Mapping[str, Any]) -> FitConfig:
    values = options.preset(given.get("preset", "default"))
    values |= {name: value for name, value in given.items() if name in options.OPTIONS}
    init_from, report_to = given.get("init_from"), given.get("report_to") or ()
    return options.fit_config(
        values,
        baselines=given.get("baselines", False),
        init_from=None if init_from is None else str(init_from),
        report_to=(report_to,) if isinstance(report_to, str) else tuple(report_to),
        folds=given.get("folds", 0),
    )
