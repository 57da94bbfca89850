// Chooses plans by a cost model of a call, in cycles. Its constants are latencies and bandwidths
// that benchmarks/calibrate.cu measured on an H200. Constants marked "fitted" cannot be measured in
// isolation: they are fitted to the times of whole kernels. The model only ranks tilings.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "params.h"

namespace fastrnn::cuda {
namespace {

// An exchange of the state between the blocks that share W_hh: latency, and bytes per cycle into a
// block. For one block a later measurement gave 46. The constant stays 87, with which the kernels
// were verified on hardware: 46 would choose some tilings that have never run there.
constexpr double block_exchange = 87, cluster_exchange = 192, grid_exchange = 894;
constexpr double cluster_bandwidth = 24.7, grid_bandwidth = 72;
constexpr double cluster_bandwidth_16 = 14.1;  // in a cluster of 16 blocks

// The serial instructions of one warp in a step, in addition to the exchange and the products.
// Fitted, as are the factors by which products cost more in grid, which loads operands from L2.
constexpr double cluster_step = 1200, grid_step = 1400;
constexpr double grid_products = 3, grid_float32_products = 1.7;
constexpr double product_cycles = 1.5;    // per multiprocessor, for one k-step of one n-tile
constexpr double product_latency = 24;    // between dependent products
constexpr int chains = 4;                 // independent accumulators of a warp
constexpr double shared_bandwidth = 128;  // bytes per cycle
constexpr double reduction = 87;          // a barrier and a round trip through shared memory
constexpr double launch_cycles = 8000;    // between launches of step; fitted
constexpr double step_products = 10;      // factor by which products cost more in step; fitted
constexpr double stream_bandwidth = 36;   // bytes per cycle and multiprocessor from L2

// Not measured: what a step of rows takes beyond its instructions, of which a warp issues one per cycle
// on one of four schedulers.
constexpr double rows_step = 150;
constexpr double schedulers = 4;

// Batch rows of a tile. Fewer than 8, the N of mma, need as many products but a smaller exchange.
constexpr int row_choices[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The time of a product in units of one mma. A float32 product is the sum of three, and splits both
// factors for each of them. Fitted.
constexpr double float32_products = 7;
double products(Mode mode) { return mode == Mode::float32 ? float32_products : 1; }

// The amount of work of a call. The width of the state that blocks exchange (dz in backward) is the
// depth of the product.
struct Work {
  int64_t tiles_of_units, width, k_steps;
  int gate_tiles;  // of W_hh, for each tile of units
  explicit Work(const Sizes& sizes)
      : tiles_of_units(ceil_div(sizes.H, 16)),
        width(depth(sizes)),
        k_steps(ceil_div(width * element_bytes(sizes.mode), 32)),
        gate_tiles(cuda::gate_tiles(sizes.pass, traits(sizes.cell))) {}

 private:
  static int64_t depth(const Sizes& sizes) {
    const int64_t gates = traits(sizes.cell).gates;
    if (sizes.pass == Pass::forward || gates == 1) return sizes.H;
    return gates * padded_units(sizes.H, element_bytes(sizes.mode));
  }
};

// Cycles of a block's products in a step, and of the reduction over splits.
double product_time(const Sizes& sizes, const Tiling& tiling, int warps, int tiles_of_a_warp,
                    bool state_is_shared) {
  const int n = tiling.n_tiles(), depth = tiling.resident + tiling.streamed;
  const double count = double(warps) * tiles_of_a_warp * depth * n * products(sizes.mode);
  const double state = state_is_shared ? double(warps) * depth * n * 256 : 0;
  const double weights = double(warps) * tiles_of_a_warp * tiling.streamed * 512;
  const int independent = std::max(chains, n * tiles_of_a_warp);
  const double chain =
      std::ceil(double(depth) * n * tiles_of_a_warp * products(sizes.mode) / independent) *
      product_latency;
  double cycles = std::max({count * product_cycles, (state + weights) / shared_bandwidth, chain});
  if (tiling.splits > 1) {
    const int tiles = tiling.m_tiles * gate_tiles(sizes.pass, traits(sizes.cell));
    const double sums = double(tiling.splits - 1) * tiles * n * 512;
    cycles += reduction + 2 * sums / shared_bandwidth;
  }
  return cycles;
}

// Cycles of a call: a launch, loading W_hh from L2, and the steps of all tiles, of which `at_once`
// run concurrently. `waits`: the steps after which the last layer of a stack begins.
double call_time(const Sizes& sizes, const Plan& plan, double step, int64_t waits = 0) {
  const Tiling& tiling = plan.tiling;
  const int fragments =
      Work(sizes).gate_tiles * (plan.strategy == Strategy::grid ? tiling.m_tiles : 1);
  const double weights =
      double(plan.threads / 32) * fragments * (tiling.resident + tiling.streamed) * 512;
  const int64_t turns = ceil_div(std::max<int64_t>(plan.tiles, 1), plan.at_once);
  return launch_cycles + turns * (weights / stream_bandwidth + (sizes.T + waits) * step);
}

void keep_best(Plan& best, bool& found, const Plan& plan) {
  if (found && plan.cycles >= best.cycles) return;
  best = plan;
  found = true;
}

// The layers of a stack in one launch, or a single layer. With `I` the kernel computes the input
// projection: in forward the first layer has I input features, the others H.
struct Stacked {
  int64_t layers = 1, I = 0;

  int64_t k_steps(const Sizes& sizes, const Work& work) const {
    if (I == 0) return 0;
    const int64_t widest = sizes.pass == Pass::backward ? work.width
                           : layers > 1                 ? std::max(I, sizes.H)
                                                        : I;
    return input_k_steps(widest, element_bytes(sizes.mode));
  }
};

// Cycles of the input projection in a step. Each tile of units has one warp that multiplies it, with
// W_ih from shared memory.
double projection_time(const Sizes& sizes, const Tiling& tiling, const Work& work,
                       int64_t k_steps) {
  const double count = double(tiling.m_tiles) * work.gate_tiles * k_steps;
  const double chain = double(k_steps) * products(sizes.mode) * product_latency;
  return std::max({count * products(sizes.mode) * product_cycles,
                   512 * (count + k_steps) / shared_bandwidth, chain});
}

Option best_cluster(const Device& device, const Sizes& sizes, const Stacked& stacked = {}) {
  if (sizes.mode == Mode::float64) return {{}, "tensor cores have no float64 tile of this shape"};
  if (device.major < 9) return {{}, "clusters need compute capability 9.0"};
  const Work work(sizes);
  const int bytes = element_bytes(sizes.mode);
  const int64_t x_k_steps = stacked.k_steps(sizes, work);
  CellTraits cell = traits(sizes.cell);
  if (x_k_steps > 0) cell.saves = true;  // see projects in pass_traits.h
  Plan best{};
  bool found = false;
  for (int blocks = 1; blocks <= 16; blocks *= 2) {
    // The other blocks would wait for blocks without units.
    if (blocks > 1 && blocks > work.tiles_of_units) break;
    // Clusters of a size between powers of two are as many as of the next power, or more. Sizes between
    // 8 and 16 are not tried.
    const int64_t cluster = blocks * stacked.layers;
    int i = 0;
    while (1 << i < cluster) ++i;
    if (i > 4 || (i == 4 && cluster < 16) || device.clusters[i] == 0) continue;
    const int64_t m_tiles = ceil_div(work.tiles_of_units, blocks);
    for (const int splits : {1, 2, 4, 8}) {
      const int64_t warps = m_tiles * splits, depth = 2 * ceil_div(work.k_steps, 2 * splits);
      if (warps > 16) break;
      for (const int resident : {32, 16, 8, 4}) {  // among equals, the most in registers
        if (resident > 4 && resident > depth) continue;
        for (const int rows : row_choices) {
          const Tiling tiling{blocks,
                              int(m_tiles),
                              splits,
                              resident,
                              int(std::max<int64_t>(depth - resident, 0)),
                              rows,
                              int(stacked.layers)};
          const ClusterLayout layout(tiling, bytes, sizes.pass, cell, int(x_k_steps));
          if (!cluster_fits(sizes.mode, tiling, sizes.pass, cell, x_k_steps > 0)) continue;
          if (layout.end > device.shared_bytes) continue;
          const int64_t tiles = sizes.G * ceil_div(sizes.B, rows);
          const double bandwidth = blocks == 16 ? cluster_bandwidth_16 : cluster_bandwidth;
          double exchange = blocks == 1
                                ? block_exchange
                                : cluster_exchange + double(rows) * work.width * bytes / bandwidth;
          // Meanwhile W_ih x_t is computed. A layer also waits for the one before it.
          if (x_k_steps > 0)
            exchange = std::max(exchange, projection_time(sizes, tiling, work, x_k_steps));
          const double step = exchange +
                              product_time(sizes, tiling, int(warps), work.gate_tiles, true) +
                              cluster_step;
          const int64_t at_once = device.clusters[i];
          Plan plan{Strategy::cluster, sizes.mode, tiling, int(warps) * 32,
                    layout.end,        tiles,      at_once};
          plan.projects = x_k_steps > 0;
          plan.cycles = call_time(sizes, plan, step, stacked.layers - 1);
          keep_best(best, found, plan);
        }
      }
    }
  }
  if (found) return {best, ""};
  return {{}, "W_hh does not fit into the registers and shared memory of the largest cluster"};
}

Option best_grid(const Device& device, const Sizes& sizes) {
  if (sizes.mode == Mode::float64) return {{}, "tensor cores have no float64 tile of this shape"};
  if (device.major < 8) return {{}, "needs compute capability 8.0"};
  if (!device.cooperative) return {{}, "the device has no cooperative launch"};
  const Work work(sizes);
  const int bytes = element_bytes(sizes.mode);
  const double worse = sizes.mode == Mode::float32 ? grid_float32_products : grid_products;
  Plan best{};
  bool found = false;
  for (const int m_tiles : {1, 2}) {
    const int64_t blocks = ceil_div(work.tiles_of_units, m_tiles);
    if (blocks > device.processors) continue;  // all run at once, one per multiprocessor
    for (const int splits : {4, 8, 16}) {
      const int64_t depth = 2 * ceil_div(work.k_steps, 2 * splits);
      for (const int resident : {32, 16, 8, 4}) {  // among equals, the most in registers
        if (resident > 4 && resident > depth) continue;
        for (const int rows : row_choices) {
          const Tiling tiling{
              int(blocks), m_tiles, splits, resident, int(std::max<int64_t>(depth - resident, 0)),
              rows};
          const int64_t shared =
              grid_shared_bytes(tiling, sizes.mode, sizes.pass, traits(sizes.cell));
          if (!grid_fits(sizes.mode, tiling, sizes.pass, traits(sizes.cell))) continue;
          if (shared > device.shared_bytes) continue;
          const int64_t tiles = sizes.G * ceil_div(sizes.B, rows);
          const int64_t at_once = device.processors / blocks;
          const double exchange =
              grid_exchange + double(rows) * work.width * bytes / grid_bandwidth;
          const double products =
              product_time(sizes, tiling, splits, m_tiles * work.gate_tiles, false);
          const double step = exchange + worse * products + grid_step;
          Plan plan{Strategy::grid, sizes.mode, tiling, splits * 32, shared, tiles, at_once};
          plan.cycles = launch_cycles + call_time(sizes, plan, step);  // the first fills memory
          keep_best(best, found, plan);
        }
      }
    }
  }
  if (found) return {best, ""};
  return {{}, "W_hh does not fit into the registers and shared memory of the whole device"};
}

Option best_step(const Device& device, const Sizes& sizes) {
  const double bytes = element_bytes(sizes.mode);
  const double weights = bytes * sizes.G * traits(sizes.cell).gates * sizes.H * sizes.H;
  const double streamed = weights / (stream_bandwidth * device.processors);
  const double flops = double(ceil_div(sizes.B, 8)) * weights / 512;
  const double arithmetic = flops * product_cycles * products(sizes.mode) / device.processors;
  Plan plan{};
  plan.strategy = Strategy::step;
  plan.mode = sizes.mode;
  plan.tiles = sizes.G * ceil_div(sizes.B, 8);
  plan.at_once = plan.tiles;
  const int64_t launches = sizes.T + (sizes.pass == Pass::backward);
  plan.cycles = launches * (launch_cycles + std::max(streamed, step_products * arithmetic));
  return {plan, ""};
}

std::string kibibytes(int64_t bytes) { return std::to_string(bytes >> 10) + " KiB"; }

}  // namespace

const char* name(Strategy strategy) {
  switch (strategy) {
    case Strategy::cluster: return "cluster";
    case Strategy::grid: return "grid";
    case Strategy::rows: return "rows";
    default: return "step";
  }
}

Option best(Strategy strategy, const Device& device, const Sizes& sizes) {
  switch (strategy) {
    case Strategy::cluster: return best_cluster(device, sizes);
    case Strategy::grid: return best_grid(device, sizes);
    default: return best_step(device, sizes);
  }
}

Plan make_plan(const Device& device, const Sizes& sizes) {
  Plan chosen = best_step(device, sizes).plan;
  for (const Strategy strategy : {Strategy::grid, Strategy::cluster}) {
    const Option option = best(strategy, device, sizes);
    if (option.unsupported_reason.empty() && option.plan.cycles <= chosen.cycles)
      chosen = option.plan;
  }
  return chosen;
}

Option best_stack(const Device& device, const Sizes& sizes, int64_t layers, int64_t I) {
  const CellTraits cell = traits(sizes.cell);
  const bool has_kernel = cell.gates > 1 || !cell.saves;
  if (!has_kernel || I == 0 || (layers > 1 && sizes.G > 1))
    return {{}, "no kernel computes the products with W_ih of such layers"};
  return best_cluster(device, sizes, {layers, I});
}

Option best_rows(const Device& device, const Sizes& sizes, int64_t I) {
  if (sizes.mode == Mode::float64) return {{}, "has no float64"};
  if (device.major < 8) return {{}, "needs compute capability 8.0"};
  const CellTraits cell = traits(sizes.cell);
  const int64_t K = cell.gates, depth = rows_depth(sizes.H), threads = rows_threads(sizes.H);
  if (depth == 0 || K * depth > rows_weights)
    return {{}, "W_hh does not fit into the registers of a block"};
  const RowsLayout layout(sizes.pass, cell, sizes.H, I, element_bytes(sizes.mode));
  if (layout.chunks > threads || layout.end > device.shared_bytes)
    return {{}, "the layer has too many input features"};
  Plan plan{Strategy::rows, sizes.mode, {}, int(threads), layout.end, sizes.B * sizes.G, 1};
  // A multiply-add for each weight, and a load for four of them; the rest of a step.
  const double instructions =
      1.25 * double(K * depth) + 8.0 * double(K * layout.x_chunks) + 60 + 20.0 * double(K);
  const double registers = double(K * depth) + 64;
  const int64_t resident = std::max<int64_t>(
      1, std::min({int64_t(65536 / (double(threads) * registers)), 2048 / threads,
                   int64_t{device.shared_bytes} / std::max<int64_t>(1, layout.end)}));
  const int64_t shared_by =
      std::clamp<int64_t>(ceil_div(plan.tiles, device.processors), 1, resident);
  plan.at_once = shared_by * device.processors;
  const double issued = instructions * double(shared_by * threads) / 32 / schedulers;
  const double weights = 4.0 * double(K * depth * threads * shared_by);
  const int64_t turns = ceil_div(std::max<int64_t>(plan.tiles, 1), plan.at_once);
  plan.cycles = launch_cycles + double(turns) * (weights / stream_bandwidth +
                                                 double(sizes.T) * (rows_step + issued));
  plan.projects = I > 0;
  return {plan, ""};
}

std::vector<Plan> stack_plans(const Device& device, const Sizes& sizes, int64_t layers,
                              int64_t input, int64_t hidden) {
  // Of a launch for each layer: with a product before it or, in forward, without.
  const auto of_layer = [&, plan = make_plan(device, sizes)](int64_t I) {
    std::vector<Option> options{{plan, ""}, best_rows(device, sizes, 0)};
    for (Option& option : options) option.plan.cycles += launch_cycles;
    if (sizes.pass == Pass::forward && I > 0) {
      options.push_back(best_rows(device, sizes, I));
      options.push_back(best_stack(device, sizes, 1, I));
    }
    Plan best = options[0].plan;
    for (const Option& option : options) {
      const bool serves = option.unsupported_reason.empty();
      if (serves && option.plan.cycles < best.cycles) best = option.plan;
    }
    return best;
  };
  const Plan first = of_layer(input), later = of_layer(hidden);
  std::vector<Plan> plans{first};
  plans.resize(layers, later);
  for (int64_t l = 0; l < layers; l += plans[l].tiling.layers) {
    double cycles = plans[l].cycles, most_saved = 0;
    for (int64_t n = 2; n <= std::min<int64_t>(layers - l, most_stacked); ++n) {
      cycles += later.cycles;
      const Option stack = best_stack(device, sizes, n, l == 0 ? input : hidden);
      const double saved = cycles - stack.plan.cycles;
      if (!stack.unsupported_reason.empty() || saved <= most_saved) continue;
      most_saved = saved;
      plans[l] = stack.plan;
    }
  }
  return plans;
}

std::string describe(const Plan& plan) {
  if (plan.strategy == Strategy::step) return "a launch for every step; W_hh is read from L2";
  if (plan.strategy == Strategy::rows)
    return "a block for each batch row and group; W_hh in registers";
  const Tiling& t = plan.tiling;
  const bool cluster = plan.strategy == Strategy::cluster;
  const int64_t fragments = cluster ? 1 : t.m_tiles, warps = plan.threads / 32;
  const int64_t in_registers = warps * fragments * t.resident * 512,
                in_shared = warps * fragments * t.streamed * 512;
  std::string text = t.layers > 1 ? std::to_string(t.layers) + " layers, each in " : "";
  text += t.blocks == 1 ? "one block" : std::to_string(t.blocks) + " blocks";
  text += cluster && t.blocks > 1 ? " in a cluster" : "";
  text += ", each " + kibibytes(in_registers) + " of W_hh in registers";
  if (in_shared > 0) text += " and " + kibibytes(in_shared) + " in shared memory";
  text += "; " + std::to_string(t.rows) + (t.rows == 1 ? " batch row" : " batch rows") +
          " a tile, " + std::to_string(plan.tiles) + (plan.tiles == 1 ? " tile" : " tiles") + ", " +
          std::to_string(plan.at_once) + " at once";
  return text;
}

}  // namespace fastrnn::cuda
