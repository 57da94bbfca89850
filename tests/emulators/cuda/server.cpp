// Runs calls of kernels: reads requests from stdin and writes answers to stdout. A request is a
// line of `name=value` words, followed by the bytes of all inputs. An answer is a line, "ok" or
// "error" with a reason; after "ok" follow the bytes of both results.
//
// Every tensor is an allocation of exactly its size, so that AddressSanitizer reports accesses
// beyond it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launchers.h"

// All launchers. Those that are not linked in are null.
// clang-format off
#define KERNELS                                                                             \
  KERNEL(cluster, Bfloat16) KERNEL(cluster, Float16) KERNEL(cluster, Tf32)                  \
  KERNEL(cluster, Float32) KERNEL(grid, Bfloat16) KERNEL(grid, Float16) KERNEL(grid, Tf32)  \
  KERNEL(grid, Float32) KERNEL(step, Bfloat16) KERNEL(step, Float16) KERNEL(step, Tf32)     \
  KERNEL(step, Float32) KERNEL(step, Float64)
// clang-format on

namespace fastrnn::cuda {

struct Bfloat16;
struct Float16;
struct Tf32;
struct Float32;
struct Float64;

#define WEAK template <> __attribute__((weak))
#define DECLARE_cluster(E, P) WEAK void launch_cluster<E>(const P&, const Plan&, Stream);
#define DECLARE_grid(E, P) WEAK void launch_grid<E>(const P&, const Plan&, void*, Stream);
#define DECLARE_step(E, P) WEAK void launch_step<E>(const P&, Stream);
#define KERNEL(strategy, E)                                      \
  DECLARE_##strategy(E, Forward) DECLARE_##strategy(E, Backward) \
      DECLARE_##strategy(E, ForwardWithoutResets) DECLARE_##strategy(E, BackwardWithoutResets)
KERNELS
#undef KERNEL
WEAK int64_t grid_workspace_bytes(const Forward&);
WEAK int64_t grid_workspace_bytes(const Backward&);
WEAK int64_t grid_workspace_bytes(const ForwardWithoutResets&);
WEAK int64_t grid_workspace_bytes(const BackwardWithoutResets&);

namespace {

class Request {
 public:
  // False at the end of the input.
  bool read() {
    values_.clear();
    std::string word;
    for (int c; (c = getchar()) != '\n';) {
      if (c == EOF) return false;
      if (c != ' ')
        word += char(c);
      else
        parse(word);
    }
    parse(word);
    return true;
  }
  const std::string& text(const char* name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) throw std::runtime_error(std::string("no ") + name + " given");
    return found->second;
  }
  int64_t number(const char* name) const { return strtoll(text(name).c_str(), nullptr, 10); }

 private:
  void parse(std::string& word) {
    const size_t at = word.find('=');
    if (at != std::string::npos) values_[word.substr(0, at)] = word.substr(at + 1);
    word.clear();
  }
  std::map<std::string, std::string> values_;
};

// Memory of exactly `bytes` bytes, `lead` bytes after a multiple of 256.
class Tensor {
 public:
  Tensor(size_t bytes, size_t lead) : bytes_(bytes), lead_(lead) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, lead + bytes) != 0) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    memset(memory_, guard, lead);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { free(memory_); }

  unsigned char* data() const { return memory_ + lead_; }
  size_t bytes() const { return bytes_; }

  void read() {
    if (bytes_ && fread(data(), 1, bytes_, stdin) != bytes_) exit(1);
  }
  // NaN in every dtype, but not the sentinel of the grid kernel.
  void poison() {
    for (size_t i = 0; i < bytes_; ++i) data()[i] = i % 2 ? 0x7f : 0xf8;
  }
  void keep() { kept_.assign(data(), data() + bytes_); }

  void check(bool input) const {
    for (size_t i = 0; i < lead_; ++i) {
      if (memory_[i] != guard) throw std::runtime_error("a write before the first element");
    }
    if (input && bytes_ && memcmp(kept_.data(), data(), bytes_) != 0) {
      throw std::runtime_error("an input was written to");
    }
  }

 private:
  static constexpr unsigned char guard = 0xa5;
  size_t bytes_, lead_;
  unsigned char* memory_;
  std::vector<unsigned char> kept_;
};

