"""Build the optional extensions `fastrnn._C` (CPU kernels) and `fastrnn._cuda`.

pyproject.toml holds everything else about the package.

FASTRNN_BUILD chooses the extensions to build:
    auto  those that this machine can build; skips one that fails, with a message (the default)
    cpp   the CPU kernels; a failure is fatal
    cuda  the CUDA kernels too, for the architectures in TORCH_CUDA_ARCH_LIST; a failure is fatal
    none  none
For a skipped extension, `fastrnn/_build_error.txt` or `_cuda_build_error.txt` holds the reason in
its first line, followed by the compiler's output. `python -m fastrnn` shows both.
"""

import os
import re
import shutil
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
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/cuda/bin"
ARCHS = os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0a;10.0+PTX"
FLAGS = [
    "-std=c++20",
    "-O3",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",  # the stable ABI of torch 2.10, and later
]
CXX_FLAGS = [
    *FLAGS,
    "-g0",
    # A short loop takes 5% longer if an unrelated change moves it across a cache line.
    "-falign-loops=32",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # the source fuses multiply-adds explicitly
]

# A compiler may link its C++ library statically. Without this flag, some of its symbols would
# resolve to torch's copy, and an exception would abort the process instead of being raised.
LINK_FLAGS = ["-Wl,--exclude-libs,ALL"]

BuildExtension, CppExtension = build_ext, Extension
CUDA_HOME = TORCH_CUDA = MISSING = None
INCLUDE = [str(ROOT / "csrc")]
if MODE != "none":
    try:
        from torch.utils import cpp_extension
        from torch.utils.cpp_extension import BuildExtension, CppExtension
        from torch.version import cuda as TORCH_CUDA

        # A torch without CUDA leaves CUDA_HOME unset.
        CUDA_HOME = cpp_extension.CUDA_HOME or os.environ.get("CUDA_HOME")
        if CUDA_HOME is None and (nvcc := shutil.which("nvcc", path=PATH)) is not None:
            CUDA_HOME = str(Path(nvcc).parents[1])
        cpp_extension.CUDA_HOME = CUDA_HOME
    except (ImportError, OSError) as error:
        MISSING = error
    try:
        import pybind11

        INCLUDE.append(pybind11.get_include())
    except ImportError:
        pass  # torch includes a copy


class BuildOrExplain(BuildExtension):
    """Build each extension, or else write the reason for its absence; never leave both."""

    def run(self) -> None:
        # The folders that receive the extensions.
        built = Path(self.build_lib, "fastrnn")
        packages = [built, ROOT / "fastrnn"] if self.inplace else [built]
        every, present, compiler = self.extensions, [], self.compiler
        for extension in every:
            with tempfile.TemporaryDirectory() as folder:
                log = Path(folder, "log")
                self.extensions, self.compiler = [extension], compiler
                try:
                    with copy_of_output(log):
                        check(extension)
                        version = self.distribution.get_version()
                        extension.define_macros.append(("FASTRNN_VERSION", f'"{version}"'))
                        super().run()
                except Exception as error:
                    said = log.read_text(errors="replace") if log.exists() else ""
                    self.explain(extension, error, said, packages)
                else:
                    present.append(extension)
                    for package in packages:
                        (package / error_file(extension)).unlink(missing_ok=True)
        self.extensions = present  # later steps must not look for an extension that was not built

    def explain(
        self, extension: Extension, error: Exception, said: str, packages: list[Path]
    ) -> None:
        reason = cause(error, said)
        for package in packages:
            # An extension of an earlier build would be loaded silently.
            (package / Path(self.get_ext_filename(extension.name)).name).unlink(missing_ok=True)
            package.mkdir(parents=True, exist_ok=True)
            (package / error_file(extension)).write_text(f"{reason}\n\n{said}\n{error}\n")
        if isinstance(error, NotAskedFor):
            return
        if MODE in ("cpp", "cuda"):
            sys.exit(
                f"error: FASTRNN_BUILD={MODE}, but {extension.name} could not be built: {reason}"
            )
        kernels, instead = (
            ("CUDA", "leave NVIDIA GPUs to Triton")
            if extension is cuda
            else ("C++", "run nn.RNN's own implementation")
        )
        print(
            f"\nfastrnn is installed without its {kernels} kernels and will {instead}: {reason}"
            "\nRun `python -m fastrnn` for the details.\n",
            file=sys.stderr,
        )


