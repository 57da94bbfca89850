"""Modules that `import fastrnn` loads, and imports without the extension."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

from fastrnn._version import __version__
from fastrnn.ops.backends import _loader, cpu

from .utils.marks import requires_extension

NEW_MODULES = """
import json, sys
import torch
before = set(sys.modules)
import fastrnn
print(json.dumps(sorted(set(sys.modules) - before)))
"""

WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["fastrnn._C"] = None
import torch, fastrnn
from fastrnn.ops.backends import cpu

warnings.simplefilter("always")
rnn = fastrnn.FusedRNN(3, 4)
with warnings.catch_warnings(record=True) as caught:
    for _ in range(3):
        out, _ = rnn(torch.randn(5, 2, 3))
        assert not caught  # torch's own loop runs it, as fast as nn.RNN
    for _ in range(3):
        out, _ = rnn(torch.randn(5, 2, 3), lengths=torch.tensor([5, 2]))
out.sum().backward()
reported = [w for w in caught if "python -m fastrnn" in str(w.message)]
print(tuple(out.shape), len(reported), cpu.EXTENSION.unavailable_reason.startswith("not built"))
"""


def python(code):
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def new_modules():
    return json.loads(python(NEW_MODULES))


@pytest.mark.slow
def test_import_needs_nothing_but_torch(new_modules):
    packages = {name.partition(".")[0] for name in new_modules}
    assert packages - {"fastrnn", "torch"} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "module",
    ["fastrnn.info", "fastrnn.fusion", "fastrnn.testing", "torch._dynamo", "torch._inductor"],
)
def test_import_does_not_load_modules_before_use(new_modules, module):
    assert module not in new_modules


@pytest.mark.parametrize("package", ["fastrnn", "fastrnn.ops", "fastrnn.fusion"])
def test_no_function_or_class_shadows_a_module(package):
    """Otherwise `import fastrnn.name` would load a module that `fastrnn.name` does not return."""
    if package == "fastrnn.fusion":
        pytest.importorskip("typer")
    found = import_module(package)
    shadowed = [
        module.name
        for module in pkgutil.iter_modules(found.__path__)
        if not isinstance(getattr(found, module.name, found), ModuleType)
    ]
    assert shadowed == []


def test_import_of_the_class_as_if_it_were_a_module():
    for name in ("FusedGRU", "FusedLSTM", "FusedRNN"):
        assert import_module(f"fastrnn.{name}") is getattr(import_module("fastrnn"), name)


HEAVY = ("torch", "pandas", "pyarrow", "numpy", "matplotlib", "torchmetrics")
HEAVY += ("accelerate", "tokenizers", "safetensors", "huggingface_hub", "PIL", "soundfile")
SCRIPT_OF_PIP = "import sys\nfrom fastrnn.__main__ import main\nsys.exit(main())\n"


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script named like the command, as pip does."""

    def write(code):
        (tmp_path / "fastrnn").write_text(code)
        return str(tmp_path / "fastrnn")

    return write


@pytest.mark.parametrize(
    ("installed", "arguments"),
    [
        (True, "--help"),
        (True, "fit --help"),
        (False, "--help"),
        (False, "--version"),
        (False, "predict --help"),
        (False, "evaluate --help"),
        (False, "fit --epochs -1 t.csv"),
    ],
)
def test_help_imports_no_heavy_modules(script, installed, arguments):
    started = [script(SCRIPT_OF_PIP)] if installed else ["-m", "fastrnn"]
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *started, *arguments.split()],
        capture_output=True,
        text=True,
    )
    lines = [line for line in process.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "fastrnn._version" in imported
    assert not imported & {*HEAVY, "fastrnn.ops"}


OF_THE_SAME_NAME = """
import sys
import fastrnn, fastrnn.fusion
assert "torch" not in sys.modules
from fastrnn._convert import ConversionReport
for package in (fastrnn, fastrnn.fusion):
    for name in set(package.__all__) - {"__version__"}:
        found = getattr(package, name)
        assert found.__name__.rpartition(".")[2] == name, name
        assert callable(found) or name in ("export", "functional"), name
assert fastrnn.FusedRNN is sys.modules["fastrnn.layers"].FusedRNN
try:
    fastrnn.nonsense
except AttributeError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_script_of_the_same_name_can_import_everything(script):
    """fastrnn treats the script as its command and imports names lazily."""
    process = subprocess.run(
        [sys.executable, script(OF_THE_SAME_NAME)], capture_output=True, text=True
    )
    assert process.stderr == ""
    assert process.stdout == "module 'fastrnn' has no attribute 'nonsense'\n"


OPERATORS = """
import fastrnn, torch
print(hasattr(torch.ops.fastrnn, "recurrence"), hasattr(torch.ops.fastrnn, "linear"))
"""


@pytest.mark.slow
def test_import_registers_the_operators():
    """A saved program loads after `import fastrnn`, whichever module is imported first."""
    assert python(OPERATORS) == "True True\n"


@pytest.mark.slow
def test_works_without_the_extension_and_warns_once():
    assert python(WITHOUT_EXTENSION) == "(5, 2, 4) 1 True\n"


INVALID_SETTING = """
import warnings
import torch, fastrnn

rnn = fastrnn.FusedRNN(3, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            out, _ = rnn(torch.randn(5, 2, 3), lengths=torch.tensor([5, 2]))
reason = fastrnn.backends()["cpu"].reason
warning = str(caught[0].message)
print(tuple(out.shape), len(caught), "FASTRNN_CPU='mmx'" in reason, reason in warning)
"""


@pytest.mark.slow
@requires_extension
def test_an_extension_with_an_invalid_setting_is_not_used(monkeypatch):
    monkeypatch.setenv("FASTRNN_CPU", "mmx")
    monkeypatch.setenv("PYTHONWARNINGS", "error::UserWarning:torch.library")
    assert python(INVALID_SETTING) == "(5, 2, 4) 1 True True\n"


@pytest.mark.skipif(os.environ.get("FASTRNN_BUILD") != "cpp", reason="no extension was requested")
def test_a_requested_extension_is_available():
    """Without it many tests are skipped, which continuous integration must not accept."""
    assert cpu.EXTENSION.unavailable_reason is None


class Built:
    """A stand-in for the extension module."""

    @staticmethod
    def info():
        return {"version": "0.0.0"}


@pytest.fixture
def loading(monkeypatch, tmp_path):
    """Return a function that gives the unavailable_reason for a simulated import."""

    def unavailable(import_module, log=None):
        monkeypatch.setattr(_loader, "import_module", import_module)
        if log is not None:
            (tmp_path / "error.txt").write_text(log)
        error = tmp_path / "error.txt"
        return _loader.Extension("_C", error=str(error), remedy="build it").unavailable_reason

    return unavailable


def raises(error):
    def import_module(name):
        raise error

    return import_module


def test_extension_not_built(loading):
    assert loading(raises(ModuleNotFoundError("no", name="fastrnn._C"))) == "not built: build it"


def test_extension_failed_to_build(loading):
    missing = raises(ModuleNotFoundError("no", name="fastrnn._C"))
    reported = loading(missing, log="a.cpp:1: error: no\n\nthe whole log\n")
    assert reported == "not built: a.cpp:1: error: no"


def test_extension_does_not_load(loading):
    reported = loading(raises(ImportError("undefined symbol: torch_x")))
    assert reported == "built, but cannot be loaded: undefined symbol: torch_x"


def test_extension_of_another_version(loading):
    reported = loading(lambda name: Built)
    assert reported == f"built for fastrnn 0.0.0, but this is {__version__}: build it again"
