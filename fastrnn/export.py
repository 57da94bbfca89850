"""Export of models with recurrent layers: torch.export, AOTInductor and ONNX.

**torch.export** takes a `fastrnn.FusedRNN`, FusedLSTM or FusedGRU, or any module that contains one.
The number of steps and the batch size can be dynamic, including 1::

    from torch.export import Dim, export

    program = export(rnn, (x,), dynamic_shapes={"input": {0: Dim("steps"), 1: Dim("batch")}})
    torch.export.save(program, "rnn.pt2")
    output, h_n = torch.export.load("rnn.pt2").module()(other_x)

The program calls the operator ``fastrnn::recurrence``, which our kernels implement: import fastrnn
before you load it in Python. Export programs of fastrnn 0.1 again. Pass ``lengths=`` for rows of
different lengths.

For tools that do not know the operator, `decompositions` rewrites the program with torch's own
operators::

    program = export(rnn, (x,)).run_decompositions(fastrnn.export.decompositions())

**torch.jit.trace** records torch's own loop where it computes the same. Such a trace works for
any number of steps and any batch size, and without fastrnn. OpenVINO's
``convert_model(module, example_input=x)``, TensorBoard's ``add_graph`` and torch.onnx.export with
``dynamo=False`` read it. With lengths, resets or heads the trace calls our operators: import
fastrnn before torch.jit.load.

**AOTInductor** compiles such a program into a package, with the same dynamic sizes::

    path = torch._inductor.aoti_compile_and_package(program, package_path="rnn.pt2")
    output, h_n = torch._inductor.aoti_load_package(path)(other_x)

Import fastrnn before you load the package, or loading fails ("Could not find schema"): the package
calls the operator by name, and Python defines it. To run a model without Python, use ONNX.

**ONNX** has operators RNN, LSTM and GRU, for every other runtime. `to_onnx` writes each layer as one
such node and verifies the file: onnxruntime must compute the same as the module. torch.onnx.export with
``dynamo=True`` writes the same nodes, without the verification.
"""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from ._rounding import ACTIVATION_ROUNDINGS, CONFIDENCE, UNIT_ROUNDOFF
from .ops import onnx as _onnx
from .ops.decompositions import decompositions

__all__ = ["decompositions", "to_onnx"]


def to_onnx(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int = 18,
) -> Path:
    """Export a module to an ONNX file in inference mode, and verify the file's results.

    Every layer of a FusedRNN, FusedLSTM or FusedGRU becomes one ``RNN``, ``LSTM`` or ``GRU`` node,
    for any number of steps and any batch size. ``hx`` becomes its initial state, the LSTM's two,
    and ``lengths`` its sequence_lens. The file is kept only if
    onnxruntime computes the same with it as the module does. Both run on the example and on random
    inputs of other sizes, including one step and one row if the module accepts them.

    Args:
        module: a float32 or float16 module that contains layers of fastrnn, or calls functional.rnn,
            lstm or gru. It is not changed: a copy is exported, on the CPU and in eval mode.
        example_inputs: the positional arguments, as for torch.onnx.export, or the only one. Random
            floating-point inputs are drawn between the example's minimum and maximum, random
            integer inputs from the example's values.
        path: the path of the file, which also contains the weights (up to 2 GiB, the limit of an
            ONNX file). An existing file is replaced once the new one is verified.
        kwargs: keyword arguments for the module: ``{"lengths": lengths}``.
        dynamic_shapes: the dimensions that vary between calls, as for torch.export.export and
            torch.onnx.export: ``{"input": {0: "steps", 1: "batch"}}``. The file keeps their names.
            A module that fixes one of them to the example's size raises an error. None: the first
            two dimensions of every input, except those that the module fixes.
        input_names: names of the file's inputs; by default the names of the arguments.
        output_names: names of the file's outputs.
        opset_version: version of the ONNX operator set, 18 or later.

    Returns:
        The path of the file.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: the input is packed; ``resets`` are given; a layer has a leak or a ``proj_size``; ONNX or
            onnxruntime has no such node for the dtype; opset_version is below 18; the inputs contain no tensor; or the module
            accepts no other sizes than the example's.
        RuntimeError: onnxruntime rejects the file, or its results differ from the module's.
        Exception: any error of torch.export and torch.onnx, for a module that they cannot express.

    Example:
        >>> rnn = FusedRNN(10, 20, bidirectional=True)
        >>> lengths = torch.tensor([5, 2, 4])
        >>> to_onnx(rnn, torch.randn(5, 3, 10), "rnn.onnx", kwargs={"lengths": lengths})
    """
    runtime = _required()
    if opset_version < 18:
        raise ValueError(f"opset_version must be 18 or later, got {opset_version}")
    one = isinstance(example_inputs, (Tensor, PackedSequence))
    args = (example_inputs,) if one else tuple(example_inputs)
    named = _in_order(module, kwargs or {})
    given = pytree.tree_leaves((args, named), is_leaf=lambda x: isinstance(x, PackedSequence))
    if any(isinstance(leaf, PackedSequence) for leaf in given):
        raise ValueError(
            "ONNX has no packed sequences: pass padded input, and lengths= to the layer"
        )
    if not any(isinstance(leaf, Tensor) for leaf in given):
        raise ValueError("example_inputs has no tensor: pass the arguments of a call")
    if any(isinstance(each, nn.RNNBase) and each.proj_size for each in module.modules()):
        raise ValueError(
            "ONNX's LSTM has no projection (proj_size): export the module with torch.export"
        )
    module = copy.deepcopy(module).cpu().eval()
    args, named = pytree.tree_map_only(Tensor, lambda x: x.detach().cpu(), (args, named))
    program = _trace(module, args, named, dynamic_shapes)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # torch warns of names in dynamic_shapes that share one size, and of its own deprecations.
        with warnings.catch_warnings(), torch.no_grad(), _keep_size_1_dynamic():
            warnings.simplefilter("ignore")
            written: Any = torch.onnx.export(
                program,
                input_names=input_names,
                output_names=output_names,
                opset_version=opset_version,
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                verbose=False,
            )
        _replace_constant_names(written)
        written.save(partial, external_data=False)
        others = _verify(module, program, args, named, partial, runtime)
        if others == 0 and (dynamic_shapes is None or program.range_constraints):
            raise ValueError(
                "the module accepts only inputs of the example's sizes, so the file cannot be "
                "verified: pass the dimensions that vary, and their bounds, as dynamic_shapes="
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _required() -> Any:
    """Import and return onnxruntime, and require onnx and onnxscript."""
    try:
        for name in ("onnx", "onnxscript"):
            import_module(name)
        return import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            f"export to ONNX needs {error.name}: pip install 'fastrnn[onnx]'"
        ) from error