// Calls a launcher, whatever its signature.
template <class P> struct Call {
  const P& params;
  const Plan& plan;

  void operator()(void (*launcher)(const P&, const Plan&, Stream)) const {
    launcher(params, plan, &emulator::device);
  }
  void operator()(void (*launcher)(const P&, const Plan&, void*, Stream)) const {
    // Linked in with the kernels of one dtype only. For the others, an upper bound.
    const auto bytes = &grid_workspace_bytes<P>;
    const int64_t most = (params.T + 1) * params.B * params.G * (params.H * 4 + 16);
    Tensor workspace(bytes ? bytes(params) : most, 0);
    workspace.poison();
    launcher(params, plan, workspace.bytes() ? workspace.data() : nullptr, &emulator::device);
  }
  void operator()(void (*launcher)(const P&, Stream)) const { launcher(params, &emulator::device); }
};

template <class P> void launch(const std::string& kernel, const P& params, const Plan& plan) {
  const Call<P> call{params, plan};
#define KERNEL(strategy, E)                          \
  if (kernel == #strategy "." #E) {                  \
    auto* const launcher = &launch_##strategy<E, P>; \
    if (launcher) return call(launcher);             \
  }
  KERNELS
#undef KERNEL
  throw std::runtime_error("not compiled in: " + kernel);
}

template <class P> void run(const std::string& kernel, const P& params, const Plan& plan) {
  if (params.resets) return launch(kernel, params, plan);
  launch(kernel, without_resets(params), plan);
}

struct Element {  // by the suffix of a kernel's name
  const char* name;
  DType dtype;
  Mode mode;
};
constexpr Element elements[] = {{".Bfloat16", DType::bfloat16, Mode::half},
                                {".Float16", DType::float16, Mode::half},
                                {".Tf32", DType::float32, Mode::tf32},
                                {".Float32", DType::float32, Mode::float32},
                                {".Float64", DType::float64, Mode::float64}};

// The plan of a request; threads, shared memory and tiles follow from the tiling.
Plan make_plan(const Request& request, const ParamsWithResets& params, Mode mode, Pass pass) {
  Plan plan{};
  plan.mode = mode;
  const std::string& kernel = request.text("kernel");
  plan.strategy = kernel.starts_with("cluster") ? Strategy::cluster
                  : kernel.starts_with("grid")  ? Strategy::grid
                                                : Strategy::step;
  if (plan.strategy == Strategy::step) return plan;
  Tiling& tiling = plan.tiling;
  const std::pair<const char*, int*> fields[] = {
      {"blocks", &tiling.blocks},     {"m_tiles", &tiling.m_tiles},   {"splits", &tiling.splits},
      {"resident", &tiling.resident}, {"streamed", &tiling.streamed}, {"rows", &tiling.rows}};
  for (const auto& [name, field] : fields) *field = int(request.number(name));
  const bool cluster = plan.strategy == Strategy::cluster;
  plan.threads = 32 * tiling.splits * (cluster ? tiling.m_tiles : 1);
  plan.shared =
      cluster ? cluster_shared_bytes(tiling, element_bytes(mode), pass) : grid_shared_bytes(tiling);
  plan.tiles = params.G * ((params.B + tiling.rows - 1) / tiling.rows);
  plan.at_once = request.number("at_once");
  return plan;
}

// The tensors of a request, inputs first.
class Tensors {
 public:
  explicit Tensors(size_t lead) : lead_(lead) {}

