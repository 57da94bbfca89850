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
                  : kernel.starts_with("rows")  ? Strategy::rows
                                                : Strategy::step;
  if (plan.strategy == Strategy::step || plan.strategy == Strategy::rows) return plan;
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
      const bool sum = name.find("_sum") != name.npos;  // in the accumulation dtype
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

// The tensors of a layer, in a stack with its number at the end of their names.
class LayerTensors {
 public:
  LayerTensors(const Tensors& tensors, int layer)
      : tensors_(tensors), number_(layer == 0 ? "" : std::to_string(layer)) {}
  void* operator[](const std::string& name) const { return tensors_[(name + number_).c_str()]; }

 private:
  const Tensors& tensors_;
  const std::string number_;
};

// Groups from `heads` on belong to the second direction of a layer.
GroupTensors groups(const ParamsWithResets& params, int64_t heads, const LayerTensors& t) {
  const int64_t hidden = heads * params.H;
  return {heads, params.B * hidden, hidden, {t["weight_hh"], t["weight_hh_reverse"]}};
}
CellForward forward_call(const ParamsWithResets& params, int64_t heads, Cell cell,
                         const LayerTensors& t) {
  const Forward call{params,
                     {groups(params, heads, t),
                      t["pre"],
                      {t["bias_ih"], t["bias_ih_reverse"]},
                      {t["bias_hh"], t["bias_hh_reverse"]},
                      t["h0"],
                      t["out"],
                      t["h_n"]}};
  return {call,         cell,         t["c0"],  {t["unit_param"], t["unit_param_reverse"]},
          t["reset_h"], t["reset_c"], t["c_n"], t["gates"],
          t["inner"]};
}
CellBackward backward_call(const ParamsWithResets& params, int64_t heads, Cell cell,
                           const LayerTensors& t) {
  const Backward call{params,
                      {groups(params, heads, t), t["grad_out"], t["grad_h_n"], t["out"],
                       t["grad_pre"], t["grad_h0"]}};
  return {call,
          cell,
          t["grad_c_n"],
          traits(cell).saves ? t["gates"] : t["out"],
          t["inner"],
          t["h0"],
          t["c0"],
          {t["unit_param"], t["unit_param_reverse"]},
          t["reset_h"],
          t["reset_c"],
          t["grad_c0"],
          t["grad_unit_param"],
          t["reset_h_sum"],
          t["reset_c_sum"]};
}

// Runs a kernel of one call; `Of` is that of nn.RNN's cells.
template <class Of, class Call>
void run_one(const std::string& kernel, const Call& call, const Plan& plan) {
  if (traits(call.cell).saves) return run(kernel, call, plan);
  run(kernel, static_cast<const Of&>(call), plan);
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
  const std::string element_name = kernel.substr(kernel.find('.') + 1);
  const int64_t heads = request.number("heads"), I = request.number("I");
  LayersOf<ProjectedForward> forwards{};
  LayersOf<ProjectedBackward> backwards{};
  for (int l = 0; l < plan.tiling.layers; ++l) {
    const LayerTensors of(t, l);
    if (forward) {
      forwards.of[l] = {forward_call(params, heads, cell, of),
                        {of["input"],
                         {of["weight_ih"], of["weight_ih_reverse"]},
                         l == 0 ? I : params.H,
                         l == 0 ? params.B * I : 0,
                         l == 0 ? I : 0}};
    } else {
      backwards.of[l] = {backward_call(params, heads, cell, of), of["weight_ih_above"]};
    }
  }
  if (plan.strategy == Strategy::rows) {
    if (forward) {
      run_rows<ProjectedForwardOf>(element_name, forwards.of[0]);
    } else {
      run_rows<CellBackwardOf>(element_name, static_cast<const CellBackward&>(backwards.of[0]));
    }
  } else if (forward && t["input"]) {
    run(element_name, forwards, plan);
  } else if (forward) {
    run_one<Forward>(kernel, CellForward(forwards.of[0]), plan);
  } else if (plan.tiling.layers > 1) {
    run(element_name, backwards, plan);
  } else {
    run_one<Backward>(kernel, CellBackward(backwards.of[0]), plan);
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