def _in_order(module: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments in the order of forward's parameters and the file's inputs."""
    order = list(inspect.signature(module.forward).parameters)
    return dict(sorted(kwargs.items(), key=lambda x: order.index(x[0]) if x[0] in order else 99))


def _keep_size_1_dynamic() -> Any:
    """Return a context in which sizes of 1 in the example stay dynamic, as in torch.onnx.export."""
    config: Any = import_module("torch.fx.experimental._config")
    return config.patch(backed_size_oblivious=True)


def _trace(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    """Export the module to a graph in which recurrent layers are ONNX nodes."""
    if shapes is None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        shapes = pytree.tree_map(_leading, dict(bound.arguments))
    shapes = _without_names(shapes)
    with _onnx.exporting(), torch.no_grad(), _keep_size_1_dynamic():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)


def _leading(leaf: Any) -> Any:
    """Mark an input's first two dimensions as dynamic where the module permits it."""
    if not isinstance(leaf, Tensor):
        return None
    return dict.fromkeys(range(min(leaf.dim(), 2)), torch.export.Dim.AUTO)


def _without_names(shapes: Any) -> Any:
    """Replace strings, which only torch.onnx accepts as names, with Dim.DYNAMIC."""
    if isinstance(shapes, str):
        return torch.export.Dim.DYNAMIC
    if isinstance(shapes, Mapping):
        return {key: _without_names(value) for key, value in shapes.items()}
    if isinstance(shapes, (tuple, list)):
        return type(shapes)(map(_without_names, shapes))
    return shapes


def _replace_constant_names(written: Any) -> None:
    """Replace names such as "4", of dimensions that turned out constant, with numbers."""
    for value in written.model.graph.inputs:
        names = [getattr(dim, "value", dim) for dim in value.shape]
        value.shape = type(value.shape)(
            [int(n) if isinstance(n, str) and n.isdigit() else n for n in names]
        )


def _verify(
    module: nn.Module,
    program: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: Path,
    runtime: Any,
) -> int:
    """Compare the file under onnxruntime with the module, on the example and at other sizes.

    Returns:
        The number of other sizes compared.

    Raises:
        RuntimeError: onnxruntime rejects the file, fails, or differs by more than rounding.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # failures raise: do not print them as well
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RuntimeError(f"onnxruntime rejects the exported file: {error}") from error
    leaves, structure = pytree.tree_flatten((args, kwargs))
    others = 0
    for turn, sizes in enumerate(_sizes(program, leaves)):
        generator = torch.Generator().manual_seed(turn)
        inputs = [
            leaf if size is None else _random_like(leaf, size, generator)
            for leaf, size in zip(leaves, sizes, strict=True)
        ]
        given = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
        what = "inputs of " + ", ".join(str(list(leaf.shape)) for leaf in given)
        args, kwargs = pytree.tree_unflatten(inputs, structure)
        try:
            expected = _outputs(module, args, kwargs)
        except Exception:
            if turn == 0:  # the example
                raise
            continue  # the module itself rejects these sizes or values
        bounds = _bounds(module, args, kwargs, expected)
        feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)}
        try:
            answer = [torch.as_tensor(each) for each in session.run(None, feed)]
        except Exception as error:
            raise RuntimeError(f"the exported file does not run on {what}: {error}") from error
        for actual, truth, bound in zip(answer, expected, bounds, strict=True):
            worst = _distance(actual, truth)
            if not worst <= bound:
                raise RuntimeError(
                    f"on {what} the exported file and the module differ by {worst:.2g}, but "
                    f"rounding explains at most {bound:.2g}; the file is not kept"
                )
        others += turn > 1
    return others


def _sizes(
    program: torch.export.ExportedProgram, leaves: list[Any]
) -> Iterator[list[tuple[int, ...] | None]]:
    """Yield shapes for the inputs: the example's twice, then others that the file must support.

    Each item has one entry per input: the shape of random values to draw, or None for the example's
    own values. The first item is None for every input.
    """
    names = program.graph_signature.user_inputs
    nodes = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    shapes = [
        nodes[name].shape if isinstance(leaf, Tensor) else None
        for name, leaf in zip(names, leaves, strict=True)
    ]
    yield [None] * len(leaves)
    yield [tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves]
    example: dict[Any, int] = {}
    for leaf, shape in zip(leaves, shapes, strict=True):
        for size, dim in zip(leaf.shape, shape, strict=True) if shape is not None else ():
            if isinstance(dim, torch.SymInt):
                expression = dim.node.expr  # a symbol s, or with torch.export.Dim also 2·s
                for symbol in expression.free_symbols - set(example):
                    values = range(size + 1)
                    example[symbol] = next(n for n in values if expression.subs(symbol, n) == size)
    for change in (lambda k, n: 1, lambda k, n: 2 * n + 1 + k, lambda k, n: 2 * n):
        new = {}
        for k, (symbol, size) in enumerate(example.items()):
            bounds = program.range_constraints[symbol]
            # torch's range starts at 2 for sizes that may be 1, and ends at 2 for constants.
            least = bounds.lower if bounds.lower > 2 else 1
            new[symbol] = size
            if bounds.upper > 2:
                new[symbol] = int(max(least, min(change(k, size), bounds.upper)))
        if new != example:
            yield [None if shape is None else _evaluated(shape, new) for shape in shapes]


def _evaluated(shape: Sequence[int | torch.SymInt], sizes: Mapping[Any, int]) -> tuple[int, ...]:
    return tuple(
        int(d.node.expr.xreplace(sizes)) if isinstance(d, torch.SymInt) else d for d in shape
    )


def _random_like(example: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw random numbers from the example's range, or random integers from its values."""
    values = example.flatten()
    if values.is_floating_point() and bool(values.isfinite().all()):
        low, high = values.aminmax() if len(values) else (values.new_zeros(()),) * 2
        if low == high:
            low, high = low - 1, high + 1
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * uniform).to(example.dtype)
    if len(values) == 0:
        return example.new_zeros(shape)
    return values[torch.randint(len(values), shape, generator=generator)]


