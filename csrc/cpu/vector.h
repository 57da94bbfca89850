// Vectors of one instruction set: loads, stores, conversions, transposes and tanh.
//
// Included inside the namespace of an instruction set that defines VECTOR_BYTES, and where it has a
// fused multiply-add FUSED_FLOAT and FUSED_DOUBLE. Written with the
// vector extension of GCC and Clang, so that one text serves every width and every processor.

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
};

template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int64_t lanes = VECTOR_BYTES / sizeof(A);

typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));       // of a Vector<float>
typedef uint16_t HalfBits __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint64_t LongBits __attribute__((vector_size(VECTOR_BYTES)));   // of a Vector<double>

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
inline V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class V>
inline void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

// a b + c, rounded once where the processor can. Said outright, since compilers fuse a * b + c or not
// by what stands around it, and the same sum would have other bits in another tile.
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
#ifdef FUSED_FLOAT
  return FUSED_FLOAT(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
#ifdef FUSED_DOUBLE
  return FUSED_DOUBLE(a, b, c);
#else
  return a * b + c;
#endif
}

// x in every lane. Subtracting 0, unlike adding it, changes nothing.
template <class A>
inline Vector<A> broadcast(A x) {
  return x - Vector<A>{};
}

// Storage: how elements lie in memory, and the type they are computed in. `widen` and `narrow`
// convert between a vector of the one and a vector of the other; narrowing rounds to nearest even.

template <class A>
struct Plain {
  using Element = A;
  using Compute = A;
  using Stored = Vector<A>;
  static Vector<A> widen(Stored v) { return v; }
  static Stored narrow(Vector<A> v) { return v; }
};

struct BFloat16 {
  using Element = uint16_t;
  using Compute = float;
  using Stored = HalfBits;

  static Vector<float> widen(Stored v) {
    return bit_cast<Vector<float>>(__builtin_convertvector(v, Bits) << 16);
  }

  static Stored narrow(Vector<float> v) {
    const Bits bits = bit_cast<Bits>(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits quiet_nan = (bits >> 16) | 0x40;
    const Bits is_nan = (Bits)((bits & 0x7fffffff) > 0x7f800000);
    return __builtin_convertvector(is_nan ? quiet_nan : rounded, HalfBits);
  }
};

struct Float16 {
  using Element = uint16_t;
  using Compute = float;
  using Stored = HalfBits;

  static Vector<float> widen(Stored v) {
    const Bits half = __builtin_convertvector(v, Bits);
    const Bits magnitude = (half & 0x7fff) << 13;
    // Moving the exponent by a multiplication also makes subnormals right.
    const Bits finite = bit_cast<Bits>(bit_cast<Vector<float>>(magnitude) * 0x1p112f);
    const Bits is_special = (Bits)(magnitude >= 0x7c00u << 13);  // infinity or NaN
    const Bits special = magnitude | 0x7f800000;
    return bit_cast<Vector<float>>((is_special ? special : finite) | (half & 0x8000) << 16);
  }

