"""nn.RNN to FusedRNN and back, in a model that exists, which may be in the middle of its training.

A module's class is changed in place. The two classes have the same parameters and attributes, so
all that knows the module, its parameters or its hooks goes on as before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from .cells import FusedRNNCell
from .layers import FusedRNN
from .readout import ReadoutRNN

__all__ = ["Conversion", "convert", "revert"]

_TO_OURS: dict[type, type[nn.Module]] = {nn.RNN: FusedRNN, nn.RNNCell: FusedRNNCell}
_TO_TORCH: dict[type, type[nn.Module]] = {FusedRNN: nn.RNN, FusedRNNCell: nn.RNNCell}

#: How a report names the model itself.
_ROOT = "(the model)"


@dataclass(frozen=True, repr=False)
class Conversion:
    """What `convert` or `revert` did; printed, it is a report of a line a module."""

    model: nn.Module  #: the model given, the same object
    converted: dict[str, str]  #: by qualified name ("" is the model itself), what it is now
    left: dict[str, str]  #: by qualified name, why it was left as it is
    sought: str  #: the kinds of module that were sought, in words

    def __repr__(self) -> str:
        if not self.converted and not self.left:
            model = type(self.model).__name__
            return f"Nothing to do: there is no {self.sought} in this {model}."
        said = {name: f"is now {became}" for name, became in self.converted.items()}
        said |= {name: f"left: {why}" for name, why in self.left.items()}
        width = max(len(name or _ROOT) for name in said)
        head = f"{len(self.converted) or 'Nothing'} converted, {len(self.left) or 'nothing'} left"
        lines = (f"  {name or _ROOT:<{width}}  {what}" for name, what in said.items())
        return "\n".join((head, *lines))


def convert(model: nn.Module) -> Conversion:
    """Make every `torch.nn.RNN` in a model a `FusedRNN`, every nn.RNNCell a `FusedRNNCell`.

    In place, at any depth, the model itself too. Every module remains the object it was, with its
    Parameter objects, buffers, hooks, mode and other attributes: an optimizer made before, its
    state, DistributedDataParallel around the model and tied weights are untouched, so this can be
    done in the middle of a training. Of the results only rounding changes: sums are taken in
    another order. Dropout draws the masks that nn.RNN draws on the CPU, where cuDNN has its own.
    A state_dict loads into either, before and after.

    - Parametrized and pruned layers are converted; ``remove_parametrizations`` gives a FusedRNN.
    - What torch.compile has compiled, it compiles anew at the next call, without being told.
    - Left, with the reason: a subclass of nn.RNN, since its forward may be its own; a layer whose
      forward was replaced, that fully_shard has wrapped (convert before it), that TorchScript
      compiled, or that is quantized; LSTM and GRU, which fastrnn does not have.
    - Only submodules are found: a layer in a plain list is none, for torch neither.
    - A FusedRNN is an nn.RNNBase, but no nn.RNN: code that asks ``isinstance(m, nn.RNN)`` says no,
      and a tool that looks for the exact class finds none. docs/neighbours.md has recipes.

    Args:
        model: any module. Modules converted before are passed over.

    Returns:
        Which modules were converted, into what, and which were left, and why.

    Raises:
        ValueError: model is not a module.

    Example:
        >>> model = nn.Sequential(nn.RNN(64, 128, num_layers=2))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> print(fastrnn.convert(model))
        1 converted, nothing left
          0  is now FusedRNN(64, 128, num_layers=2)
    """
    modules = _named_modules(model, "convert")
    return _swap(modules, _TO_OURS, _stays_torchs, "nn.RNN or nn.RNNCell")


def revert(model: nn.Module) -> Conversion:
    """Make every `FusedRNN` in a model a `torch.nn.RNN`, every FusedRNNCell an nn.RNNCell.

    The way back from `convert`, on the same terms, for layers made as FusedRNN too: to save a
    whole module for a place without fastrnn, or to hand it to a tool that knows nn.RNN. Code that
    calls a layer with what nn.RNN does not take, such as ``lengths``, has to change.

    Left, with the reason: a layer of several heads or with a learned initial state, which nn.RNN
    cannot have; the layer of a `ReadoutRNN`; a subclass; a layer whose forward was replaced.

    Args:
        model: any module.

    Returns:
        Which modules were converted, into what, and which were left, and why.

    Raises:
        ValueError: model is not a module.
    """
    modules = _named_modules(model, "revert")
    readouts = [module.rnn for _, module in modules if isinstance(module, ReadoutRNN)]
    theirs = {module for rnn in readouts for module in rnn.modules()}

    def stays(module: nn.Module) -> str | None:
        if module in theirs and isinstance(module, FusedRNN):
            return "ReadoutRNN calls it with lengths, which nn.RNN does not take"
        return _stays_ours(module)

    return _swap(modules, _TO_TORCH, stays, "FusedRNN or FusedRNNCell")


def _named_modules(model: nn.Module, verb: str) -> list[tuple[str, nn.Module]]:
    """All names of all modules, the model's first: a shared module is reported under each."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(
            f"{verb} changes a torch.nn.Module in place, but got {what}: give it the model itself. "
            "A state_dict needs no conversion, it loads into nn.RNN and FusedRNN alike"
        )
    return list(model.named_modules(remove_duplicate=False))


