// Checks the product by emulated tiles, csrc/cpu/tile_gemm.h. Prints the first error and returns 1.
//
//   tile_gemm         the product, for tests/ops/backends/cpu/test_tiles.py and its mutants
//   tile_gemm FAULT   a faulty use of the tiles, which the emulator must report
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulated_tiles.h"

#include "cpu/isa.h"

#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
namespace fastrnn::cpu::amx {
// clang-format off: each uses the previous ones
#include "cpu/simd.h"
#include "cpu/gemm.h"
#include "cpu/product.h"
#include "cpu/tile.h"
#include "cpu/tile_gemm.h"
// clang-format on
}  // namespace fastrnn::cpu::amx

using namespace fastrnn::cpu;
using namespace fastrnn::cpu::amx;
using Element = BFloat16::Element;
using Weight = TransposedMatrix<BFloat16>;
using Multiplier = Product<BFloat16>;

namespace {

constexpr int64_t L = lanes<float>;
std::mt19937 generator(0);

void require(bool holds, const std::string& message) {
  if (holds) return;
  std::printf("%s\n", message.c_str());
  std::exit(1);
}

float widen(Element x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Memory of its exact size on the heap, so that AddressSanitizer notices any access beyond it.
std::vector<Element> random_elements(int64_t n) {
  std::vector<Element> elements(n);
  for (Element& x : elements) {
    const float value = std::normal_distribution<float>()(generator);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    x = bits >> 16;
  }
  elements.shrink_to_fit();
  return elements;
}

std::vector<float> random_floats(int64_t n) {
  std::vector<float> values(n);
  for (float& x : values) x = std::normal_distribution<float>()(generator);
  return values;
}

std::vector<float> poison(int64_t n) { return std::vector<float>(n, NAN); }

bool same_bits(const float* a, const float* b, int64_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(float)) == 0;
}

// The W of a problem, [gates N, K] as it is stored, and x [rows, K].
struct Problem {
  int64_t rows, K, N, gates;
  std::vector<Element> input = random_elements(rows * K), weight = random_elements(gates * N * K);

  int64_t blocks() const { return (N + L - 1) / L * gates; }
  Weight stored() const { return {weight.data(), K, N, K, gates, N}; }

  // Column j of z, as a row of W; -1 for padding.
  int64_t weight_row(int64_t j) const {
    const int64_t unit = j / (gates * L) * L + j % L, gate = j / L % gates;
    return unit < N ? gate * N + unit : -1;
  }

  std::string name() const {
    return std::to_string(rows) + " rows, K " + std::to_string(K) + ", N " + std::to_string(N) +
           ", " + std::to_string(gates) + " gates";
  }
};

// Compares the result of any product with its sums in double.
void check_sums(const Problem& p, const std::vector<float>& z, int64_t z_stride,
                MatrixView<const float> start) {
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t j = 0; j < p.blocks() * L; ++j) {
      const int64_t row = p.weight_row(j);
      if (row < 0) continue;
      double sum = start.data == nullptr ? 0 : *start.at(r, j).data, magnitude = std::fabs(sum);
      for (int64_t k = 0; k < p.K; ++k) {
        const double term = double{widen(p.input[r * p.K + k])} * widen(p.weight[row * p.K + k]);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double bound = std::ldexp((p.K + 1) * magnitude, -23);
      require(std::fabs(z[r * z_stride + j] - sum) <= bound, "wrong sum: " + p.name());
    }
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t j = p.blocks() * L; j < z_stride; ++j)
      require(std::isnan(z[r * z_stride + j]), "written beyond the column blocks: " + p.name());
}

std::vector<Element> pack(const Problem& p) {
  std::vector<Element> memory(Multiplier::packed_size(p.K, p.blocks()), Element{0x7fc0});
  const auto packed = Multiplier::packed(memory.data(), p.K, p.blocks(), 2);
  for (int64_t c = 0; c < p.blocks(); ++c) Multiplier::pack(p.stored(), c, packed);
  return memory;
}

