"""Writes instances/: `python csrc/cuda/generate_instances.py`.

A file instantiates the launchers of one strategy for one dtype, so that the compiler works on them
in parallel: those of nn.RNN's cells without resets or with them, those of another cell, or those
with an input projection.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

FOLDER = Path(__file__).with_name("instances")
ELEMENTS = ("Bfloat16", "Float16", "Float32", "Tf32")
#: The element types of each strategy, and the arguments of its launchers after the parameters.
STRATEGIES = {
    "cluster": (ELEMENTS, "const Plan&, Stream"),
    "grid": (ELEMENTS, "const Plan&, void*, Stream"),
    "step": ((*ELEMENTS, "Float64"), "Stream"),
    "rows": (ELEMENTS, "Stream"),
}

#: The cells that save gates, by the names of their files.
CELLS = {"lstm": "Lstm", "gru": "Gru", "leaky": "Leaky", "leaky_pre": "LeakyPre"}

#: The cells whose cluster kernels have an input projection, and all cells.
PROJECTED = ("AnyElman", "Lstm", "Gru")
EVERY = ("AnyElman", *CELLS.values())

TEMPLATE = """\
// Written by ../generate_instances.py.
#include "../{strategy}.h"

namespace fastrnn::cuda {{

{lines}

}}  // namespace fastrnn::cuda
"""


def instances() -> dict[str, str]:
    """The text of each file, by its name."""
    texts = {}
    for strategy, (elements, arguments) in STRATEGIES.items():
        for element in elements:
            for name, *passes in kinds(strategy):
                lines = []
                for parameters in passes:
                    call = f"launch_{strategy}<{element}>(const {parameters}&, {arguments})"
                    lines.append(f"template void {call};")
                lines += [
                    f"template int64_t {strategy}_workspace_bytes(const {parameters}&);"
                    for parameters in passes
                    if needs_workspace(strategy, name)
                ]
                file = "_".join(filter(None, (strategy, name, element.lower())))
                texts[f"{file}.cu"] = TEMPLATE.format(strategy=strategy, lines="\n".join(lines))
    return texts


def kinds(strategy: str) -> Iterator[tuple[str, ...]]:
    """The name of each kind of kernels, and their parameters: most in forward and backward."""
    if strategy == "rows":
        passes = "ProjectedForwardOf", "CellBackwardOf"
        yield "", *(f"{of}<{cell}>" for of, cell in product(passes, EVERY))
        return
    yield "", "ForwardWithoutResets", "BackwardWithoutResets"
    yield "resets", "Forward", "Backward"
    for name, cell in CELLS.items():
        yield name, f"CellForwardOf<{cell}>", f"CellBackwardOf<{cell}>"
    if strategy == "cluster":
        yield (
            "projected",
            *(f"ForwardLayers<{cell}>" for cell in PROJECTED),
            *(f"BackwardLayers<{cell}>" for cell in PROJECTED),
        )


def needs_workspace(strategy: str, kind: str) -> bool:
    """Whether the launchers of a kind of kernels need a workspace."""
    return strategy == "grid" or (strategy == "step" and kind in CELLS)


def main() -> None:
    """Write the files, and remove those that are no longer among them."""
    FOLDER.mkdir(exist_ok=True)
    current = instances()
    for path in FOLDER.glob("*.cu"):
        if path.name not in current:
            path.unlink()
    for name, text in current.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