def _swap(
    modules: list[tuple[str, nn.Module]],
    table: dict[type, type[nn.Module]],
    stays: Callable[[nn.Module], str | None],
    sought: str,
) -> Conversion:
    converted: dict[str, str] = {}
    left: dict[str, str] = {}
    first: dict[nn.Module, str] = {}
    for name, module in modules:
        if module in first:
            converted[name] = f"{converted[first[module]]}, shared with {first[module]}"
            continue
        reason = stays(module)
        kind = parametrize.type_before_parametrizations(module)
        if reason is not None:
            left[name] = reason
        elif kind in table:
            _become(module, table[kind])
            first[module] = name
            converted[name] = f"{module._get_name()}({module.extra_repr()})"
    return Conversion(modules[0][1], converted, left, sought)


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change the module's class to one that computes the same from the same attributes."""
    if parametrize.is_parametrized(module):
        # torch made a class for this module, whose properties compute the weights.
        body = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), body)
    else:
        module.__class__ = kind
    if isinstance(module, nn.RNNBase):
        # nn.RNN's list of its weights is a property of FusedRNN. References to nothing tell nn.RNN
        # at its next call that the weights have changed, and it gathers them: here they may be
        # sharded, or be changed by being computed.
        names = module._flat_weights_names
        module._flat_weight_refs = [weakref.ref(nn.Parameter()) for _ in names]
        module.__dict__.pop("_flat_weights", None)
        if isinstance(module, nn.RNN):
            module._flat_weights = [module._parameters.get(name) for name in names]


def _stays_torchs(module: nn.Module) -> str | None:
    """Why a recurrent layer stays as it is; None for one to convert, and for any other module."""
    if isinstance(module, torch.jit.ScriptModule):
        compiled = "TorchScript compiled it: convert the model it was compiled from"
        return _of_a_copy(module.original_name, compiled)
    if type(module).__module__.startswith("torch.ao."):
        return _of_a_copy(type(module).__name__, "it is quantized, and fastrnn computes in floats")
    if isinstance(module, (FusedRNN, FusedRNNCell)):
        return None
    if isinstance(module, (nn.RNN, nn.RNNCell)):
        return _of_a_class(module, _TO_OURS, "convert")
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _another(type(module).__name__)
    return None


def _stays_ours(module: nn.Module) -> str | None:
    """Why one of our layers stays as it is; None for one to revert, and for any other module."""
    if not isinstance(module, (FusedRNN, FusedRNNCell)):
        return None
    if isinstance(module, FusedRNN) and module.num_heads != 1:
        return f"it has {module.num_heads} heads, and nn.RNN has no W_hh of blocks"
    if isinstance(module, FusedRNN) and module.learned_h0:
        return "its initial state is learned, and nn.RNN has none"
    return _of_a_class(module, _TO_TORCH, "revert")


def _of_a_class(module: nn.Module, table: dict[type, type[nn.Module]], verb: str) -> str | None:
    """Why a module that is an instance of one of the table's classes may not be of another."""
    kind = parametrize.type_before_parametrizations(module)
    if "forward" in vars(module):
        return f"its forward was replaced: {verb} the model before that is done"
    if kind in table:
        return None
    if type(module).__module__.startswith("torch.distributed."):
        return f"it was wrapped, as {type(module).__name__}: {verb} the model before that is done"
    base = next(base for base in table if isinstance(module, base))
    return (
        f"{kind.__name__} is a subclass, with perhaps a forward of its own: derive it from "
        f"{table[base].__name__} instead of {base.__name__}"
    )


def _of_a_copy(name: str, reason: str) -> str | None:
    """Why a module stays that is not the layer of that name, but was made from one."""
    if name in ("RNN", "RNNCell"):
        return reason
    return _another(name) if name in ("LSTM", "LSTMCell", "GRU", "GRUCell") else None


def _another(name: str) -> str:
    return f"{name} is another recurrence than nn.RNN's, the only one that fastrnn has"
