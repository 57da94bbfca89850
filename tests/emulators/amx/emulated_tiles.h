// The meaning of the tile instructions of Intel AMX on any CPU, see csrc/cpu/tile.h.
//
// Operations and checks follow Intel's Software Developer's Manual, volume 2. An instruction that
// would fault ends the program with a message.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated_tiles {

constexpr int tile_count = 8, max_rows = 16, max_row_bytes = 64;

struct Tile {
  int rows, row_bytes;  // 0 if it is not used
  alignas(64) unsigned char bytes[max_rows][max_row_bytes];
};

struct Tiles {
  bool configured = false;
  Tile tiles[tile_count];
};

inline Tiles& of_thread() {
  thread_local Tiles tiles;
  return tiles;
}

[[noreturn]] inline void fail(const char* instruction, const char* reason) {
  std::fprintf(stderr, "emulated tiles: %s: %s\n", instruction, reason);
  std::abort();
}

inline void check(bool holds, const char* instruction, const char* reason) {
  if (!holds) fail(instruction, reason);
}

inline Tile& used(int tile, const char* instruction) {
  Tiles& all = of_thread();
  check(all.configured, instruction, "the tiles are not configured");
  check(all.tiles[tile].rows > 0, instruction, "the tile is not configured");
  return all.tiles[tile];
}

// 64 bytes: the palette, the first row, 14 reserved; 16 lengths of rows; 16 numbers of rows.
template <class Config>
void ldtilecfg(const Config& config) {
  static_assert(sizeof(Config) == 64);
  unsigned char given[64];
  std::memcpy(given, &config, sizeof given);
  check(given[0] == 1, "ldtilecfg", "the palette is not 1");
  for (int i = 1; i < 16; ++i) check(given[i] == 0, "ldtilecfg", "a reserved byte is not 0");
  Tiles& all = of_thread();
  for (int i = 0; i < 16; ++i) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, given + 16 + 2 * i, sizeof row_bytes);
    const int rows = given[48 + i];
    check(rows <= max_rows && row_bytes <= max_row_bytes, "ldtilecfg", "the tile is too large");
    check((rows == 0) == (row_bytes == 0), "ldtilecfg", "rows or their length are 0, not both");
    check(i < tile_count || rows == 0, "ldtilecfg", "there is no such tile");
    if (i < tile_count) all.tiles[i] = {rows, row_bytes, {}};
  }
  all.configured = true;
}

inline void tilerelease() { of_thread() = {}; }

template <int tile>
void tilezero() {
  std::memset(used(tile, "tilezero").bytes, 0, sizeof(Tile::bytes));
}

template <int tile>
void tileloadd(const void* from, int64_t stride) {
  Tile& t = used(tile, "tileloadd");
  std::memset(t.bytes, 0, sizeof t.bytes);
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(t.bytes[r], static_cast<const char*>(from) + r * stride, t.row_bytes);
}

template <int tile>
void tilestored(void* to, int64_t stride) {
  const Tile& t = used(tile, "tilestored");
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, t.bytes[r], t.row_bytes);
}

inline float without_denormals(float x) {
  return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x;
}

inline float read_float(const unsigned char* row, int i) {
  float x;
  std::memcpy(&x, row + 4 * i, sizeof x);
  return without_denormals(x);
}

inline float read_bfloat16(const unsigned char* row, int i) {
  const unsigned char bytes[4] = {0, 0, row[2 * i], row[2 * i + 1]};
  return read_float(bytes, 0);
}

// a b + c, rounded once. A product of two bfloat16 is exact unless it exceeds the normal numbers.
inline float fused(float a, float b, float c) {
  const float product = a * b;
  const bool is_exact = std::fabs(product) >= FLT_MIN && std::fabs(product) <= FLT_MAX;
  return without_denormals(is_exact ? product + c : std::fma(a, b, c));
}

// Denormal numbers, given or computed, are 0. The products of even and of odd k are summed apart.
template <int z_tile, int a_tile, int b_tile>
void tdpbf16ps() {
  static_assert(z_tile != a_tile && z_tile != b_tile && a_tile != b_tile, "tiles must differ");
  Tile& z = used(z_tile, "tdpbf16ps");
  const Tile &a = used(a_tile, "tdpbf16ps"), &b = used(b_tile, "tdpbf16ps");
  check(z.rows == a.rows, "tdpbf16ps", "z and a differ in rows");
  check(z.row_bytes == b.row_bytes, "tdpbf16ps", "z and b differ in columns");
  check(a.row_bytes == 4 * b.rows, "tdpbf16ps", "a has not as many pairs as b has rows");
  const int pairs = b.rows, columns = z.row_bytes / 4;
  float factors[max_rows][2 * max_rows];  // of b, as floats
  for (int k = 0; k < pairs; ++k)
    for (int i = 0; i < 2 * columns; ++i) factors[k][i] = read_bfloat16(b.bytes[k], i);
  for (int m = 0; m < z.rows; ++m) {
    float sums[2 * max_rows] = {};  // of each column, its even and its odd products
    for (int k = 0; k < pairs; ++k) {
      const float pair[2] = {read_bfloat16(a.bytes[m], 2 * k),
                             read_bfloat16(a.bytes[m], 2 * k + 1)};
      for (int i = 0; i < 2 * columns; ++i) sums[i] = fused(pair[i % 2], factors[k][i], sums[i]);
    }
    for (int n = 0; n < columns; ++n) {
      const float both = without_denormals(sums[2 * n] + sums[2 * n + 1]);
      const float result = without_denormals(read_float(z.bytes[m], n) + both);
      std::memcpy(z.bytes[m] + 4 * n, &result, sizeof result);
    }
  }
}

}  // namespace emulated_tiles
