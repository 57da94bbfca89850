#include "weight_product.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

namespace fastrnn::cpu {
namespace {

// Up to so many multiply-adds, our own kernel takes less time than a call of torch's product.
constexpr int64_t small = 1 << 16;

// Rows of equal distance, with no copy.
struct Run {
  const char *a, *b;
  int64_t a_stride, b_stride, rows;  // strides in elements
};

// The runs of rows that a and b have, without those where b is 0.
std::vector<Run> runs_of(const Operand& a, const Operand& b, int64_t element_size, size_t most) {
  std::vector<Run> runs;
  const auto at = [&](const Operand& from, size_t i) {
    return static_cast<const char*>(from.rows[i]) + from.first * element_size;
  };
  for (size_t i = 0; i < a.rows.size(); ++i) {
    if (b.rows[i] == nullptr) continue;
    const char *x = at(a, i), *y = at(b, i);
    if (!runs.empty() && i > 0 && b.rows[i - 1] != nullptr) {
      Run& run = runs.back();
      const int64_t a_stride = (x - at(a, i - 1)) / element_size,
                    b_stride = (y - at(b, i - 1)) / element_size;
      if (run.rows == 1 && a_stride >= a.count && b_stride >= b.count) {
        run.a_stride = a_stride;
        run.b_stride = b_stride;
      }
      if (run.a_stride == a_stride && run.b_stride == b_stride) {
        ++run.rows;
        continue;
      }
    }
    if (runs.size() == most) return {};
    runs.push_back({x, y, a.count, b.count, 1});
  }
  return runs;
}

// A matrix in memory that a tensor shares.
Tensor matrix(const void* data, int64_t rows, int64_t columns, int64_t row, int64_t column,
              const Tensor& like) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row, column};
  int32_t dtype, device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes,
                                                            strides, 0, dtype, device, 0, &made));
  return Tensor(made);
}

// out = a^T b, or out += a^T b, by torch's product, which ignores autograd and autocast here.
void multiply(const Tensor& a, const Tensor& b, Tensor& out, bool add) {
  if (add) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
  }
}

// Copies rows that are not in a run, with 0 for null.
Tensor gathered(const Operand& from, const Tensor& like) {
  const int64_t rows = static_cast<int64_t>(from.rows.size()),
                element_size = static_cast<int64_t>(like.element_size()),
                bytes = from.count * element_size;
  Tensor copy = empty(Shape{rows, from.count}, like);
  char* to = static_cast<char*>(copy.mutable_data_ptr());
  constexpr int64_t part = 256;
  run_tasks((rows + part - 1) / part, rows * from.count, [&](int64_t i) {
    for (int64_t r = i * part; r < std::min(rows, (i + 1) * part); ++r) {
      const auto* row = static_cast<const char*>(from.rows[r]);
      if (row == nullptr) {
        std::memset(to + r * bytes, 0, bytes);
      } else {
        std::memcpy(to + r * bytes, row + from.first * element_size, bytes);
      }
    }
  });
  return copy;
}

// Whether torch's product of such matrices is far slower than in float32.
bool is_slow(const Tensor& like) {
  const auto supported = [](const char* name) {
    StableIValue stack[1];
    const auto error = torch_call_dispatcher(name, "", stack, TORCH_ABI_VERSION);
    return error == TORCH_SUCCESS && torch::stable::detail::to<bool>(stack[0]);
  };
  static const bool bfloat16 = supported("mkldnn::_is_mkldnn_bf16_supported"),
                    float16 = supported("mkldnn::_is_mkldnn_fp16_supported");
  switch (dtype_of(like)) {
    case DType::bfloat16: return !bfloat16;
    case DType::float16: return !float16;
    default: return false;
  }
}

// Adds a run in float32, some rows at a time, so that the converted rows stay in cache.
void multiply_converted(const Run& run, int64_t M, int64_t N, const Tensor& like, Tensor& sum,
                        bool add) {
  constexpr int64_t part = 4096;
  const int64_t element_size = static_cast<int64_t>(like.element_size());
  for (int64_t r = 0; r < run.rows; r += part) {
    const int64_t some = std::min(part, run.rows - r);
    const auto converted = [&](const char* data, int64_t stride, int64_t count) {
      const Tensor rows = matrix(data + r * stride * element_size, some, count, stride, 1, like);
      return with_reason("a conversion",
                         [&] { return torch::stable::to(rows, ScalarType::Float); });
    };
    const Tensor a = converted(run.a, run.a_stride, M), b = converted(run.b, run.b_stride, N);
    multiply(matrix(a.const_data_ptr(), M, some, 1, a.stride(0), a), b, sum, add || r > 0);
  }
}

