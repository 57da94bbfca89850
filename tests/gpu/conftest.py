"""What every test on a GPU shares."""

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .device import DEVICE, INTERPRETED, unable

# cuBLAS is deterministic with this alone, and torch, asked to be, insists on it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

#: Seconds after which a test hangs: its process is ended, for a kernel cannot be.
PATIENCE = 100


def missing() -> str | None:
    """Why these tests cannot run here."""
    if INTERPRETED:
        if "TRITON_INTERPRET" not in os.environ:
            return "FASTRNN_TEST_DEVICE=cpu needs TRITON_INTERPRET=1 beside it"
    elif not torch.cuda.is_available():
        return "needs a CUDA GPU"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        # For a summary by kernel, or else by backend, and mode: what a test is about, not where it
        # stands.
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
            why = unable(about["kernel"], about.get("mode", "float16"))
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that a value nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """End a process whose test hangs; the next one goes on with the tests that are left."""
    if INTERPRETED:
        yield
        return
    faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