class NotAskedFor(Exception):
    """The reason why an extension is skipped on purpose, and needs no message."""


def check(extension: Extension) -> None:
    """Raise if the extension cannot or should not be built, before a compiler runs."""
    if MODE == "none" or (MODE == "cpp" and extension is cuda):
        raise NotAskedFor(f"FASTRNN_BUILD={MODE} left the extension out")
    if MISSING is not None:
        raise RuntimeError(
            f"building fastrnn needs torch ({MISSING}): install torch first, then fastrnn with "
            "`pip install --no-build-isolation`"
        )
    if extension is cuda:
        if MODE == "auto" and TORCH_CUDA is None:
            raise NotAskedFor("this torch was built without CUDA")
        if CUDA_HOME is None or not Path(CUDA_HOME, "bin", "nvcc").exists():
            raise RuntimeError("nvcc was not found: install the CUDA toolkit, or set CUDA_HOME")


def error_file(extension: Extension) -> str:
    return "_cuda_build_error.txt" if extension is cuda else "_build_error.txt"


def nvcc_flags() -> list[str]:
    flags = []
    for arch in ARCHS.replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def cuda_libraries() -> list[str]:
    """Return the folders in which nvcc finds the CUDA runtime; nvcc itself may be a wrapper."""
    if CUDA_HOME is None or not Path(CUDA_HOME, "bin", "nvcc").exists():
        return []
    command = [Path(CUDA_HOME, "bin", "nvcc"), "-dryrun", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return re.findall(r'"-L([^"]+)"', said)


def cause(error: Exception, said: str) -> str:
    """Return the first line of the output that names an error, or else the exception's text."""
    for line in said.splitlines():
        if re.search(r"\berror: |not found|No such file", line):
            return line.strip()
    return str(error) or type(error).__name__


@contextmanager
def copy_of_output(path: Path) -> Iterator[None]:
    """Copy to a file all output of this process and of the compilers that it starts."""
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


HEADERS = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inc", recursive=True))
cpp = CppExtension(
    "fastrnn._C",
    ["csrc/module.cpp", "csrc/stack.cpp", *sorted(glob("csrc/cpu/*.cpp")), "csrc/cuda/plan.cpp"],
    include_dirs=INCLUDE,
    depends=HEADERS,
    extra_compile_args=CXX_FLAGS,
    extra_link_args=LINK_FLAGS,
)
cuda = CppExtension(
    "fastrnn._cuda",
    [
        "csrc/stack.cpp",
        *sorted(glob("csrc/cuda/*.cpp") + glob("csrc/cuda/**/*.cu", recursive=True)),
    ],
    include_dirs=INCLUDE,
    depends=HEADERS,
    define_macros=[("FASTRNN_CUDA_ARCHS", f'"{ARCHS}"')],
    extra_compile_args={
        "cxx": CXX_FLAGS,
        "nvcc": [*FLAGS, *nvcc_flags(), "-Xcompiler", "-fvisibility=hidden"],
    },
    # Linked statically, so that it does not depend on the runtime that torch ships.
    library_dirs=cuda_libraries() if MODE in ("auto", "cuda") else [],
    libraries=["cudart_static", "rt", "dl", "pthread"],
    # The only function called from it is declared weak, for a torch without CUDA.
    extra_link_args=LINK_FLAGS + (["-Wl,--no-as-needed", "-ltorch_cuda"] if TORCH_CUDA else []),
)
setup(ext_modules=[cpp, cuda], cmdclass={"build_ext": BuildOrExplain})
