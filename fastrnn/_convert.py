"""Convert torch's recurrent layers to fastrnn's and back, even in the middle of training.

Conversion changes a module's class in place. The two classes have the same parameters and
attributes, so whatever refers to the module, its parameters or its hooks keeps working.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from .layers.cells import FusedGRUCell, FusedLSTMCell, FusedRNNCell
from .layers.gru import FusedGRU
from .layers.lstm import FusedLSTM
from .layers.parameters import FusedRNNParameters
from .layers.readout import ReadoutRNN
from .layers.rnn import FusedRNN

__all__ = ["ConversionReport", "conversion_report", "convert", "revert"]

Model = TypeVar("Model", bound=nn.Module)
#: A model's modules by qualified name, "" for the model itself. A shared module has several names.
Modules = dict[str, nn.Module]
Classes = dict[type[nn.Module], type[nn.Module]]

_TO_FUSED: Classes = {
    nn.RNN: FusedRNN,
    nn.LSTM: FusedLSTM,
    nn.GRU: FusedGRU,
    nn.RNNCell: FusedRNNCell,
    nn.LSTMCell: FusedLSTMCell,
    nn.GRUCell: FusedGRUCell,
}
_TO_TORCH: Classes = {ours: theirs for theirs, ours in _TO_FUSED.items()}
_OF_TORCH, _OURS = tuple(_TO_FUSED), tuple(_TO_TORCH)
#: The names of the layers, which compiled and quantized copies of them keep.
_NAMES = {theirs.__name__ for theirs in _TO_FUSED}

_log = logging.getLogger("fastrnn")


@dataclass(frozen=True, repr=False)
class ConversionReport:
    """The recurrent layers of a model, and which of them `convert` and `revert` change.

    The keys of every dict are qualified names of modules; "" is the model itself. The printed
    report has one line per layer.
    """

    model: str  #: the name of the model's class
    fused: dict[str, str]  #: layers of fastrnn -> their repr
    convertible: dict[str, str]  #: layers that `convert` changes -> their repr
    left: dict[str, str]  #: layers that `convert` leaves unchanged -> the reason
    irreversible: dict[str, str]  #: layers of `fused` that `revert` leaves unchanged -> the reason

    def __repr__(self) -> str:
        lines = {name: f"fused: {layer}" for name, layer in self.fused.items()}
        for name, reason in self.irreversible.items():
            lines[name] += f"; revert leaves it: {reason}"
        lines |= {name: f"convertible: {layer}" for name, layer in self.convertible.items()}
        lines |= {name: f"left: {reason}" for name, reason in self.left.items()}
        if not lines:
            return f"No recurrent layers in this {self.model}."
        width = max(len(_display_name(name)) for name in lines)
        return "\n".join(
            (
                f"{self.model}: {len(self.fused)} fused, {len(self.convertible)} convertible, "
                f"{len(self.left)} left",
                *(f"  {_display_name(name):<{width}}  {line}" for name, line in lines.items()),
            )
        )


def convert(model: Model) -> Model:
    """Convert every recurrent layer and cell of torch.nn in a model to fastrnn's.

    nn.RNN becomes `FusedRNN`, nn.LSTM `FusedLSTM`, nn.GRU `FusedGRU`, nn.RNNCell `FusedRNNCell`,
    and so on. The conversion is in place, at any depth, and includes the model itself. Every module
    remains the same object and keeps its parameters, buffers, hooks and attributes. An optimizer
    and its state, DistributedDataParallel around the model and tied weights therefore keep working,
    so you can convert in the middle of training. Results change by rounding only, because the
    kernels sum in another order. Dropout draws the masks of torch's layers on the CPU; cuDNN draws
    different ones. Each class loads the other's state_dict.

    - Parametrized and pruned layers are converted; ``remove_parametrizations`` gives a plain layer
      of fastrnn.
    - torch.compile recompiles a compiled model at its next call.
    - These layers are left unchanged: an nn.LSTM with ``proj_size``, which only its own
      implementation computes; a subclass, which may override forward; a layer whose forward was
      replaced, or that is wrapped by fully_shard, compiled by TorchScript, or quantized.
    - Layers in a plain list are not submodules, so neither torch nor this function finds them.
    - A FusedRNN is an nn.RNNBase but not an nn.RNN: ``isinstance(m, nn.RNN)`` is False, and tools
      with a table of exact classes do not find it. The same holds for the LSTM and the GRU.
      docs/neighbours.md has recipes.

    The logger "fastrnn" receives one INFO record that names the converted layers, and one WARNING
    per layer left unchanged, with the reason. `conversion_report` returns both at any time.

    Args:
        model: any module. Layers of fastrnn are left unchanged.

    Returns:
        The same model object.

    Raises:
        ValueError: model is not a module.

    Example:
        >>> model = fastrnn.convert(nn.Sequential(nn.RNN(64, 128, num_layers=2)))
        >>> fastrnn.conversion_report(model)
        Sequential: 1 fused, 0 convertible, 0 left
          0  fused: FusedRNN(64, 128, num_layers=2)
    """
    found, left = _find_convertible(_named_modules(model, "convert"))
    _change(found, left, _TO_FUSED, "convert")
    return model


def revert(model: Model) -> Model:
    """Convert every recurrent layer and cell of fastrnn in a model to torch.nn's.

    This is the inverse of `convert`, with the same guarantees. It also converts layers that were
    created as fastrnn's. Use it to save a whole module for an environment without fastrnn, or to
    pass it to a tool that supports only torch's layers. Change the code that calls a layer with
    arguments that torch's layers lack, such as ``lengths``.

    These layers are left unchanged: a layer with several heads, learned initial states or a leak,
    which torch's layers lack; the layer of a `ReadoutRNN`; a subclass; a layer whose forward was
    replaced. The logger "fastrnn" receives the same records as from `convert`.

    Args:
        model: any module.

    Returns:
        The same model object.

    Raises:
        ValueError: model is not a module.
    """
    found, left = _find_revertible(_named_modules(model, "revert"))
    _change(found, left, _TO_TORCH, "revert")
    return model


def conversion_report(model: nn.Module) -> ConversionReport:
    """Report which layers of a model are fused, which `convert` would change, and why not others.

    The model is not changed. Call it before or after `convert`.

    Args:
        model: any module.

    Returns:
        A `ConversionReport`, which prints as a table.

    Raises:
        ValueError: model is not a module.

    Example:
        >>> fastrnn.conversion_report(nn.ModuleDict({"gru": nn.GRU(3, 4), "lstm": FusedLSTM(3, 4)}))
        ModuleDict: 1 fused, 1 convertible, 0 left
          lstm  fused: FusedLSTM(3, 4)
          gru   convertible: GRU(3, 4)
    """
    modules = _named_modules(model, "conversion_report")
    fused: Modules = {name: module for name, module in modules.items() if isinstance(module, _OURS)}
    convertible, left = _find_convertible(modules)
    _, irreversible = _find_revertible(modules)
    return ConversionReport(
        type(model).__name__, _reprs(fused), _reprs(convertible), left, irreversible
    )


def _named_modules(model: nn.Module, function: str) -> Modules:
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(
            f"{function} takes a torch.nn.Module, but got {what}: pass the model itself. "
            "A state_dict needs no conversion, as it loads into torch's layers and fastrnn's"
        )
    return dict(model.named_modules(remove_duplicate=False))


def _find_convertible(modules: Modules) -> tuple[Modules, dict[str, str]]:
    """Return the layers that `convert` changes, and the reason for each that it skips."""
    return _partition(modules, _TO_FUSED, _unconvertible_reason)


def _find_revertible(modules: Modules) -> tuple[Modules, dict[str, str]]:
    """Return the layers that `revert` changes, and the reason for each that it skips."""
    readouts = [module for module in modules.values() if isinstance(module, ReadoutRNN)]
    of_readouts = {module for readout in readouts for module in readout.rnn.modules()}

    def reason(module: nn.Module) -> str | None:
        if module in of_readouts and isinstance(module, FusedRNNParameters):
            return f"ReadoutRNN calls it with lengths, which {_torch_name(module)} does not take"
        return _irreversible_reason(module)

    return _partition(modules, _TO_TORCH, reason)


def _partition(
    modules: Modules, classes: Classes, reason_against: Callable[[nn.Module], str | None]
) -> tuple[Modules, dict[str, str]]:
    found: Modules = {}
    left: dict[str, str] = {}
    for name, module in modules.items():
        reason = reason_against(module)
        if reason is not None:
            left[name] = reason
        elif parametrize.type_before_parametrizations(module) in classes:
            found[name] = module
    return found, left


def _change(found: Modules, left: dict[str, str], classes: Classes, function: str) -> None:
    for module in set(found.values()):
        _change_class(module, classes[parametrize.type_before_parametrizations(module)])
    changes = [f"{_display_name(name)} is now {layer._get_name()}" for name, layer in found.items()]
    _log.info("fastrnn.%s: %s", function, ", ".join(changes) or "nothing to change")
    for name, reason in left.items():
        _log.warning("fastrnn.%s: %s was left: %s", function, _display_name(name), reason)


def _change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change the module's class to one that computes the same with the same attributes."""
    if parametrize.is_parametrized(module):
        # torch created a class for this module. Its properties compute the weights.
        body = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), body)
    else:
        module.__class__ = kind
    if isinstance(module, nn.RNNBase):
        # Our layers compute _flat_weights as a property. Dead references tell a layer of torch at
        # its next call that the weights have changed, and it collects them then. Reading them here
        # would fail for sharded weights, and would change weights that a parametrization computes.
        names = module._flat_weights_names
        module._flat_weight_refs = [weakref.ref(nn.Parameter()) for _ in names]
        module.__dict__.pop("_flat_weights", None)
        if not isinstance(module, FusedRNNParameters):
            module._flat_weights = [module._parameters.get(name) for name in names]


