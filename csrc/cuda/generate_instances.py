"""Writes instances/: `python csrc/cuda/generate_instances.py`.

A file instantiates the launchers of one strategy for one dtype, without resets or with them, so
that the compiler works on them in parallel.
"""

from pathlib import Path

FOLDER = Path(__file__).with_name("instances")
ELEMENTS = ("Bfloat16", "Float16", "Float32", "Tf32")
#: The element types of each strategy, and the arguments of its launchers after the parameters.
STRATEGIES = {
    "cluster": (ELEMENTS, "const Plan&, Stream"),
    "grid": (ELEMENTS, "const Plan&, void*, Stream"),
    "step": ((*ELEMENTS, "Float64"), "Stream"),
}

TEMPLATE = """\
// Written by ../generate_instances.py.
#include "../{strategy}.h"

namespace fastrnn::cuda {{

{lines}

}}  // namespace fastrnn::cuda
"""


def instances() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        f"{strategy}_{'resets_' * resets}{element.lower()}.cu": TEMPLATE.format(
            strategy=strategy, lines="\n".join(lines(strategy, element, arguments, resets))
        )
        for strategy, (elements, arguments) in STRATEGIES.items()
        for element in elements
        for resets in (False, True)
    }


def lines(strategy: str, element: str, arguments: str, resets: bool) -> list[str]:
    """The instantiations of a file, a line each."""
    passes = [f"{name}{'' if resets else 'WithoutResets'}" for name in ("Forward", "Backward")]
    made = [
        f"template void launch_{strategy}<{element}>(const {name}&, {arguments});"
        for name in passes
    ]
    if strategy == "grid":
        made += [f"template int64_t grid_workspace_bytes(const {name}&);" for name in passes]
    return made


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
