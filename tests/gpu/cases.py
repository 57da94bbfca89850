"""A sample of problems for every kernel and mode: pseudo-random, and the same at every run.

Every H, layout and activation is a compilation, so there are few, each tried at several sizes of
the rest, which cost nothing more.
"""

from random import Random
from typing import NamedTuple

from fastrnn.testing import Problem

from .device import KERNELS, MODES

#: Up to a kernel's limit, at and beside the powers of two to which H is padded.
HIDDEN = {
    "rows": (1, 3, 17, 33, 64, 100, 127, 128),
    "single_cta": (1, 16, 31, 33, 65, 100, 127, 128),
    "single_cta_gluon": (1, 31, 64, 65, 100, 128),
    "grid": (5, 65, 130, 300, 512, 1000, 1024, 2048),
}
#: Only half precision goes so far, or is worth the time.
HIDDEN_IN_HALF = {
    "rows": (),
    "single_cta": (200, 256),
    "single_cta_gluon": (129, 200, 256),
    "grid": (4096,),
}

LAYOUTS = ("dense", "lengths", "packed")
ACTIVATIONS = ("tanh", "relu")
BATCHES = (1, 2, 7, 16, 17, 33, 64, 130)
STEPS = (1, 2, 5, 13, 31, 60)


class Case(NamedTuple):
    """One kernel, one way to compute, one problem."""

    kernel: str
    mode: str
    problem: Problem

    def __str__(self) -> str:
        p = self.problem
        sizes = f"T{p.steps}-B{p.batch}-G{p.groups}-H{p.hidden}"
        return f"{self.kernel}-{self.mode}-{sizes}-{p.layout}-{p.activation}-r{p.reverse_from}"


def sample(kernel: str, mode: str) -> list[Case]:
    """Two forms of every H, each at two sizes of T, B and G."""
    random = Random(f"{kernel} {mode}")
    half = MODES[mode].products == "half"
    every_hidden = HIDDEN[kernel] + (HIDDEN_IN_HALF[kernel] if half else ())
    offset = list(MODES).index(mode)
    forms = [
        # So counted, every layout meets every activation, at other H for every mode.
        (hidden, LAYOUTS[(2 * i + j + offset) % 3], ACTIVATIONS[(i + j) % 2])
        for i, hidden in enumerate(every_hidden)
        for j in range(2)
    ]
    batches: list[int] = []
    cases = []
    for turn in range(2):  # the second turn finds all compiled
        for hidden, layout, activation in forms:
            if not batches:
                batches = random.sample(BATCHES, len(BATCHES))
            groups = 1 if hidden > 1000 else random.randint(1, 3)
            problem = Problem(
                steps=random.choice(STEPS[:4] if hidden > 1000 else STEPS),
                batch=batches.pop(),
                groups=groups,
                hidden=hidden,
                layout=layout,
                activation=activation,
                reverse_from=random.randint(0, groups),
                dtype=MODES[mode].dtype,
                seed=turn,
            )
            cases.append(Case(kernel, mode, problem))
    return cases


CASES = [
    case
    for mode in MODES
    for kernel in KERNELS
    if kernel != "single_cta_gluon" or MODES[mode].products == "half"
    for case in sample(kernel, mode)
]