def _unconvertible_reason(module: nn.Module) -> str | None:
    """Why `convert` skips a recurrent layer; None if it does not, and for any other module."""
    if isinstance(module, torch.jit.ScriptModule):
        if module.original_name in _NAMES:
            return "it was compiled by TorchScript: convert the model it was compiled from"
        return None
    if type(module).__module__.startswith("torch.ao."):
        if type(module).__name__ in _NAMES:
            return "it is quantized, and fastrnn computes in floating point"
        return None
    if isinstance(module, _OURS):
        return None
    if not isinstance(module, _OF_TORCH):
        other = isinstance(module, (nn.RNNBase, nn.RNNCellBase))
        return f"fastrnn has no {type(module).__name__}" if other else None
    reason = _class_reason(module, _TO_FUSED, "convert")
    if reason is None and isinstance(module, nn.LSTM) and module.proj_size:
        return f"only nn.LSTM itself computes projections, and its proj_size is {module.proj_size}"
    return reason


def _irreversible_reason(module: nn.Module) -> str | None:
    """Why `revert` skips a layer of fastrnn; None if it does not, and for any other module."""
    if not isinstance(module, _OURS):
        return None
    if isinstance(module, FusedRNNParameters):
        if module.num_heads != 1:
            theirs = _torch_name(module)
            return f"it has {module.num_heads} heads, and {theirs} has no block-diagonal W_hh"
        if module.learned_h0:
            return f"its initial state is learned, and that of {_torch_name(module)} is not"
        if isinstance(module, FusedRNN) and module.leak is not None:
            return "it has a leak, and nn.RNN has none"
    return _class_reason(module, _TO_TORCH, "revert")


