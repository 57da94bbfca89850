"""Fixtures and hooks of the GPU tests."""

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .device import DEVICE, INTERPRETED, unavailable_reason_of

# cuBLAS is deterministic only with this setting, and torch's deterministic mode requires it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

FOLDER = Path(__file__).parent

#: Timeout of a test in seconds. It ends the process, because a kernel cannot be cancelled.
TIMEOUT = 100


def skip_reason() -> str | None:
    """Return why these tests cannot run here, or None."""
    if INTERPRETED:
        if "TRITON_INTERPRET" not in os.environ:
            return "FASTRNN_TEST_DEVICE=cpu also needs TRITON_INTERPRET=1"
    elif not torch.cuda.is_available():
        return "needs a CUDA GPU"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = skip_reason()
    for item in items:
        if item.path.parent != FOLDER:
            continue
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        # The summary groups tests by mode and by the kernel, or else backend, that they test.
        arguments = getattr(getattr(item, "callspec", None), "params", {})
        case = arguments.get("case")
        for name in ("kernel", "mode"):
            value = getattr(case, name, arguments.get(name))
            value = value or getattr(item.module, name.upper(), None)
            if value is None and name == "kernel":
                value = arguments.get("backend") or getattr(item.module, "BACKEND", None)
            if value is not None:
                item.user_properties.append((name, str(value)))
        about = dict(item.user_properties)
        if reason is None and "kernel" in about:
            why = unavailable_reason_of(about["kernel"], about.get("mode", "float16"))
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill results of torch.empty with NaN, which exposes elements that are never written."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def hang_timeout() -> Iterator[None]:
    """End the process if a test hangs; the next process resumes with the remaining tests."""
    if INTERPRETED:
        yield
        return
    faulthandler.dump_traceback_later(TIMEOUT, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
