// The operators `layer` and `layer_backward` on CUDA. In a short call launches take most of the time.
// So a layer is two of them, its input product and its recurrence, or one, if the recurrence can read
// the input itself. Its backward is three if it is small: the recurrence, the product with W_ih, and
// the gradients of all weights. Several small layers take no more launches than one.
#include "layer.h"

#include "../layer.h"
#include "launch.h"

namespace fastrnn::cuda {
namespace {

// A view of a tensor, from an element of it on.
Tensor view(const Tensor& tensor, const Shape& sizes, const Shape& strides, int64_t offset = 0) {
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(sizes.size()), sizes.data(),
                                     strides.data(), offset, &made));
  return Tensor(made);
}

// The rows of a contiguous tensor with `width` elements in each of `parts` parts: those of one.
Tensor part(const Tensor& tensor, int64_t rows, int64_t width, int64_t parts, int64_t index) {
  return view(tensor, {rows, width}, {parts * width, 1}, index * width);
}
// Rows of a matrix, from `first` on.
Tensor rows_of(const Tensor& matrix, int64_t first, int64_t count) {
  return view(matrix, {count, matrix.size(1)}, {matrix.stride(0), matrix.stride(1)},
              first * matrix.stride(0));
}
Tensor columns_of(const Tensor& matrix, int64_t first, int64_t count) {
  return view(matrix, {matrix.size(0), count}, {matrix.stride(0), matrix.stride(1)}, first);
}
Tensor transpose(const Tensor& matrix) {
  return view(matrix, {matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}

// A result. Packed data may have rows beyond all sequences: they are zero.
Tensor output(const Shape& shape, const Tensor& like, bool packed) {
  Tensor output = empty(shape, like);
  if (packed) TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(output.get()));
  return output;
}

// A layer's input as a matrix. Its rows are equally spaced unless the batch comes first.
Tensor matrix_of(const Tensor& x, int64_t rows) {
  const int64_t dim = x.dim(), width = x.size(dim - 1), row = x.stride(dim - 2);
  if (dim == 2 || x.size(0) == 1 || x.stride(0) == x.size(1) * row) {
    return view(x, {rows, width}, {row, 1});
  }
  if (x.size(1) == 1) return view(x, {rows, width}, {x.stride(0), 1});
  return view(contiguous("input", x), {rows, width}, {width, 1});
}

// Whether one launch computes the gradients of all weights. Data with lengths or resets would need
// copies for separate products.
bool is_small(const Stack& stack, int64_t inputs) {
  const double wide = double(stack.traits.gates) * stack.hidden() * stack.directions;
  return stack.lengths || stack.resets ||
         2 * wide * double(inputs + stack.H) * double(stack.rows) <= small_weight_products;
}

struct Kernels {
  bool tf32;

  // Of the layers of one launch.
  std::vector<Saved> forward(const Stack& stack, int64_t first, const Tensor& x, Given& h_n,
                             Given& c_n, bool save) const {
    const Plan& plan = plans(stack, Pass::forward)[first];
    const DeviceGuard guard(x.get_device_index());
    Given pre;
    if (!plan.projects) pre = input_product(stack, first, x);
    std::vector<Saved> saved;
    LayersOf<ProjectedForward> calls{};
    for (int i = 0; i < plan.tiling.layers; ++i) {
      saved.push_back(forward_results(stack, x, pre, save));
      calls.of[i] = {forward_call(stack, first + i, pre, saved.back(), h_n, c_n), {}};
      if (plan.projects)
        calls.of[i].projection = projection(stack, first + i, i == 0 ? &x : nullptr);
    }
    if (!is_empty(stack.params())) launch_forward(stack, calls, plan);
    return saved;
  }

  // Of the layers of one launch, which begins with the last of them.
  std::vector<BackwardResults> backward(const Stack& stack, int64_t last,
                                        const BackwardInputs& grad, int64_t needs) const {
    const Plan& plan = plans(stack, Pass::backward)[stack.layers - 1 - last];
    const int count = plan.tiling.layers;
    std::vector<Gradients> of(count);
    LayersOf<ProjectedBackward> calls{};
    for (int i = 0; i < count; ++i) {
      calls.of[i] = {backward_call(stack, last - i, grad, of[i]), nullptr};
      if (i == 0) continue;
      calls.of[i].grad_out = nullptr;
      calls.of[i].weight_ih_above = stack.of(last - i + 1, 0).ih.const_data_ptr();
    }
    if (!is_empty(stack.params())) launch_backward(stack, calls, plan);
    std::vector<BackwardResults> results(count);
    const int64_t first = last - count + 1;
    if (first > 0 || needs & needs_input) {
      results.back().input = input_gradient(stack, first, grad.x(first), *of.back().pre);
    }
    if (needs & ~(needs_input | needs_states)) {
      LayersOf<WeightGradients> all{};
      for (int i = 0; i < count; ++i) {
        all.of[i] = weight_gradients(stack, last - i, grad, of[i], needs, results[i]);
      }
      const int32_t device = stack.input.get_device_index();
      const DeviceGuard guard(device);
      run(all, count, device_of(device), current_stream(device));
    }
    return results;
  }

 private:
  // Of pre [rows, D, K * heads * H], of the unit_param [rows, D, heads * H], and of the states if they
  // are not wanted: the kernels store them.
  struct Gradients {
    Given pre, unit_param, h0, c0;
  };

  // For each layer in the order of the pass, that of the launch which begins with it.
  const std::vector<Plan>& plans(const Stack& stack, Pass pass) const {
    return cached_stack_plans(sizes_of(stack.params(), stack.cell, pass, tf32), stack.layers,
                              stack.input.size(stack.input.dim() - 1),
                              stack.directions * stack.hidden(), stack.input.get_device_index());
  }

  static Tensor grouped(const Tensor& tensor, const Shape& shape) {
    const int64_t* const sizes = shape.begin();  // [T, B, G, K * H]
    const int64_t row = sizes[2] * sizes[3];
    return view(tensor, shape, {sizes[1] * row, row, sizes[3], 1});
  }

  static Tensor input_product(const Stack& stack, int64_t layer, const Tensor& x) {
    const int64_t wide = stack.traits.gates * stack.hidden(), D = stack.directions;
    Tensor pre = empty(stack.data_shape(D * wide), x);
    const Tensor matrix = matrix_of(x, stack.rows);
    for (int64_t d = 0; d < D; ++d) {
      mm_out(part(pre, stack.rows, wide, D, d), matrix, transpose(stack.of(layer, d).ih));
    }
    return pre;
  }

  // What a layer returns. Results take the place of pre, which has no other user.
  static Saved forward_results(const Stack& stack, const Tensor& x, const Given& pre, bool save) {
    const int64_t K = stack.traits.gates, D = stack.directions;
    const bool saves = save && stack.traits.saves, reuse = pre && !stack.is_packed();
    const Shape shape = stack.data_shape(D * stack.hidden());
    Saved saved{K == 1 && !saves && reuse ? *pre : output(shape, x, stack.is_packed()), {}, {}};
    if (!saves) return saved;
    const Shape of_gates = stack.grouped_shape(K * stack.H);
    saved.gates = reuse ? grouped(*pre, of_gates) : output(of_gates, x, stack.is_packed());
    if (stack.traits.has_inner) {
      saved.inner = output(stack.grouped_shape(stack.H), x, stack.is_packed());
    }
    return saved;
  }

  static CellForward forward_call(const Stack& stack, int64_t layer, const Given& pre, Saved& saved,
                                  Given& h_n, Given& c_n) {
    CellForward call{{stack.params(),
                      {groups(stack, layer),
                       data_or_null(pre),
                       {},
                       {},
                       part_of(stack.h0, stack, layer),
                       saved.out.mutable_data_ptr(),
                       mutable_part_of(h_n, stack, layer)}},
                     stack.cell,
                     part_of(stack.c0, stack, layer)};
    for (int64_t d = 0; d < stack.directions; ++d) {
      call.bias_ih[d] = data_or_null(stack.of(layer, d).bias_ih);
      call.bias_hh[d] = data_or_null(stack.of(layer, d).bias_hh);
      call.unit_param[d] = stack.unit_param(layer, d);
    }
    call.c_n = mutable_part_of(c_n, stack, layer);
    call.gates = mutable_data_or_null(saved.gates);
    call.inner = mutable_data_or_null(saved.inner);
    return call;
  }

  static void launch_forward(const Stack& stack, const LayersOf<ProjectedForward>& calls,
                             const Plan& plan) {
    const Tensor& like = stack.input;
    const CellForward& call = calls.of[0];
    if (plan.strategy == Strategy::rows) return launch_rows(calls.of[0], Pass::forward, like, plan);
    if (plan.projects) return launch(calls, Pass::forward, like, plan);
    if (stack.traits.saves) return launch(call, stack.cell, Pass::forward, like, plan);
    launch(static_cast<const Forward&>(call), stack.cell, Pass::forward, like, plan);
  }

  // `x` is null where the kernel has it from the layer before.
  static InputProjection projection(const Stack& stack, int64_t layer, const Tensor* x) {
    InputProjection projection{};
    projection.I = stack.of(layer, 0).ih.size(1);
    for (int64_t d = 0; d < stack.directions; ++d) {
      projection.weight_ih[d] = stack.of(layer, d).ih.const_data_ptr();
    }
    if (!x) return projection;
    const int64_t dim = x->dim();
    projection.input = x->const_data_ptr();
    projection.step = dim == 2 ? 0 : x->stride(0);
    projection.row = x->stride(dim - 2);
    return projection;
  }

  static GroupTensors groups(const Stack& stack, int64_t layer) {
    GroupTensors groups{stack.heads, stack.B * stack.hidden(), stack.hidden(), {}};
    for (int64_t d = 0; d < stack.directions; ++d) {
      groups.weight_hh[d] = stack.of(layer, d).hh.const_data_ptr();
    }
    return groups;
  }

  static CellBackward backward_call(const Stack& stack, int64_t layer, const BackwardInputs& grad,
                                    Gradients& of) {
    const int64_t D = stack.directions, wide = stack.traits.gates * stack.hidden();
    const bool packed = stack.is_packed();
    const Shape of_state{D, stack.B, stack.hidden()};
    const Saved& saved = grad.saved[layer];
    of.pre = output(stack.data_shape(D * wide), stack.input, packed);
    if (!grad.h0) of.h0 = empty(of_state, stack.input);
    CellBackward call{
        {stack.params(),
         {groups(stack, layer), data_or_null(grad.output), part_of(grad.h_n, stack, layer),
          saved.out.const_data_ptr(), of.pre->mutable_data_ptr(),
          grad.h0 ? mutable_part_of(grad.h0, stack, layer) : of.h0->mutable_data_ptr()}},
        stack.cell,
        part_of(grad.c_n, stack, layer)};
    // Some kernels take the output of a cell that saves no gates in their place.
    call.gates = stack.traits.saves ? data_or_null(saved.gates) : call.out;
    call.inner = data_or_null(saved.inner);
    call.h0 = part_of(stack.h0, stack, layer);
    call.c0 = part_of(stack.c0, stack, layer);
    for (int64_t d = 0; d < D; ++d) call.unit_param[d] = stack.unit_param(layer, d);
    if (stack.traits.has_c) {
      if (!grad.c0) of.c0 = empty(of_state, stack.input);
      call.grad_c0 = grad.c0 ? mutable_part_of(grad.c0, stack, layer) : of.c0->mutable_data_ptr();
    }
    if (stack.traits.has_unit_param) {
      of.unit_param = output(stack.data_shape(D * stack.hidden()), stack.input, packed);
      call.grad_unit_param = of.unit_param->mutable_data_ptr();
    }
    return call;
  }

  static void launch_backward(const Stack& stack, const LayersOf<ProjectedBackward>& calls,
                              const Plan& plan) {
    const CellBackward& call = calls.of[0];
    if (plan.strategy == Strategy::rows)
      return launch_rows(call, Pass::backward, stack.input, plan);
    if (plan.projects) return launch(calls, Pass::backward, stack.input, plan);
    if (stack.traits.saves) return launch(call, stack.cell, Pass::backward, stack.input, plan);
    launch(static_cast<const Backward&>(call), stack.cell, Pass::backward, stack.input, plan);
  }

  static Tensor input_gradient(const Stack& stack, int64_t layer, const Tensor& x,
                               const Tensor& grad_pre) {
    const int64_t inputs = x.size(x.dim() - 1), D = stack.directions;
    const int64_t wide = stack.traits.gates * stack.hidden();
    const Tensor grad = empty(stack.data_shape(inputs), x);
    const Tensor matrix = view(grad, {stack.rows, inputs}, {inputs, 1});
    mm_out(matrix, part(grad_pre, stack.rows, wide, D, 0), stack.of(layer, 0).ih);
    if (D == 2) addmm_(matrix, part(grad_pre, stack.rows, wide, D, 1), stack.of(layer, 1).ih);
    return grad;
  }

  // Returns the call of the kernel. Large gradients are products of torch.
  static WeightGradients weight_gradients(const Stack& stack, int64_t layer,
                                          const BackwardInputs& grad, const Gradients& of,
                                          int64_t needs, BackwardResults& results) {
    const Tensor &x = grad.x(layer), &out = grad.saved[layer].out;
    const int64_t dim = x.dim(), inputs = x.size(dim - 1);
    const bool small = is_small(stack, inputs);
    WeightGradients call{stack.params(),
                         stack.cell,
                         stack.heads,
                         needs & needs_weight_ih && small ? inputs : 0,
                         x.const_data_ptr(),
                         dim == 2 ? 0 : x.stride(0),
                         x.stride(dim - 2),
                         out.const_data_ptr(),
                         part_of(stack.h0, stack, layer),
                         of.pre->const_data_ptr(),
                         data_or_null(of.unit_param)};
    for (int64_t d = 0; d < stack.directions; ++d) {
      const Weights& own = stack.of(layer, d);
      const auto add = [&](const Tensor& like) -> Tensor& {
        const auto sizes = like.sizes();
        return results.weights.emplace_back(empty(sizes, stack.input));
      };
      if (needs & needs_weight_ih) {
        Tensor& of_weight = add(own.ih);
        if (small)
          call.weight_ih[d] = of_weight.mutable_data_ptr();
        else
          weight_ih_product(stack, x, *of.pre, d, of_weight);
      }
      if (needs & needs_weight_hh) {
        Tensor& of_weight = add(own.hh);
        if (small)
          call.weight_hh[d] = of_weight.mutable_data_ptr();
        else
          weight_hh_product(stack, layer, out, of, d, of_weight);
      }
      if (needs & needs_biases && own.bias_ih) {
        call.bias_ih[d] = add(*own.bias_ih).mutable_data_ptr();
        call.bias_hh[d] = add(*own.bias_hh).mutable_data_ptr();
      }
      if (needs & needs_leak && own.leak) call.leak[d] = add(*own.leak).mutable_data_ptr();
    }
    return call;
  }

  static void weight_ih_product(const Stack& stack, const Tensor& x, const Tensor& grad_pre,
                                int64_t d, const Tensor& to) {
    const int64_t wide = stack.traits.gates * stack.hidden();
    mm_out(to, transpose(part(grad_pre, stack.rows, wide, stack.directions, d)),
           matrix_of(x, stack.rows));
  }

  // Of data without lengths or resets: the state before a step is that of the step before.
  static void weight_hh_product(const Stack& stack, int64_t layer, const Tensor& out,
                                const Gradients& of, int64_t d, const Tensor& to) {
    const int64_t H = stack.H, K = stack.traits.gates, hidden = stack.hidden();
    const Tensor states = part(out, stack.rows, hidden, stack.directions, d);
    const Tensor of_pre = part(*of.pre, stack.rows, K * hidden, stack.directions, d);
    // dz, the gradient of W_hh h, is that of pre, except for the GRU's n, whose b_hn it shares.
    const int64_t of_n = stack.cell == Cell::gru ? H : 0;
    for (int64_t head = 0; head < stack.heads; ++head) {
      const Tensor rows = view(to, {K * H, H}, {H, 1}, head * K * H * H);
      const Tensor of_head = columns_of(states, head * H, H);
      add_up(stack, layer, d, head, columns_of(of_pre, head * H, K * H - of_n), of_head,
             rows_of(rows, 0, K * H - of_n));
      if (of_n == 0) continue;
      add_up(stack, layer, d, head, part(*of.unit_param, stack.rows, H, stack.directions, d),
             of_head, rows_of(rows, K * H - of_n, of_n));
    }
  }
  static void add_up(const Stack& stack, int64_t layer, int64_t d, int64_t head, const Tensor& dz,
                     const Tensor& states, const Tensor& to) {
    const int64_t B = stack.B, later = stack.rows - B, first = d == 0 ? 0 : later;
    mm_out(to, transpose(rows_of(dz, d == 0 ? B : 0, later)),
           rows_of(states, d == 0 ? 0 : B, later));
    if (!stack.h0) return;
    const int64_t state = (layer * stack.directions + d) * B * stack.hidden() + head * stack.H;
    addmm_(to, transpose(rows_of(dz, first, B)),
           view(*stack.h0, {B, stack.H}, {stack.hidden(), 1}, state));
  }
};

Stack checked_stack(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0,
                    const Given& c0, const Given& lengths, const Given& offsets,
                    const Given& resets, int64_t mode, int64_t layers, int64_t directions) {
  Stack stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions);
  STD_TORCH_CHECK(stack.heads == 1 || stack.traits.gates == 1,
                  "fastrnn: heads of a cell with several gates need the operator's parts");
  return stack;
}

}  // namespace

std::vector<Tensor> layer(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0,
                          const Given& c0, const Given& lengths, const Given& offsets,
                          const Given& resets, int64_t mode, int64_t layers, int64_t directions,
                          bool tf32, bool save) {
  const Stack stack =
      checked_stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions);
  return run_layers(Kernels{tf32}, stack, save);
}

std::vector<Tensor> layer_backward(const Given& grad_output, const Given& grad_h_n,
                                   const Given& grad_c_n, const Tensor& output,
                                   const std::vector<Tensor>& saved, const Tensor& input,
                                   const std::vector<Tensor>& weights, const Given& h0,
                                   const Given& c0, const Given& lengths, const Given& offsets,
                                   const Given& resets, int64_t mode, int64_t layers,
                                   int64_t directions, bool tf32, int64_t needs) {
  const Stack stack =
      checked_stack(input, weights, h0, c0, lengths, offsets, resets, mode, layers, directions);
  return run_layers_backward(Kernels{tf32}, stack, grad_output, grad_h_n, grad_c_n, output, saved,
                             needs);
}

}  // namespace fastrnn::cuda
