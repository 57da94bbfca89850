// Vectors of one instruction set: loads, stores, conversions, transposes, tanh and
// the sigmoid.
//
// Included inside the namespace of an instruction set that defines VECTOR_BYTES. If the instruction
// set has a fused multiply-add, it also defines FUSED_FLOAT and FUSED_DOUBLE. The code uses the
// vector extension of GCC and Clang, so that it supports every vector width and every processor.

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

typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));  // of a Vector<float>
typedef int32_t SignedBits __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t LongBits __attribute__((vector_size(VECTOR_BYTES)));  // of a Vector<double>
typedef int64_t SignedLongBits __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(VECTOR_BYTES / 2)));

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

// a b + c, rounded once if the processor supports it. The call is explicit because whether a
// compiler fuses a * b + c depends on the surrounding code: tiles could differ.
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

// x in every lane. Subtracting 0 preserves -0, while adding 0 does not.
template <class A>
inline Vector<A> broadcast(A x) {
  return x - Vector<A>{};
}

// Storage types: the format of elements in memory, and the type of computation. `widen` and
// `narrow` convert between vectors of the two; narrowing rounds to nearest even.

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
    const Bits normal = magnitude + (112u << 23);  // adjusts the exponent
    // Subnormal: with the exponent of 2^-14 and its implicit leading bit, which is subtracted. No
    // operand is a denormal float, which `FlushDenormals` would set to 0.
    const Bits subnormal = bit_cast<Bits>(bit_cast<Vector<float>>(normal + (1u << 23)) - 0x1p-14f);
    const Bits is_subnormal = (Bits)(magnitude < 1u << 23);
    const Bits is_special = (Bits)(magnitude >= 0x7c00u << 13);  // infinity or NaN
    Bits wide = is_subnormal ? subnormal : normal;
    wide = is_special ? magnitude | 0x7f800000 : wide;
    return bit_cast<Vector<float>>(wide | (half & 0x8000) << 16);
  }

  static Stored narrow(Vector<float> v) {
    const Bits bits = bit_cast<Bits>(v);
    const Bits magnitude = bits & 0x7fffffff;
    // Normal: adjust the exponent and round at bit 13; a carry into the exponent gives the correct
    // result.
    const Bits normal =
        (magnitude + ((uint32_t)(15 - 127) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal: adding 0.5 makes the adder round to multiples of 2^-24, as half precision does.
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

// Copies a multiple of `unit` bytes, less than 2 * part, in parts of constant size. This is faster
// than a call of memcpy.
template <size_t unit, size_t part>
inline void copy_tail(char* to, const char* from, size_t bytes) {
  if constexpr (part >= unit) {
    if (bytes & part) {
      __builtin_memcpy(to, from, part);
      to += part;
      from += part;
    }
    copy_tail<unit, part / 2>(to, from, bytes);
  }
}

// Calls f(j, load, store) for each vector of a row of n elements. A partial last vector is loaded
// and stored through a buffer, so that no memory outside the row is accessed.
template <class S, class F>
inline void for_each_vector(int64_t n, F f) {
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
  constexpr auto copy = copy_tail<sizeof(Element), sizeof(Stored) / 2>;
  f(
      j,
      [=](const Element* p) {
        Stored v = {};
        copy(reinterpret_cast<char*>(&v), reinterpret_cast<const char*>(p + j), bytes);
        return S::widen(v);
      },
      [=](Element* p, Stored v) {
        copy(reinterpret_cast<char*>(p + j), reinterpret_cast<const char*>(&v), bytes);
      });
}

// The first n elements, at most `lanes`, and 0 in the other lanes.
template <class S>
inline Vector<typename S::Compute> load_part(const typename S::Element* from, int64_t n) {
  typename S::Stored values = {};
  __builtin_memcpy(&values, from, n * sizeof(typename S::Element));
  return S::widen(values);
}

// The shuffles of a transpose, each a single instruction. They turn a pair of vectors a and b into
// a low and a high vector. `at(i)` is the index of element i in the concatenation of a and b.

// Within each 16 bytes, takes units of d elements alternately from a half of a and a half of b.
template <class A, int64_t d, bool high>
struct Interleave {
  static constexpr int64_t at(int64_t i) {
    constexpr int64_t n = 16 / sizeof(A);
    const int64_t first = i - i % n + (high ? n / 2 : 0);
    return first + i % n / (2 * d) * d + i % d + (i / d % 2 ? lanes<A> : 0);
  }
};

// For units of d elements, 16 bytes or more: pairs the even units of a and b, and the odd ones.
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

// Transposes lanes x lanes elements in log2(lanes) stages.
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
    // Interleaving twice has swapped the second and third of every four vectors.
#pragma GCC unroll 16
    for (int64_t i = 0; i < L; i += 4) std::swap(v[i + 1], v[i + 2]);
  }
}

// tanh |x| = E / (E + 2) with E = e^2|x| - 1, to which the sign of x is applied, and sigmoid x =
// 1 / (1 + e^-x). For e^y, y = k ln 2 + r with |r| <= ln 2 / 2, and e^y = 2^k (1 + s) with
// s = r + r^2 Q(r). Q is the polynomial of least relative error, which for float is 2^-28. Then
// E = 2^k s + (2^k - 1) does not cancel: s is at least 1/sqrt(2) - 1, so that E >= s for k = 0, and
// otherwise E >= 0.41.
//
// The errors of s, E, E + 2 and the quotient sum to less than 3 ulp; those of the sigmoid likewise.
// NaN compares false with the limits, and stays.

struct FloatConstants {
  using A = float;
  using Unsigned = Bits;
  static constexpr float tanh_limit = 9.02f;   // tanh rounds to 1 from here on
  static constexpr float exponent_limit = 87;  // e^y and e^-y are normal numbers up to here
  static constexpr float magic = 0x1.8p23f;    // adding it rounds to an integer, in the low bits
  static constexpr float log2e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr uint32_t sign = 1u << 31;
  static constexpr float Q[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f0p-5f, 0x1.1239d4p-7f,
                                0x1.6a2480p-10f};
};

struct DoubleConstants {
  using A = double;
  using Unsigned = LongBits;
  static constexpr double tanh_limit = 19.1;
  static constexpr double exponent_limit = 708;
  static constexpr double magic = 0x1.8p52;
  static constexpr double log2e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr uint64_t sign = 1ull << 63;
  static constexpr double Q[] = {
      0x1.0000000000009p-1,  0x1.5555555555558p-3,  0x1.55555555503f4p-5,  0x1.111111110f808p-7,
      0x1.6c16c185fded5p-10, 0x1.a01a01b009b94p-13, 0x1.a01993bebde07p-16, 0x1.71ddf6badec7dp-19,
      0x1.28b40639f7187p-22, 0x1.af631dc77317bp-26};
};

// c[0] + c[1] x + ... + c[n - 1] x^(n-1)
template <class V, class A, size_t n>
inline V polynomial(V x, const A (&c)[n]) {
  V sum = broadcast<A>(c[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; --i) sum = multiply_add(sum, x, broadcast<A>(c[i]));
  return sum;
}

// e^y = scale (1 + s), for |y| up to exponent_limit.
template <class C>
struct Exponential {
  using A = typename C::A;
  using V = Vector<A>;
  using U = typename C::Unsigned;
  V scale, s;

  explicit Exponential(V y) {
    const V shifted = multiply_add(y, broadcast<A>(C::log2e), broadcast<A>(C::magic));
    const V k = shifted - C::magic;
    V r = multiply_add(k, broadcast<A>(-C::ln2_high), y);
    r = multiply_add(k, broadcast<A>(-C::ln2_low), r);
    // The shift keeps only the bits of k in `shifted`.
    scale = bit_cast<V>((bit_cast<U>(shifted) << C::mantissa) +
                        ((decltype(C::sign))C::bias << C::mantissa));
    s = multiply_add(r * r, polynomial(r, C::Q), r);
  }

  V plus_one() const { return multiply_add(scale, s, scale + 1); }
  V minus_one() const { return multiply_add(scale, s, scale - 1); }
};

template <class C>
inline Vector<typename C::A> tanh_with(Vector<typename C::A> x) {
  using V = Vector<typename C::A>;
  using U = typename C::Unsigned;
  const U sign = bit_cast<U>(x) & C::sign;
  const V magnitude = bit_cast<V>(bit_cast<U>(x) ^ sign), limit = broadcast(C::tanh_limit);
  const V a = limit < magnitude ? limit : magnitude;
  const V E = Exponential<C>(a + a).minus_one();
  return bit_cast<V>(bit_cast<U>(E / (E + 2)) | sign);
}

template <class C>
inline Vector<typename C::A> sigmoid_with(Vector<typename C::A> x) {
  using V = Vector<typename C::A>;
  const V limit = broadcast(C::exponent_limit);
  const V y = 1 / Exponential<C>(x < -limit ? limit : x > limit ? -limit : -x).plus_one();
  return x < -limit ? V{} : y;  // so that it is 0 at -infinity
}

inline Vector<float> tanh(Vector<float> x) { return tanh_with<FloatConstants>(x); }
inline Vector<double> tanh(Vector<double> x) { return tanh_with<DoubleConstants>(x); }
inline Vector<float> sigmoid(Vector<float> x) { return sigmoid_with<FloatConstants>(x); }
inline Vector<double> sigmoid(Vector<double> x) { return sigmoid_with<DoubleConstants>(x); }
