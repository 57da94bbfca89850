"""PyTorch's own test cases for its recurrent layers and cells, applied to ours.

The samples and their parametrization over device, dtype and mode are PyTorch's
(torch.testing._internal.common_modules). PyTorch's tests compare a sample without a batch dimension
with the same sample as a batch of one. Here every sample, including packed ones, is also compared
with torch's layer. On a GPU, PyTorch expects cuDNN to fail test_grad, test_gradgrad and
test_non_contiguous_tensors; our layers pass them.
"""

import pickle
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("expecttest")  # PyTorch's test utilities need these
pytest.importorskip("numpy")

from torch.nn.utils.rnn import PackedSequence
from torch.testing import assert_close
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_modules import (
    ModuleErrorEnum,
    ModuleInfo,
    TrainEvalMode,
    module_error_inputs_torch_nn_LSTMCell,
    module_error_inputs_torch_nn_RNN_GRU,
    module_error_inputs_torch_nn_RNN_GRU_Cell,
    module_inputs_torch_nn_LSTM,
    module_inputs_torch_nn_LSTMCell,
    module_inputs_torch_nn_RNN_GRU,
    module_inputs_torch_nn_RNN_GRU_Cell,
    modules,
)
from torch.testing._internal.common_utils import TestCase, gradcheck, gradgradcheck
from torch.testing._internal.common_utils import noncontiguous_like as noncontiguous

from benchmarks.precision import precision
from fastrnn import (
    FusedGRU,
    FusedGRUCell,
    FusedLSTM,
    FusedLSTMCell,
    FusedRNN,
    FusedRNNCell,
)

from ..utils.nn_rnn_parity import TORCH, tensors


def lstm_inputs(info: ModuleInfo, **options: Any) -> list[Any]:
    """Return PyTorch's samples for nn.LSTM, and the packed ones of nn.GRU."""
    of_gru = module_inputs_torch_nn_RNN_GRU(
        info, is_rnn=False, with_packed_sequence=True, **options
    )
    return [
        *module_inputs_torch_nn_LSTM(info, **options),
        *(sample for sample in of_gru if is_packed(sample)),
    ]


def is_packed(sample: Any) -> bool:
    return any(isinstance(argument, PackedSequence) for argument in sample.forward_input.args)


CASES = [
    *(
        ModuleInfo(
            kind,
            module_inputs_func=partial(
                module_inputs_torch_nn_RNN_GRU,
                is_rnn=kind is FusedRNN,
                with_packed_sequence=True,
            ),
            module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU,
            train_and_eval_differ=True,
        )
        for kind in (FusedRNN, FusedGRU)
    ),
    ModuleInfo(
        FusedLSTM,
        module_inputs_func=lstm_inputs,
        module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU,  # there are none for nn.LSTM
        train_and_eval_differ=True,
    ),
    *(
        ModuleInfo(
            kind,
            module_inputs_func=partial(
                module_inputs_torch_nn_RNN_GRU_Cell, is_rnn=kind is FusedRNNCell
            ),
            module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU_Cell,
        )
        for kind in (FusedRNNCell, FusedGRUCell)
    ),
    ModuleInfo(
        FusedLSTMCell,
        module_inputs_func=module_inputs_torch_nn_LSTMCell,
        module_error_inputs_func=module_error_inputs_torch_nn_LSTMCell,
    ),
]
on_double = partial(modules, allowed_dtypes=[torch.double])


def inputs_of(sample: Any) -> list[torch.Tensor]:
    return [t for argument in sample.forward_input.args for t in tensors(argument)]


def arguments_with(given: Iterable[torch.Tensor], sample: Any) -> tuple[Any, ...]:
    """Return the sample's arguments with its tensors replaced by `given`."""
    rest = iter(given)

    def replaced(argument: Any) -> Any:
        if isinstance(argument, PackedSequence):
            return argument._replace(data=next(rest))
        return tuple(map(replaced, argument)) if isinstance(argument, tuple) else next(rest)

    return tuple(map(replaced, sample.forward_input.args))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
