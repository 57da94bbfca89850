"""Builds `fastrnn._C`, the optional C++ extension. All else about the package is in pyproject.toml.

FASTRNN_BUILD says what to build:
    auto  what this machine can; if that fails, install pure Python and say so (the default)
    cpp   the CPU kernels; failing is fatal
    cuda  the CUDA kernels too; failing is fatal
    none  nothing
Whenever the extension is left out, `fastrnn/_build_error.txt` keeps the reason in its first line
and the compiler's own words after it; `python -m fastrnn` shows both.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODES = ("auto", "cpp", "cuda", "none")
MODE = os.environ.get("FASTRNN_BUILD") or "auto"
if MODE not in MODES:
    sys.exit(f"FASTRNN_BUILD={MODE!r} is unknown: choose one of {', '.join(MODES)}")

ROOT = Path(__file__).resolve().parent
NAME = "fastrnn._C"
SOURCES = ["csrc/module.cpp", *sorted(glob("csrc/cpu/*.cpp"))]
HEADERS = sorted(glob("csrc/**/*.h", recursive=True))
FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-ffp-contract=fast",  # fused multiply-add, but no other liberty with floating point
    "-DTORCH_TARGET_VERSION=0x020a000000000000",  # the stable ABI of torch 2.10, and later
]

BuildExtension, CppExtension = build_ext, Extension
INCLUDE = [str(ROOT / "csrc")]
MISSING = None
if MODE != "none":
    try:
        import pybind11
        from torch.utils.cpp_extension import BuildExtension, CppExtension

        INCLUDE.append(pybind11.get_include())
    except (ImportError, OSError) as error:
        MISSING = error


class BuildOrExplain(BuildExtension):
    """Leaves either the extension or the reason for its absence, never one beside the other."""

    def run(self) -> None:
        # Every folder that this command leaves the extension in.
        built = Path(self.build_lib, "fastrnn")
        packages = [built, ROOT / "fastrnn"] if self.inplace else [built]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            try:
                with copy_of_output(log):
                    self.check()
                    version = self.distribution.get_version()
                    for extension in self.extensions:
                        extension.define_macros.append(("FASTRNN_VERSION", f'"{version}"'))
                    super().run()
            except Exception as error:
                said = log.read_text(errors="replace") if log.exists() else ""
                self.explain(error, said, packages)
                # What follows in setuptools must not look for what was not built.
                self.extensions = []
            else:
                for package in packages:
                    (package / "_build_error.txt").unlink(missing_ok=True)

    def check(self) -> None:
        if MODE == "none":
            raise RuntimeError("FASTRNN_BUILD=none left the extension out")
        if MISSING is not None:
            raise RuntimeError(
                f"torch and pybind11 are needed where fastrnn is built ({MISSING}): install them "
                "first, then fastrnn with `pip install --no-build-isolation`"
            )
        if MODE == "cuda":
            raise RuntimeError(
                "FASTRNN_BUILD=cuda asks for CUDA kernels, and this version of fastrnn has none: "
                "use FASTRNN_BUILD=cpp"
            )

    def explain(self, error: Exception, said: str, packages: list[Path]) -> None:
        reason = cause(error, said)
        for package in packages:
            # One from an earlier build would be loaded, and nobody would know.
            (package / Path(self.get_ext_filename(NAME)).name).unlink(missing_ok=True)
            package.mkdir(parents=True, exist_ok=True)
            (package / "_build_error.txt").write_text(f"{reason}\n\n{said}\n{error}\n")
        if MODE in ("cpp", "cuda"):
            sys.exit(f"error: FASTRNN_BUILD={MODE}, but {NAME} could not be built: {reason}")
        print(
            f"\nfastrnn is installed without its C++ kernels and will run in pure Python: {reason}"
            "\nSee the whole story with `python -m fastrnn`.\n",
            file=sys.stderr,
        )


def cause(error: Exception, said: str) -> str:
    """The first line said that names an error, or else what was raised."""
    for line in said.splitlines():
        if re.search(r"\berror: |not found|No such file", line):
            return line.strip()
    return str(error) or type(error).__name__


@contextmanager
def copy_of_output(path: Path) -> Iterator[None]:
    """Copies to a file what this process and the compilers it starts print, as they print it."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(1), os.dup(2)
    with subprocess.Popen(["tee", path], stdin=subprocess.PIPE) as tee:
        os.dup2(tee.stdin.fileno(), 1)
        os.dup2(tee.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, saved in enumerate(terminal, start=1):
                os.dup2(saved, descriptor)
                os.close(saved)


extension = CppExtension(
    NAME,
    SOURCES,
    include_dirs=INCLUDE,
    depends=HEADERS,
    extra_compile_args=FLAGS,
)
setup(ext_modules=[extension], cmdclass={"build_ext": BuildOrExplain})