def _outputs(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
) -> list[Tensor]:
    with torch.no_grad():
        result = torch.func.functional_call(module, weights or {}, args, kwargs)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _bounds(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], expected: list[Tensor]
) -> list[float]:
    """Return one bound per output on the difference that rounding on both sides explains.

    A rounded sum of n products is the exact sum with each weight perturbed by about √n roundings
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). An activation adds its
    own roundings. The bound is the change of the module's outputs when all weights and inputs are
    randomly perturbed by that much.
    """
    generator = torch.Generator().manual_seed(0)

    def perturb(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in UNIT_ROUNDOFF:
            return value
        terms = value[0].numel() if value.dim() > 1 and len(value) else 1
        signs = torch.rand(value.shape, generator=generator).to(value.dtype).sub(0.5).sign()
        size = (terms**0.5 + ACTIVATION_ROUNDINGS) * UNIT_ROUNDOFF[value.dtype]
        return (value.double() * (1 + size * signs.double())).to(value.dtype)

    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = {name: perturb(value.detach()) for name, value in weights.items()}
    args, kwargs = pytree.tree_map(perturb, (args, kwargs))
    bounds = []
    for truth, perturbed in zip(expected, _outputs(module, args, kwargs, weights), strict=True):
        if truth.dtype not in UNIT_ROUNDOFF or truth.numel() == 0:
            bounds.append(0.0)
            continue
        finite = truth[truth.isfinite()]
        scale = float(finite.abs().max()) if len(finite) else 0.0
        own = ACTIVATION_ROUNDINGS * UNIT_ROUNDOFF[truth.dtype] * scale
        bounds.append(2 * CONFIDENCE * (_distance(perturbed, truth) + own))
    return bounds


def _distance(actual: Tensor, truth: Tensor) -> float:
    """Return the largest absolute difference; infinity for different shapes or dtypes."""
    if actual.shape != truth.shape or actual.dtype != truth.dtype:
        return float("inf")
    same = (actual == truth) | (actual.isnan() & truth.isnan())
    differences = (actual[~same].double() - truth[~same].double()).abs()
    return float(differences.max()) if len(differences) else 0.0
