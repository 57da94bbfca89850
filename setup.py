"""Builds the optional extensions, `fastrnn._C` of C++ and `fastrnn._cuda`. All else about the
package is in pyproject.toml.

FASTRNN_BUILD says what to build:
    auto  what this machine can; what fails is left out, and said so (the default)
    cpp   the CPU kernels; failing is fatal
    cuda  the CUDA kernels too, for the architectures in TORCH_CUDA_ARCH_LIST; failing is fatal
    none  nothing
Whenever an extension is left out, `fastrnn/_build_error.txt` or `_cuda_build_error.txt` keeps
the reason in its first line and the compiler's own words after it; `python -m fastrnn` shows both.
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
    # A loop of few vectors takes 5 % longer where an unrelated change moves it across a line.
    "-falign-loops=32",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # multiply-adds are fused where the source says so
]

# A compiler may link its C++ library statically. Were that copy to meet the one torch uses, half of
# it would be taken from there, and an error would end the process instead of being raised.
LINK_FLAGS = ["-Wl,--exclude-libs,ALL"]

BuildExtension, CppExtension = build_ext, Extension
CUDA_HOME = TORCH_CUDA = MISSING = None
INCLUDE = [str(ROOT / "csrc")]
if MODE != "none":
    try:
        from torch.utils import cpp_extension
        from torch.utils.cpp_extension import BuildExtension, CppExtension
        from torch.version import cuda as TORCH_CUDA

        # A torch without CUDA does not look for it.
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
        pass  # torch brings a copy along


class BuildOrExplain(BuildExtension):
    """Leaves either an extension or the reason for its absence, never one beside the other."""

    def run(self) -> None:
        # Every folder that this command leaves the extensions in.
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
        self.extensions = present  # what follows must not look for what was not built

    def explain(
        self, extension: Extension, error: Exception, said: str, packages: list[Path]
    ) -> None:
        reason = cause(error, said)
        for package in packages:
            # One from an earlier build would be loaded, and nobody would know.
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
            "\nSee the whole story with `python -m fastrnn`.\n",
            file=sys.stderr,
        )


class NotAskedFor(Exception):
    """Why an extension is left out that nobody will miss."""


def check(extension: Extension) -> None:
    """Raise what stands against building it, before any compiler has spoken."""
    if MODE == "none" or (MODE == "cpp" and extension is cuda):
        raise NotAskedFor(f"FASTRNN_BUILD={MODE} left the extension out")
    if MISSING is not None:
        raise RuntimeError(
            f"torch is needed where fastrnn is built ({MISSING}): install it first, then fastrnn "
            "with `pip install --no-build-isolation`"
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
    """Where nvcc finds the CUDA runtime: the folder it lies in may hold but a wrapper of it."""
    if CUDA_HOME is None or not Path(CUDA_HOME, "bin", "nvcc").exists():
        return []
    command = [Path(CUDA_HOME, "bin", "nvcc"), "-dryrun", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return re.findall(r'"-L([^"]+)"', said)


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


HEADERS = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inc", recursive=True))
cpp = CppExtension(
    "fastrnn._C",
    ["csrc/module.cpp", *sorted(glob("csrc/cpu/*.cpp")), "csrc/cuda/plan.cpp"],
    include_dirs=INCLUDE,
    depends=HEADERS,
    extra_compile_args=CXX_FLAGS,
    extra_link_args=LINK_FLAGS,
)
cuda = CppExtension(
    "fastrnn._cuda",
    sorted(glob("csrc/cuda/*.cpp") + glob("csrc/cuda/**/*.cu", recursive=True)),
    include_dirs=INCLUDE,
    depends=HEADERS,
    define_macros=[("FASTRNN_CUDA_ARCHS", f'"{ARCHS}"')],
    extra_compile_args={
        "cxx": CXX_FLAGS,
        "nvcc": [*FLAGS, *nvcc_flags(), "-Xcompiler", "-fvisibility=hidden"],
    },
    # The static runtime: which shared one torch brought along does not matter.
    library_dirs=cuda_libraries() if MODE in ("auto", "cuda") else [],
    libraries=["cudart_static", "rt", "dl", "pthread"],
    # The one function of it that is called is declared weak, for a torch without CUDA.
    extra_link_args=LINK_FLAGS + (["-Wl,--no-as-needed", "-ltorch_cuda"] if TORCH_CUDA else []),
)
setup(ext_modules=[cpp, cuda], cmdclass={"build_ext": BuildOrExplain})
