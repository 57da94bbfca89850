// Runs calls of kernels: reads requests from stdin and writes answers to stdout. A request is a
// line of `name=value` words, followed by the bytes of all inputs. `inputs` and `outputs` list the
// tensors as NAME:BYTES, separated by commas. An answer is a line, "ok" or "error" with a reason;
// after "ok" follow the bytes of all outputs.
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

#include "kernels.h"

namespace fastrnn::cuda {
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
  void zero() { memset(data(), 0, bytes_); }
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

const Element& element_of(const Request& request) {
  for (const Element& element : elements) {
    if (request.text("kernel").ends_with(element.name)) return element;
  }
  throw std::runtime_error("no kernel is named " + request.text("kernel"));
}

// The plan of a request; threads, shared memory and tiles follow from the tiling.
Plan make_plan(const Request& request, const ParamsWithResets& params, Cell cell, Mode mode,
               Pass pass) {
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
      {"resident", &tiling.resident}, {"streamed", &tiling.streamed}, {"rows", &tiling.rows},
      {"layers", &tiling.layers}};
  for (const auto& [name, field] : fields) *field = int(request.number(name));
  const bool cluster = plan.strategy == Strategy::cluster;
  plan.threads = 32 * tiling.splits * (cluster ? tiling.m_tiles : 1);
  plan.shared = cluster ? cluster_shared_bytes(tiling, element_bytes(mode), pass, traits(cell))
                        : grid_shared_bytes(tiling, mode, pass, traits(cell));
  plan.tiles = params.G * ((params.B + tiling.rows - 1) / tiling.rows);
  plan.at_once = request.number("at_once");
  return plan;
}

// The tensors of a request by name.
class Tensors {
 public:
  explicit Tensors(const Request& request)
      : lead_(request.number("misaligned") ? element_bytes(element_of(request).mode) : 0) {
    const std::string& in_place = request.text("in_place");  // an output, or "-"
    each(request.text("inputs"), [&](const std::string& name, size_t bytes) {
      // The kernels' own tensors may be misaligned; lengths, offsets and resets are not.
      const bool index = name == "lengths" || name == "offsets" || name == "resets";
      Tensor& tensor = add(inputs_, name, bytes, index ? 0 : lead_);
      tensor.read();
      tensor.keep();
      if (in_place != "-" && inputs_.size() == 1) written_ = &tensor;
    });
    each(request.text("outputs"), [&](const std::string& name, size_t bytes) {
      if (name == in_place) {
        by_name_[name] = written_;
        results_.push_back(written_);
        return;
      }
      const bool sum = name.ends_with("_sum");  // in the accumulation dtype
      Tensor& tensor = add(outputs_, name, bytes, sum ? 0 : lead_);
      sum ? tensor.zero() : tensor.poison();
      results_.push_back(&tensor);
    });
  }
  // Null if the request has no such tensor.
  void* operator[](const char* name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second->data();
  }
  void check() const {
    for (const auto& tensor : inputs_) tensor->check(tensor.get() != written_);
    for (const auto& tensor : outputs_) tensor->check(false);
  }
  void write() const {
    for (const Tensor* tensor : results_) fwrite(tensor->data(), 1, tensor->bytes(), stdout);
  }

 private:
  using List = std::vector<std::unique_ptr<Tensor>>;
  template <class Function> static void each(const std::string& list, Function function) {
    for (size_t at = 0; at < list.size();) {
      const size_t colon = list.find(':', at), end = std::min(list.find(',', colon), list.size());
      function(list.substr(at, colon - at), strtoull(&list[colon + 1], nullptr, 10));
      at = end + 1;
    }
  }
  Tensor& add(List& list, const std::string& name, size_t bytes, size_t lead) {
    list.push_back(std::make_unique<Tensor>(bytes, lead));
    return *(by_name_[name] = list.back().get());
  }
  size_t lead_;
  List inputs_, outputs_;
  std::map<std::string, Tensor*> by_name_;
  std::vector<Tensor*> results_;
  Tensor* written_ = nullptr;  // the first input, if it is also an output
};