  Tensor& input(size_t bytes, bool misaligned = true) {
    Tensor& tensor = add(inputs_, bytes, misaligned);
    tensor.read();
    return tensor;
  }
  Tensor& output(size_t bytes) {
    Tensor& tensor = add(outputs_, bytes, true);
    tensor.poison();
    return tensor;
  }
  void keep() {
    for (const auto& tensor : inputs_) tensor->keep();
  }
  // `written`: the input that is also an output.
  void check(const Tensor* written) const {
    for (const auto& tensor : inputs_) tensor->check(tensor.get() != written);
    for (const auto& tensor : outputs_) tensor->check(false);
  }

 private:
  using List = std::vector<std::unique_ptr<Tensor>>;
  Tensor& add(List& list, size_t bytes, bool misaligned) {
    list.push_back(std::make_unique<Tensor>(bytes, misaligned ? lead_ : 0));
    return *list.back();
  }
  size_t lead_;
  List inputs_, outputs_;
};

void write(const Tensor& tensor) { fwrite(tensor.data(), 1, tensor.bytes(), stdout); }

void serve(const Request& request) {
  const std::string& kernel = request.text("kernel");
  const Element* element_type = elements;
  while (!kernel.ends_with(element_type->name)) {
    if (++element_type == std::end(elements))
      throw std::runtime_error("no kernel is named " + kernel);
  }
  ParamsWithResets params{};
  params.T = request.number("T"), params.B = request.number("B");
  params.G = request.number("G"), params.H = request.number("H");
  params.reverse_from = request.number("reverse_from");
  params.activation = Activation(request.number("activation"));
  params.dtype = element_type->dtype;

  const size_t element = element_bytes(element_type->mode);
  const size_t data = element * request.number("N") * params.G * params.H;
  const size_t state = element * params.B * params.G * params.H;
  const size_t weights = element * params.G * params.H * params.H;
  const bool forward = request.text("pass") == "forward";
  const bool in_place = request.number("in_place");
  Tensors tensors(request.number("misaligned") ? element : 0);
  Tensor* inputs[4];
  const size_t forward_inputs[] = {data, weights, state, 0};
  const size_t backward_inputs[] = {data, state, data, weights};
  for (int i = 0; i < (forward ? 3 : 4); ++i) {
    inputs[i] = &tensors.input(forward ? forward_inputs[i] : backward_inputs[i]);
  }
  const auto integers = [&](const char* name, int64_t count) -> const int64_t* {
    if (!request.number(name)) return nullptr;
    return reinterpret_cast<const int64_t*>(tensors.input(8 * count, false).data());
  };
  params.lengths = integers("lengths", params.B);
  params.offsets = integers("offsets", params.T);
  if (request.number("resets")) {
    Tensor& resets = tensors.input(request.number("N"), false);
    params.resets = reinterpret_cast<const bool*>(resets.data());
  }
  tensors.keep();
  Tensor& result = in_place ? *inputs[0] : tensors.output(data);
  Tensor& last = tensors.output(state);

  emulator::Device& device = emulator::device;
  device.seed = request.number("seed");
  device.processors = int(request.number("processors"));
  device.blocks_per_processor = int(request.number("blocks_per_processor"));
  device.running = int(request.number("running"));
  const Plan plan =
      make_plan(request, params, element_type->mode, forward ? Pass::forward : Pass::backward);
  if (forward) {
    run(kernel,
        Forward{params, inputs[0]->data(), inputs[1]->data(), inputs[2]->data(), result.data(),
                last.data()},
        plan);
  } else {
    run(kernel,
        Backward{params, inputs[0]->data(), inputs[1]->data(), inputs[2]->data(), inputs[3]->data(),
                 result.data(), last.data()},
        plan);
  }
  tensors.check(in_place ? inputs[0] : nullptr);
  puts("ok");
  write(result);
  write(last);
}

}  // namespace
}  // namespace fastrnn::cuda

int main() {
  for (fastrnn::cuda::Request request; request.read();) {
    try {
      fastrnn::cuda::serve(request);
    } catch (const std::runtime_error& error) {
      printf("error %s\n", error.what());
    }
    fflush(stdout);
  }
}