// The number 1 of a dtype.
const void* one_of(DType dtype) {
  static const double float64 = 1;
  static const float float32 = 1;
  static const uint16_t bfloat16 = 0x3f80, float16 = 0x3c00;
  switch (dtype) {
    case DType::float64: return &float64;
    case DType::float32: return &float32;
    case DType::bfloat16: return &bfloat16;
    default: return &float16;
  }
}

}  // namespace

void weight_product(const Operand& a, const Operand& b, const Tensor& like, void* out) {
  const int64_t K = static_cast<int64_t>(a.rows.size()), M = a.count, N = b.count;
  if (K * M * N <= small)
    return outer({M, N, K, dtype_of(like), a.rows.data(), b.rows.data(), a.first, b.first, out});
  constexpr size_t most = 4;
  const int64_t element_size = static_cast<int64_t>(like.element_size());
  std::vector<Run> runs = runs_of(a, b, element_size, most);
  Given copied_a, copied_b;
  if (runs.empty()) {
    copied_a = gathered(a, like);
    copied_b = gathered(b, like);
    runs.push_back({static_cast<const char*>(copied_a->const_data_ptr()),
                    static_cast<const char*>(copied_b->const_data_ptr()), M, N, K});
  }
  Tensor result = matrix(out, M, N, N, 1, like);
  if (!is_slow(like)) {
    for (size_t i = 0; i < runs.size(); ++i) {
      const Run& run = runs[i];
      multiply(matrix(run.a, M, run.rows, 1, run.a_stride, like),
               matrix(run.b, run.rows, N, run.b_stride, 1, like), result, i > 0);
    }
    return;
  }
  Tensor sum = with_reason("a sum of products", [&] {
    return torch::stable::new_empty(like, {M, N}, ScalarType::Float);
  });
  for (size_t i = 0; i < runs.size(); ++i) multiply_converted(runs[i], M, N, like, sum, i > 0);
  torch::stable::copy_(result, sum);
}

Tensor sum_of_rows(const Operand& from, const Tensor& like) {
  const int64_t K = static_cast<int64_t>(from.rows.size()), N = from.count;
  const DType dtype = dtype_of(like);
  const bool is_half = dtype == DType::bfloat16 || dtype == DType::float16;
  const std::vector<const void*> ones(K, one_of(dtype));
  Tensor sum = empty(Shape{N}, like);
  constexpr int64_t part = 512;
  const int64_t parts = (K + part - 1) / part;
  if (parts <= 1) {
    outer({1, N, K, dtype, ones.data(), from.rows.data(), 0, from.first, sum.mutable_data_ptr()});
    return sum;
  }
  const auto wide = [&](const Shape& shape) {
    if (!is_half) return empty(shape, like);
    return torch::stable::new_empty(like, {shape.begin(), shape.end()}, ScalarType::Float);
  };
  Tensor sums = wide({parts, N}), total = is_half ? wide({N}) : sum;
  const DType wide_dtype = dtype_of(sums);
  const std::vector<const void*> wide_ones(parts, one_of(wide_dtype));
  std::vector<const void*> rows;
  char* const data = static_cast<char*>(sums.mutable_data_ptr());
  const auto row = [&](int64_t i) {
    return data + i * N * static_cast<int64_t>(sums.element_size());
  };
  run_tasks(parts, K * N, [&](int64_t i) {
    const int64_t k = i * part;
    outer({1, N, std::min(part, K - k), dtype, ones.data() + k, from.rows.data() + k, 0, from.first,
           row(i), /*is_wide=*/true});
  });
  for (int64_t i = 0; i < parts; ++i) rows.push_back(row(i));
  outer({1, N, parts, wide_dtype, wide_ones.data(), rows.data(), 0, 0, total.mutable_data_ptr()});
  if (is_half) torch::stable::copy_(sum, total);
  return sum;
}

}  // namespace fastrnn::cpu
