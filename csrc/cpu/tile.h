// The tile instructions of Intel AMX, by their own names. There are 8 tiles, of up to 16 rows of 64
// bytes, and they belong to a thread.
//
// Included inside the namespace of an instruction set. With FASTRNN_EMULATE_TILES defined, the
// instructions have the meaning that tests/emulators/amx gives them, on any processor.
//
// The compilers' own functions are not used: GCC's take the number of a tile as text, so that it
// cannot be a template argument, and GCC 12's _tile_loadconfig names only 8 of the bytes it reads,
// so that stores to the rest are removed.

constexpr int64_t tile_rows = 16, tile_row_bytes = 64;

// The rows of each tile, and their bytes; 0 for a tile that is not used.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#ifdef FASTRNN_EMULATE_TILES
using emulated_tiles::ldtilecfg;
using emulated_tiles::tdpbf16ps;
using emulated_tiles::tileloadd;
using emulated_tiles::tilerelease;
using emulated_tiles::tilestored;
using emulated_tiles::tilezero;
#else

// Sets the shapes of all tiles, and their contents to 0.
inline void ldtilecfg(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

// Returns the tiles to their initial state, in which the system does not save them.
inline void tilerelease() { asm volatile("tilerelease"); }

template <int tile>
inline void tilezero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}

// Rows are `stride` bytes apart in memory.
template <int tile>
inline void tileloadd(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
inline void tilestored(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
}

// z += a b for pairs of bfloat16, of which row i of b has those of rows 2 i and 2 i + 1 of a matrix.
template <int z, int a, int b>
inline void tdpbf16ps() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(z), "i"(a), "i"(b));
}
#endif