def _class_reason(module: nn.Module, classes: Classes, function: str) -> str | None:
    """Why a module of one of the classes, or of a subclass, cannot change its class; else None."""
    kind = parametrize.type_before_parametrizations(module)
    if "forward" in vars(module):
        return f"its forward was replaced: call {function} first"
    if kind in classes:
        return None
    if type(module).__module__.startswith("torch.distributed."):
        return f"it is wrapped, as {type(module).__name__}: call {function} before wrapping"
    base = next(base for base in classes if isinstance(module, base))
    return (
        f"{kind.__name__} is a subclass of {base.__name__} and may override forward: "
        f"derive it from {classes[base].__name__} instead"
    )


def _torch_name(module: nn.Module) -> str:
    """Return the name of the layer of torch that a layer of fastrnn replaces: "nn.LSTM"."""
    kind = next(theirs for ours, theirs in _TO_TORCH.items() if isinstance(module, ours))
    return f"nn.{kind.__name__}"


def _reprs(layers: Modules) -> dict[str, str]:
    """Return each layer's repr; that of a shared layer also names its first occurrence."""
    first: dict[nn.Module, str] = {}
    described: dict[str, str] = {}
    for name, layer in layers.items():
        shared = f", shared with {first[layer]}" if layer in first else ""
        first.setdefault(layer, name)
        described[name] = f"{layer._get_name()}({layer.extra_repr()}){shared}"
    return described


def _display_name(name: str) -> str:
    return name or "(the model)"
