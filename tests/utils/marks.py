"""Marks for tests that need more than torch."""

import pytest

from fastrnn.ops.backends import cpu

requires_extension = pytest.mark.skipif(
    cpu.EXTENSION.unavailable_reason is not None, reason="the extension is not built"
)
