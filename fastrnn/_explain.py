"""What the CUDA kernels would do with a call, and why: on this GPU, or on one that is not here."""

from __future__ import annotations

from typing import Any

import torch

from .ops import cpp, cuda, triton
from .ops.triton.table import RECORDS, Sizes, choose, is_fastest, mode_of

#: GPUs that can be named where there is none: compute capability, multiprocessors, bytes of shared
#: memory a block may ask for, and how many clusters of 1, 2, 4, 8 and 16 blocks run at once. The
#: last are assumed, but for the H200's, which a driver said; of a GPU that is there it is asked.
DEVICES = {
    "A100": ((8, 0), 108, 166912, (0, 0, 0, 0, 0)),
    "H100": ((9, 0), 132, 232448, (132, 66, 32, 15, 7)),
    "H200": ((9, 0), 132, 232448, (132, 66, 30, 15, 7)),
    "B200": ((10, 0), 148, 232448, (148, 74, 36, 16, 8)),
}


def explain(
    steps: int,
    batch: int,
    hidden: int,
    *,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> None:
    """Print which CUDA kernel serves a call, how the work is cut, and why not another way.

    And whether ``fastrnn.backend("auto")`` takes a kernel of Triton instead, which is faster there.

    Args:
        steps: T, at least 0.
        batch: B, at least 1.
        hidden: H, at least 1.
        groups: G, 2 for a layer of two directions.
        dtype: of the tensors. float32 is computed as
            ``torch.backends.cudnn.rnn.fp32_precision`` says.
        device: a CUDA device, or the name of a GPU: A100, H100, H200 or B200. None: the current
            device, or an H100 where there is none.

    Raises:
        ValueError: a size is too small, no kernel takes the dtype, or no GPU has that name.
        RuntimeError: the extension, which makes the plan, is not built.
    """
    if steps < 0 or min(batch, hidden, groups) < 1:
        raise ValueError("steps must be at least 0, and batch, hidden and groups at least 1")
    if dtype not in cuda.DTYPES:
        raise ValueError(f"the CUDA kernels serve float32, float64 and half precision, not {dtype}")
    reason = cpp.unusable()
    if reason is not None:
        raise RuntimeError(f"the plan is made by the C++ extension, which is unusable: {reason}")
    name, properties = _device(device)
    mode = "float64" if dtype == torch.float64 else mode_of(dtype)
    print(f"T={steps} B={batch} G={groups} H={hidden}, {_kind(dtype, mode)}, on {name}")
    for direction in ("forward", "backward"):
        backward = direction == "backward"
        sizes = steps, batch, groups, hidden
        chosen, options = cpp.EXTENSION.module.plans(properties, mode, backward, *sizes)
        print(f"\n{direction}: {chosen}")
        for strategy, plan in options.items():
            marker = ">" if strategy == chosen else " "
            print(f"{marker} {strategy:<8}", plan if isinstance(plan, str) else _row(plan, steps))
    faster = _faster(device, name, dtype, steps, (batch, groups, hidden))
    if faster is not None:
        print(f'\nfastrnn.backend("auto") takes the Triton kernel {faster}, where there is Triton.')
    print(
        "\nCycles are of a step, by the model that ranks the plans; they are not measured. The "
        f"kernels are\nproven on hardware: {cuda.proven()}."
    )


def _device(device: str | torch.device | None) -> tuple[str, Any]:
    """A name, and the device as the plan sees it."""
    if device is None and cuda.unusable() is not None:
        device = "H100"
    if isinstance(device, str) and device.upper() in DEVICES:
        name = device.upper()
        return f"an {name}, as assumed", cpp.EXTENSION.module.Device(*DEVICES[name])
    try:
        device = torch.device("cuda" if device is None else device)
    except RuntimeError:
        device = torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"device must be a CUDA device or one of {', '.join(DEVICES)}")
    if cuda.unusable() is not None:
        raise RuntimeError(f"the CUDA kernels are unusable: {cuda.unusable()}")
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.get_device_name(index), cuda.device(index)


def _faster(
    device: str | torch.device | None,
    name: str,
    dtype: torch.dtype,
    steps: int,
    shape: tuple[int, int, int],
) -> str | None:
    """The kernel of Triton that `auto` takes for such a state, [B, G, H]; None where none."""
    assumed = DEVICES.get(name.removeprefix("an ").removesuffix(", as assumed"))
    if assumed is None:
        state = torch.empty(shape, dtype=dtype, device="cuda" if device is None else device)
        if triton.unusable() is not None or triton.outrun(state, steps) is not None:
            return None
        return choose(triton.sizes_of(state))
    if dtype not in triton.DTYPES:
        return None
    capability, processors, shared, _ = assumed
    kernel = choose(
        Sizes(*shape, mode_of(dtype), capability, shared, processors, wgmma=capability == (9, 0))
    )
    return kernel if is_fastest(kernel, steps) and (kernel, capability) in RECORDS else None


def _kind(dtype: torch.dtype, mode: str) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if mode in ("half", name) else f"{name} ({mode} products)"


def _row(plan: Any, steps: int) -> str:
    return f"{plan.cycles / max(steps, 1):>7.0f} cycles  {plan}"
