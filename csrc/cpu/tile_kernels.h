// The entry points of an instruction set with tile instructions: bfloat16, and float32 whose
// products may be those of bfloat16, by its own kernels. The others are those of another
// instruction set, so that nothing is compiled twice.
//
// Included inside the namespace of an instruction set, after all other headers.

#ifdef FASTRNN_EMULATE_TILES
// The tests of the emulated tiles use no other products.
template <class P>
[[noreturn]] inline void without_tiles(const P&, const Threads&) {
  throw std::runtime_error("fastrnn: the emulated tiles run only bfloat16");
}
constexpr KernelTable kernels_without_tiles = {&without_tiles<CellForward>,
                                               &without_tiles<CellBackward>,
                                               &without_tiles<LinearParams>, &outer};
#else
const KernelTable& kernels_without_tiles = KERNELS_WITHOUT_TILES;
#endif

inline void tile_forward(const CellForward& p, const Threads& threads) {
  if (p.dtype == DType::float32 && p.bfloat16_products)
    return dispatch_cell<ForwardPass, MediumFloat>(p, threads);
  if (p.dtype != DType::bfloat16) return kernels_without_tiles.forward(p, threads);
  dispatch_cell<ForwardPass, BFloat16>(p, threads);
}

inline void tile_backward(const CellBackward& p, const Threads& threads) {
  if (p.dtype == DType::float32 && p.bfloat16_products)
    return dispatch_cell<BackwardPass, MediumFloat>(p, threads);
  if (p.dtype != DType::bfloat16) return kernels_without_tiles.backward(p, threads);
  dispatch_cell<BackwardPass, BFloat16>(p, threads);
}

inline void tile_linear(const LinearParams& p, const Threads& threads) {
  if (p.dtype == DType::float32 && p.bfloat16_products) return linear_of<MediumFloat>(p, threads);
  if (p.dtype != DType::bfloat16) return kernels_without_tiles.linear(p, threads);
  linear_of<BFloat16>(p, threads);
}

// Sums of few products, which tiles would not make faster.
inline void tile_outer(const OuterParams& p) {
  if (p.dtype != DType::bfloat16) return kernels_without_tiles.outer(p);
  outer_with<BFloat16>(p);
}

extern const KernelTable kernels = {&tile_forward, &tile_backward, &tile_linear, &tile_outer};
