"""Problem types: how labels are encoded, learned, predicted and scored."""

from __future__ import annotations

from ..errors import ConfigError
from .base import Explained, Metrics, Predictions, Record, Task
from .classification import Binary, Multiclass, Steps
from .labels import Label, infer_problem_type
from .multilabel import Multilabel
from .regression import Regression

__all__ = [
    "TASKS",
    "Binary",
    "Explained",
    "Label",
    "Metrics",
    "Multiclass",
    "Multilabel",
    "Predictions",
    "Record",
    "Regression",
    "Steps",
    "Task",
    "infer_problem_type",
    "task_of",
]

TASKS: dict[str, type[Task]] = {
    each.problem_type: each for each in (Binary, Multiclass, Multilabel, Regression, Steps)
}


def task_of(problem_type: str) -> type[Task]:
    """Return the class of a problem type.

    Raises:
        ConfigError: it is unknown; the message lists the known ones.
    """
    if problem_type not in TASKS:
        raise ConfigError(f"problem_type must be one of {', '.join(TASKS)}; got {problem_type!r}")
    return TASKS[problem_type]