  static Stored narrow(Vector<float> v) {
    const Bits bits = bit_cast<Bits>(v);
    const Bits magnitude = bits & 0x7fffffff;
    // Normal: move the exponent and round at bit 13; a carry into the exponent is right as it is.
    const Bits normal =
        (magnitude + ((uint32_t)(15 - 127) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal: adding 0.5 makes the adder round at 2^-24, half precision's smallest step.
    const Bits subnormal = bit_cast<Bits>(bit_cast<Vector<float>>(magnitude) + 0.5f) - 0x3f000000;
    const Bits is_subnormal = (Bits)(magnitude < 113u << 23);
    const Bits is_overflow = (Bits)(magnitude >= 143u << 23);
    const Bits is_nan = (Bits)(magnitude > 0x7f800000);
    Bits half = is_subnormal ? subnormal : normal;
    half = is_overflow ? Bits{} + 0x7c00 : half;
    half = is_nan ? Bits{} + 0x7e00 : half;
    return __builtin_convertvector(half | (bits >> 16 & 0x8000), HalfBits);
  }
};

// Calls f(j, load, store) for each vector of a row of n elements. The last, partial one is loaded
// and stored through a buffer, so that nothing outside the row is touched.
template <class S, class F>
inline void each_vector(int64_t n, F f) {
  using Stored = typename S::Stored;
  using Element = typename S::Element;
  constexpr int64_t L = lanes<typename S::Compute>;
  int64_t j = 0;
  for (; j + L <= n; j += L)
    f(
        j, [j](const Element* p) { return S::widen(load<Stored>(p + j)); },
        [j](Element* p, Stored v) { store(p + j, v); });
  if (j == n) return;
  const size_t bytes = (n - j) * sizeof(Element);
  f(
      j,
      [=](const Element* p) {
        Stored v = {};
        __builtin_memcpy(&v, p + j, bytes);
        return S::widen(v);
      },
      [=](Element* p, Stored v) { __builtin_memcpy(p + j, &v, bytes); });
}

// The shuffles of a transpose, each one instruction: a pair of vectors, a and b, becomes a low and a
// high one. `at` says which element, of a's and then of b's, is the i-th of these.

// Within each 16 bytes units of d elements by turns, from the halves of a and b.
template <class A, int64_t d, bool high>
struct Interleave {
  static constexpr int64_t at(int64_t i) {
    constexpr int64_t n = 16 / sizeof(A);
    const int64_t first = i - i % n + (high ? n / 2 : 0);
    return first + i % n / (2 * d) * d + i % d + (i / d % 2 ? lanes<A> : 0);
  }
};

// Units of d elements, 16 bytes or more: a's even ones beside b's even ones, and odd beside odd.
template <class A, int64_t d, bool high>
struct Exchange {
  static constexpr int64_t at(int64_t i) {
    return i & d ? lanes<A> + i - (high ? 0 : d) : i + (high ? d : 0);
  }
};

template <class A, class Which, int64_t... i>
inline Vector<A> shuffle(Vector<A> a, Vector<A> b, std::integer_sequence<int64_t, i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Which::at(i)...);
#else
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> Index
      __attribute__((vector_size(VECTOR_BYTES)));
  return __builtin_shuffle(a, b, Index{Which::at(i)...});
#endif
}

// Transposes a square of lanes x lanes elements, in log2(lanes) stages.
template <class A, int64_t d = 1>
inline void transpose(Vector<A>* v) {
  constexpr int64_t L = lanes<A>;
  if constexpr (d < L) {
    constexpr bool within = d * sizeof(A) < 16;
    using Low = std::conditional_t<within, Interleave<A, d, false>, Exchange<A, d, false>>;
    using High = std::conditional_t<within, Interleave<A, d, true>, Exchange<A, d, true>>;
    constexpr auto all = std::make_integer_sequence<int64_t, L>{};
#pragma GCC unroll 16
    for (int64_t i = 0; i < L; ++i) {
      if (i & d) continue;
      const Vector<A> a = v[i], b = v[i + d];
      v[i] = shuffle<A, Low>(a, b, all);
      v[i + d] = shuffle<A, High>(a, b, all);
    }
    transpose<A, 2 * d>(v);
  } else if constexpr (sizeof(A) == 4) {
    // Interleaving twice has left the second and the third of each four in each other's place.
#pragma GCC unroll 16
    for (int64_t i = 0; i < L; i += 4) std::swap(v[i + 1], v[i + 2]);
  }
}

// tanh x = e / (e + 2) with e = expm1(2|x|), and x's sign. With 2|x| = k ln 2 + r, |r| <= ln 2 / 2:
// e = 2^k p + (2^k - 1), where p is expm1(r)'s Taylor polynomial. Nothing cancels, so the relative
// error stays within a few units in the last place for all x; NaN passes through.

struct TanhFloat {
  using A = float;
  using Unsigned = Bits;
  static constexpr float limit = 9.02f;  // tanh rounds to 1 from here on
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float log2e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr uint32_t sign = 1u << 31;
  static constexpr int degree = 7;
};

struct TanhDouble {
  using A = double;
  using Unsigned = LongBits;
  static constexpr double limit = 19.1;
  static constexpr double magic = 0x1.8p52;
  static constexpr double log2e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr uint64_t sign = 1ull << 63;
  static constexpr int degree = 13;
};

// 1 / n!
constexpr double inverse_factorial(int n) { return n < 2 ? 1.0 : inverse_factorial(n - 1) / n; }

template <class C>
inline Vector<typename C::A> tanh_with(Vector<typename C::A> x) {
  using A = typename C::A;
  using V = Vector<A>;
  using U = typename C::Unsigned;
  const U sign = bit_cast<U>(x) & C::sign;
  V a = bit_cast<V>(bit_cast<U>(x) ^ sign);
  a = a > C::limit ? broadcast<A>(C::limit) : a;
  const V y = a + a;
  const V shifted = multiply_add(y, broadcast<A>(C::log2e), broadcast<A>(C::magic));
  const V k = shifted - C::magic;
  V r = multiply_add(k, broadcast<A>(-C::ln2_high), y);
  r = multiply_add(k, broadcast<A>(-C::ln2_low), r);
  V q = broadcast<A>(inverse_factorial(C::degree));
#pragma GCC unroll 16
  for (int n = C::degree - 1; n >= 2; --n)
    q = multiply_add(q, r, broadcast<A>(inverse_factorial(n)));
  const V p = multiply_add(r * r, q, r);
  // The shift leaves only k's bits of `shifted`.
  const V scale = bit_cast<V>((bit_cast<U>(shifted) << C::mantissa) +
                              ((decltype(C::sign))C::bias << C::mantissa));
  const V e = multiply_add(scale, p, scale - 1);
  const V magnitude = e / (e + 2);
  return bit_cast<V>(bit_cast<U>(magnitude) | sign);
}

inline Vector<float> tanh(Vector<float> x) { return tanh_with<TanhFloat>(x); }
inline Vector<double> tanh(Vector<double> x) { return tanh_with<TanhDouble>(x); }
