"""A sample of problems for every kernel and mode: pseudo-random and reproducible.

Triton compiles a kernel for every H, layout and activation. There are few combinations of these,
each with several values of T, B and G, which need no compilation. CUDA kernels are compiled once.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from fastrnn.testing import Problem

from .device import CUDA, FLOAT64, MODES, TRITON, Kernel

#: Values of H up to a kernel's limit, at and near the powers of two to which H is padded. For the
#: CUDA kernels: around tiles of 16 units, the depths that warps share, and rows of whole 16 bytes.
HIDDEN = {
    "triton.rows": (1, 3, 17, 33, 64, 100, 127, 128),
    "triton.single_cta": (1, 16, 31, 33, 65, 100, 127, 128),
    "triton.single_cta_gluon": (1, 31, 64, 65, 100, 128),
    "triton.grid": (5, 65, 130, 300, 512, 1000, 1024, 2048),
    "cuda.cluster": (1, 3, 8, 15, 17, 32, 50, 64, 100, 128, 129, 200, 255, 256, 392, 500, 512),
    "cuda.grid": (1, 5, 16, 65, 72, 130, 300, 512, 771, 1000, 1024, 1100, 2048),
    "cuda.step": (1, 2, 7, 16, 33, 64, 100, 129, 256, 300, 512, 1000, 1537),
}
#: Additional H for half precision: other modes do not reach them, or would take too long.
HIDDEN_IN_HALF = {
    "triton.single_cta": (200, 256),
    "triton.single_cta_gluon": (129, 200, 256),
    "triton.grid": (4096,),
    "cuda.cluster": (760, 1024),
    "cuda.grid": (4096,),
}

LAYOUTS = ("dense", "lengths", "packed")
ACTIVATIONS = ("tanh", "relu")
BATCHES = (1, 2, 7, 16, 17, 33, 64, 130)
STEPS = (1, 2, 5, 13, 31, 60)
EVERY_MODE = {**MODES, **FLOAT64}


class Case(NamedTuple):
    """A kernel, a mode and a problem."""

    kernel: Kernel
    mode: str
    problem: Problem

    def __str__(self) -> str:
        p = self.problem
        sizes = f"T{p.steps}-B{p.batch}-G{p.groups}-H{p.hidden}"
        layout = f"{p.layout}-resets" if p.resets else p.layout
        return f"{self.kernel}-{self.mode}-{sizes}-{layout}-{p.activation}-r{p.reverse_from}"


def sample(kernel: Kernel, mode: str) -> list[Case]:
    """Return two forms of every H, each with two choices of T, B and G."""
    random = Random(f"{kernel} {mode}")
    offset = list(EVERY_MODE).index(mode)
    forms = [
        # This pairs every layout with every activation, at different H for every mode.
        (hidden, LAYOUTS[(2 * i + j + offset) % 3], ACTIVATIONS[(i + j) % 2])
        for i, hidden in enumerate(_every_hidden(kernel, mode))
        for j in range(2)
    ]
    batches: list[int] = []
    cases = []
    for turn in range(2):  # the second turn needs no compilation
        for hidden, layout, activation in forms:
            if not batches:
                batches = random.sample(BATCHES, len(BATCHES))
            sizes = {"batch": batches.pop(), "hidden": hidden}
            options = {"layout": layout, "activation": activation, "seed": turn}
            cases.append(_case(kernel, mode, random, STEPS, **sizes, **options))
    return cases


def with_resets(kernel: Kernel, mode: str) -> list[Case]:
    """Return cases with resets for every layout, each at one H and two choices of the other sizes.

    Calls with resets need additional compilations, so the values of H, from the largest down, are
    distributed over the modes.
    """
    random = Random(f"{kernel} {mode} resets")
    every_hidden = _every_hidden(kernel, mode)
    cases = []
    for i, layout in enumerate(LAYOUTS):
        number = i + len(LAYOUTS) * list(EVERY_MODE).index(mode)
        sizes = {"hidden": every_hidden[-1 - number % len(every_hidden)]}
        options = {"layout": layout, "activation": ACTIVATIONS[number % 2], "resets": True}
        for batch in random.sample(BATCHES, 2):
            cases.append(_case(kernel, mode, random, STEPS[2:], batch=batch, **sizes, **options))
    return cases


def _case(
    kernel: Kernel, mode: str, random: Random, steps: Sequence[int], hidden: int, **rest: Any
) -> Case:
    """Draw the fields that are not given, with few steps and one group if H is large."""
    groups = 1 if hidden > 1000 else random.randint(1, 3)
    drawn = {
        "steps": random.choice([few for few in steps if few <= STEPS[3] or hidden <= 1000]),
        "groups": groups,
        "reverse_from": random.randint(0, groups),
    }
    problem = Problem(hidden=hidden, dtype=EVERY_MODE[mode].dtype, **drawn, **rest)
    return Case(kernel, mode, problem)


def _every_hidden(kernel: Kernel, mode: str) -> tuple[int, ...]:
    half = EVERY_MODE[mode].products == "half"
    return HIDDEN[str(kernel)] + (HIDDEN_IN_HALF.get(str(kernel), ()) if half else ())


def modes_of(kernel: Kernel) -> list[str]:
    """Return the modes that a kernel supports."""
    if kernel.name == "single_cta_gluon":
        return [name for name, mode in MODES.items() if mode.products == "half"]
    return [*MODES, *FLOAT64] if kernel[:2] == ("cuda", "step") else [*MODES]


CASES = [
    case
    for kernel in TRITON + CUDA
    for mode in modes_of(kernel)
    for case in sample(kernel, mode) + with_resets(kernel, mode)
]