class TestModuleCases(TestCase):
    def samples(self, info, training, requires_grad=False, **factory):
        """Yield every sample with its module, on the given device and dtype."""
        found = info.module_inputs_func(
            info, **factory, requires_grad=requires_grad, training=training
        )
        assert found
        for sample in found:
            arguments = sample.constructor_input
            module = info.module_cls(*arguments.args, **arguments.kwargs, **factory)
            yield module.train(training), sample

    @modules(CASES)
    def test_forward(self, device, dtype, module_info, training):
        for module, sample in self.samples(module_info, training, device=device, dtype=dtype):
            arguments = sample.constructor_input
            theirs = TORCH[module_info.module_cls](*arguments.args, **arguments.kwargs)
            theirs.to(device, dtype).train(training).load_state_dict(module.state_dict())
            args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
            with precision("float32"):  # on a GPU torch's layer rounds to tf32 differently
                actual = module(*args, **kwargs)
                assert_close(actual, theirs(*args, **kwargs))
            if not is_packed(sample):
                assert_close(actual, sample.reference_fn(module, *args, **kwargs))

    @modules(CASES)
    def test_factory_kwargs(self, device, dtype, module_info, training):
        for module, _ in self.samples(module_info, training, device=device, dtype=dtype):
            for p in module.parameters():
                assert (str(p.device), p.dtype) == (device, dtype)

    def check_derivatives(self, check, device, dtype, info, training):
        factory = {"device": device, "dtype": dtype}
        for module, sample in self.samples(info, training, requires_grad=True, **factory):
            given = inputs_of(sample)
            names, parameters = zip(*module.named_parameters(), strict=True)

            def run(*leaves, module=module, sample=sample, given=given, names=names):
                weights = dict(zip(names, leaves[len(given) :], strict=True))
                args = arguments_with(leaves[: len(given)], sample)
                return tuple(tensors(torch.func.functional_call(module, weights, args)))

            assert check(run, (*given, *parameters))

    # No sample has dropout, so both modes agree, and one suffices.
    @on_double(CASES, train_eval_mode=TrainEvalMode.train_only)
    def test_grad(self, device, dtype, module_info, training):
        self.check_derivatives(gradcheck, device, dtype, module_info, training)

    # tests/ops/test_recurrence.py and test_double_backward.py have quick tests.
    @pytest.mark.exhaustive
    @on_double(CASES, train_eval_mode=TrainEvalMode.train_only)
    def test_gradgrad(self, device, dtype, module_info, training):
        self.check_derivatives(gradgradcheck, device, dtype, module_info, training)

    @on_double(CASES)
    def test_non_contiguous_tensors(self, device, dtype, module_info, training):
        for module, sample in self.samples(module_info, training, device=device, dtype=dtype):
            results = []
            for prepare in (torch.Tensor.contiguous, noncontiguous):
                given = [prepare(t).detach().requires_grad_() for t in inputs_of(sample)]
                output = tensors(module(*arguments_with(given, sample)))
                grads = [prepare(torch.ones_like(t)) for t in output]
                wanted = [*given, *module.parameters()]
                results.append((output, torch.autograd.grad(output, wanted, grads)))
            assert not any(t.is_contiguous() for t in given)
            assert_close(*results)

    @modules(CASES)
    def test_pickle(self, device, dtype, module_info, training):
        for module, sample in self.samples(module_info, training, device=device, dtype=dtype):
            args = sample.forward_input.args
            assert_close(pickle.loads(pickle.dumps(module))(*args), module(*args))

    @on_double(CASES)
    def test_repr(self, device, dtype, module_info, training):
        for module, sample in self.samples(module_info, training, device=device, dtype=dtype):
            arguments = sample.constructor_input
            theirs = TORCH[module_info.module_cls](*arguments.args, **arguments.kwargs)
            assert repr(module) == "Fused" + repr(theirs)

    @modules(CASES)
    def test_errors(self, device, dtype, module_info, training):
        for wrong in module_info.module_error_inputs_func(
            module_info, device=device, dtype=dtype, requires_grad=False, training=training
        ):
            sample = wrong.module_error_input
            arguments = sample.constructor_input

            def construct(arguments=arguments):
                module = module_info.module_cls(*arguments.args, **arguments.kwargs)
                return module.to(device, dtype).train(training)

            if wrong.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    construct()
            else:
                module = construct()
                with pytest.raises(wrong.error_type, match=wrong.error_regex):
                    module(*sample.forward_input.args, **sample.forward_input.kwargs)


instantiate_device_type_tests(TestModuleCases, globals(), only_for=("cpu", "cuda"))