// All ways to compute a product give the same bits, and the correct sums.
void check_product(const Problem& p, MatrixView<const float> start) {
  const int64_t z_stride = p.blocks() * L + L;
  std::vector<Element> memory = pack(p);
  const auto packed = Multiplier::packed(memory.data(), p.K, p.blocks(), 2);
  const ProductRows<BFloat16> rows(p.input.data(), p.K, p.rows, p.K);
  const auto from = [&](int64_t r, int64_t j) {
    return start.data == nullptr ? start : start.at(r, j);
  };
  std::vector<float> z = poison(p.rows * z_stride), again = z, parts = z;
  {
    Multiplier product;
    product.multiply(p.rows, rows.view(), packed, p.blocks(), start, {z.data(), z_stride});
    check_sums(p, z, z_stride, start);
    product.multiply(p.rows, rows.view(), packed, p.blocks(), start, {again.data(), z_stride},
                     true);
    require(same_bits(z.data(), again.data(), z.size()), "reversed blocks differ: " + p.name());
    product.multiply(p.rows, rows.view(), p.stored(), p.blocks(), start, {parts.data(), z_stride});
    require(same_bits(z.data(), parts.data(), z.size()), "parts of W differ: " + p.name());
    for (int64_t r = 0; r < p.rows; r += 5) {
      std::vector<float> alone = poison(z_stride);
      product.multiply(1, rows.view().at(r, 0), packed, p.blocks(), from(r, 0),
                       {alone.data(), z_stride});
      require(same_bits(&z[r * z_stride], alone.data(), z_stride), "a row differs: " + p.name());
    }
    for (int64_t c = 0; c < p.blocks(); c += 3) {
      std::vector<float> alone = poison(p.rows * L);
      product.multiply(p.rows, rows.view(), packed.at(c), 1, from(0, c * L), {alone.data(), L});
      for (int64_t r = 0; r < p.rows; ++r)
        require(same_bits(&z[r * z_stride + c * L], &alone[r * L], L), "a block differs");
    }
  }
  require(!emulated_tiles::of_thread().configured, "the tiles are not released");
}

void check_products() {
  for (const Problem& p :
       {Problem{1, 1, 1, 1}, Problem{3, 33, 17, 1}, Problem{16, 32, 48, 1}, Problem{17, 64, 16, 1},
        Problem{33, 31, 33, 1}, Problem{49, 300, 20, 3}, Problem{70, 96, 50, 1},
        Problem{2, 530, 40, 4}, Problem{4, 0, 20, 1}, Problem{0, 40, 20, 1}}) {
    check_product(p, {nullptr, 0});
    const std::vector<float> bias = random_floats(p.blocks() * L);
    check_product(p, {bias.data(), 0});
    const std::vector<float> full = random_floats(p.rows * p.blocks() * L);
    check_product(p, {full.data(), p.blocks() * L});
  }
}

// Products of different rows in turns, as of the input and of the state, on one thread.
void check_two_products() {
  const Problem large{20, 40, 20, 1}, small{3, 40, 20, 1};
  Multiplier outer;
  for (int i = 0; i < 3; ++i) {
    Multiplier inner;
    for (const auto& [p, product] : {std::pair{&large, &outer}, std::pair{&small, &inner}}) {
      const ProductRows<BFloat16> rows(p->input.data(), p->K, p->rows, p->K);
      const int64_t stride = p->blocks() * L;
      std::vector<float> z = poison(p->rows * stride);
      product->multiply(p->rows, rows.view(), p->stored(), p->blocks(), {nullptr, 0},
                        {z.data(), stride});
      check_sums(*p, z, stride, {nullptr, 0});
    }
  }
}

// The backward's W: rows in the order of its state, a vector of units of each gate at a time.
void check_backward(int64_t rows, int64_t H, int64_t gates) {
  const std::vector<Element> weight = random_elements(gates * H * H);
  const int64_t depth = gates * H, blocks = (H + L - 1) / L;
  Problem p{rows, depth, H, 1};
  for (int64_t k = 0, j = 0; j < H; j += L)
    for (int64_t gate = 0; gate < gates; ++gate)
      for (int64_t unit = j; unit < H && unit < j + L; ++unit, ++k)
        for (int64_t n = 0; n < H; ++n) p.weight[n * depth + k] = weight[(gate * H + unit) * H + n];
  std::vector<Element> memory(Multiplier::packed_size(depth, blocks), Element{0x7fc0});
  const auto packed = Multiplier::packed(memory.data(), depth, blocks, 2);
  for (int64_t c = 0; c < blocks; ++c) Multiplier::pack_rows(weight.data(), H, gates, c, packed);
  require(memory == pack(p), "the backward's W is packed differently");
  if (gates > 1) return;
  const RowMajorMatrix<BFloat16> by_rows{weight.data(), H, H};
  std::fill(memory.begin(), memory.end(), Element{0x7fc0});
  for (int64_t c = 0; c < blocks; ++c) Multiplier::pack(by_rows, c, packed);
  require(memory == pack(p), "W that is stored by rows is packed differently");
}