// Layer l of a stack: its tensors have the number of the layer in their names.
ProjectedForward later_layer(CellForward call, const Tensors& t, int l) {
  const auto of = [&](const char* name) { return t[(name + std::to_string(l)).c_str()]; };
  call.weight_hh[0] = of("weight_hh");
  call.bias_ih[0] = of("bias_ih"), call.bias_hh[0] = of("bias_hh");
  call.unit_param[0] = of("unit_param");
  call.h0 = of("h0"), call.c0 = of("c0"), call.reset_h = of("reset_h"),
  call.reset_c = of("reset_c");
  call.out = of("out"), call.h_n = of("h_n"), call.c_n = of("c_n");
  call.gates = of("gates"), call.inner = of("inner");
  return {call, {nullptr, {of("weight_ih")}, call.H}};
}

void serve(const Request& request) {
  const Element& element = element_of(request);
  const Cell cell = Cell(request.number("cell"));
  ParamsWithResets params{};
  params.T = request.number("T"), params.B = request.number("B");
  params.G = request.number("G"), params.H = request.number("H");
  params.reverse_from = request.number("reverse_from");
  params.activation = activation_of(cell);
  params.dtype = element.dtype;
  const Tensors t(request);
  params.lengths = static_cast<const int64_t*>(t["lengths"]);
  params.offsets = static_cast<const int64_t*>(t["offsets"]);
  params.resets = static_cast<const bool*>(t["resets"]);

  emulator::Device& device = emulator::device;
  device.seed = request.number("seed");
  device.processors = int(request.number("processors"));
  device.blocks_per_processor = int(request.number("blocks_per_processor"));
  device.running = int(request.number("running"));
  const bool forward = request.text("pass") == "forward";
  const Plan plan =
      make_plan(request, params, cell, element.mode, forward ? Pass::forward : Pass::backward);
  const std::string& kernel = request.text("kernel");
  // Groups from `heads` on belong to the second direction of a layer.
  const int64_t heads = request.number("heads"), hidden = heads * params.H;
  const GroupTensors groups{
      heads, params.B * hidden, hidden, {t["weight_hh"], t["weight_hh_reverse"]}};
  if (forward) {
    const Forward call{params,
                       {groups,
                        t["pre"],
                        {t["bias_ih"], t["bias_ih_reverse"]},
                        {t["bias_hh"], t["bias_hh_reverse"]},
                        t["h0"],
                        t["out"],
                        t["h_n"]}};
    const CellForward of_cell{
        call,         cell,         t["c0"],  {t["unit_param"], t["unit_param_reverse"]},
        t["reset_h"], t["reset_c"], t["c_n"], t["gates"],
        t["inner"]};
    if (t["input"]) {
      const int64_t I = request.number("I");
      LayersOf<ProjectedForward> layers{};
      layers.of[0] = {of_cell,
                      {t["input"], {t["weight_ih"], t["weight_ih_reverse"]}, I, params.B * I, I}};
      for (int l = 1; l < plan.tiling.layers; ++l) layers.of[l] = later_layer(of_cell, t, l);
      run(kernel.substr(kernel.find('.') + 1), layers, plan);
    } else if (traits(cell).saves) {
      run(kernel, of_cell, plan);
    } else {
      run(kernel, call, plan);
    }
  } else {
    const Backward call{
        params, {groups, t["grad_out"], t["grad_h_n"], t["out"], t["grad_pre"], t["grad_h0"]}};
    if (traits(cell).saves) {
      run(kernel,
          CellBackward{call,
                       cell,
                       t["grad_c_n"],
                       t["gates"],
                       t["inner"],
                       t["h0"],
                       t["c0"],
                       {t["unit_param"], t["unit_param_reverse"]},
                       t["reset_h"],
                       t["reset_c"],
                       t["grad_c0"],
                       t["grad_unit_param"],
                       t["reset_h_sum"],
                       t["reset_c_sum"]},
          plan);
    } else {
      run(kernel, call, plan);
    }
  }
  t.check();
  puts("ok");
  t.write();
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