// A state keeps whole rows of x: what it stores beyond its units must be 0.
void check_states() {
  for (const int64_t count : {1, 7, 15, 16, 40}) {
    std::vector<Element> given = random_elements(L), stored(L);
    Multiplier::store_state(stored.data(), load<HalfBits>(given.data()), count);
    for (int64_t j = 0; j < L; ++j)
      require(stored[j] == (j < count ? given[j] : 0), "a state has units beyond its row");
  }
}

// Uses of the tiles at which a processor would fault.
void fault(const std::string& name) {
  alignas(64) char memory[1024] = {};
  TileConfig config;
  const auto set = [&](int tile, int rows, int bytes) {
    config.rows[tile] = rows;
    config.row_bytes[tile] = bytes;
  };
  for (int tile = 0; tile < 3; ++tile) set(tile, 16, 64);
  if (name == "unconfigured") return tileloadd<0>(memory, 64);
  if (name == "too many rows") set(1, 17, 64);
  if (name == "too long rows") set(1, 16, 65);
  if (name == "no rows") set(1, 0, 64);
  if (name == "palette") config.palette = 2;
  if (name == "reserved") config.reserved[3] = 1;
  if (name == "no such tile") set(9, 16, 64);
  if (name == "rows differ") set(1, 15, 64);
  if (name == "columns differ") set(2, 16, 60);
  if (name == "depths differ") set(1, 16, 60);
  ldtilecfg(config);
  if (name == "unused tile") return tilezero<3>();
  if (name == "released") {
    tilerelease();
    return tilestored<0>(memory, 64);
  }
  tdpbf16ps<0, 1, 2>();
}

// The rounding of the instruction: denormal numbers are 0, and the products of even and of odd k
// are summed apart.
void check_arithmetic() {
  const auto narrow = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<Element>(bits >> 16);
  };
  const auto sum = [&](std::vector<float> a, std::vector<float> b, float start) {
    TileConfig config;
    for (const int tile : {0, 1, 2}) {
      config.rows[tile] = tile == 2 ? a.size() / 2 : 1;
      config.row_bytes[tile] = tile == 1 ? 2 * a.size() : 4;
    }
    std::vector<Element> x, w;
    for (const float value : a) x.push_back(narrow(value));
    for (const float value : b) w.push_back(narrow(value));
    ldtilecfg(config);
    tileloadd<0>(&start, 4);
    tileloadd<1>(x.data(), 2 * x.size());
    tileloadd<2>(w.data(), 4);
    tdpbf16ps<0, 1, 2>();
    float result;
    tilestored<0>(&result, 4);
    tilerelease();
    return result;
  };
  const float denormal = 0x1p-127f, big = 0x1p30f;
  require(sum({3, 5}, {7, 11}, 1) == 77, "3 * 7 + 5 * 11 + 1");
  require(sum({denormal, 0}, {0x1p120f, 0}, 0) == 0, "a denormal operand");
  require(sum({0x1p-70f, 0}, {0x1p-60f, 0}, 0) == 0, "a denormal product");
  require(sum({0, 0}, {0, 0}, denormal) == 0, "a denormal start");
  require(sum({big, 1, -big, 0}, {1, 1, 1, 0}, 0) == 1, "even and odd products are summed apart");
  require(sum({1, big, 1, -big}, {1, 1, 1, 1}, 0) == 2, "even and odd products are summed apart");
  require(sum({big, -big}, {1, 1}, 1) == 1, "the products are summed before the start");
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) {
    fault(arguments[1]);
    return 0;
  }
  check_arithmetic();
  check_products();
  check_two_products();
  for (const int64_t gates : {1, 3, 4})
    for (const int64_t H : {1, 15, 16, 17, 33, 40}) check_backward(2, H, gates);
  check_states();
}
