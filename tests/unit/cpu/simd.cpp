// Every entry of every available kernel table against loops in double.
#include <doctest/doctest.h>

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <jet/core/error.hpp>
#include <jet/cpu/simd/simd.hpp>
#include <limits>
#include <random>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using jet::bf16;
using jet::DType;
using jet::i64;
using jet::cpu::GemmNn;
using jet::cpu::GemmNt;
using jet::cpu::Isa;
using jet::cpu::KernelTable;
using jet::cpu::ScanStep;

constexpr i64 sizes[] = {0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 300};

/// An array of `count` elements between two canaries, which starts `skew` bytes past an aligned address. Its
/// address is never used as an aligned one here; kernels get it as it is.
template <class S> class Guarded {
 public:
  explicit Guarded(i64 count, i64 skew = 0)
      : count_(count), bytes_(static_cast<std::size_t>(margin * 2 + skew + count * size), 0xa5) {
    offset_ = margin + skew;
  }
  S* data() { return static_cast<S*>(static_cast<void*>(bytes_.data() + offset_)); }
  S const* data() const { return static_cast<S const*>(static_cast<void const*>(bytes_.data() + offset_)); }
  i64 count() const { return count_; }
  double get(i64 i) const {
    S value;
    std::memcpy(&value, at(i), sizeof(S));
    return static_cast<double>(value);
  }
  void set(i64 i, double value) {
    auto const stored = static_cast<S>(value);
    std::memcpy(at(i), &stored, sizeof(S));
  }
  /// Whether byte i of the allocation is still the canary, outside of the elements of rows [0, rows) x [0, width).
  bool untouched(i64 rows, i64 width, i64 stride) const {
    for (i64 i = 0; i < static_cast<i64>(bytes_.size()); ++i) {
      i64 const at = i - offset_;
      bool const inside = at >= 0 && at / size / stride < rows && at / size % stride < width;
      if (!inside && bytes_[static_cast<std::size_t>(i)] != 0xa5) {
        return false;
      }
    }
    return true;
  }
  bool untouched() const { return untouched(1, count_, std::max<i64>(count_, 1)); }

 private:
  unsigned char* at(i64 i) { return bytes_.data() + offset_ + i * size; }
  unsigned char const* at(i64 i) const { return bytes_.data() + offset_ + i * size; }

  static constexpr i64 margin = 64;
  static constexpr i64 size = static_cast<i64>(sizeof(S));
  i64 count_;
  i64 offset_;
  std::vector<unsigned char> bytes_;
};

std::mt19937& generator() {
  static std::mt19937 g(7);
  return g;
}
template <class S> Guarded<S> random(i64 count, double low = -1, double high = 1, i64 skew = 0) {
  Guarded<S> values(count, skew);
  std::uniform_real_distribution<double> uniform(low, high);
  for (i64 i = 0; i < count; ++i) {
    values.set(i, uniform(generator()));
  }
  return values;
}

template <class T> std::vector<KernelTable<T> const*> tables() {
  std::vector<KernelTable<T> const*> all;
  if constexpr (std::is_same_v<T, float>) {
    for (Isa const isa : jet::cpu::available_isas()) {
      all.push_back(&jet::cpu::kernels<float>(isa));
      CHECK(all.back()->isa == isa);
    }
  } else {
    all.push_back(&jet::cpu::kernels<double>(jet::cpu::best_isa()));
    CHECK(all.back()->isa == Isa::generic);
  }
  return all;
}

template <class T> constexpr double unit = std::numeric_limits<T>::epsilon();

/// |found - expected| within `ulps` units of T's precision at `scale`; infinities and NaN have to be the same.
template <class T> bool near(double found, double expected, double scale, double ulps) {
  if (std::isnan(expected)) {
    return std::isnan(found);
  }
  if (std::isinf(expected)) {
    return found == expected;
  }
  return std::abs(found - expected) <= ulps * unit<T> * scale + 3e-45;
}

template <class T, class A, class B, class C>
void check_gemm_nt(KernelTable<T> const& table, i64 m, i64 n, i64 k, i64 skew) {
  i64 const lda = k + 3, ldb = k + 1, ldc = n + 5;
  auto const a = random<A>(m * lda, -1, 1, skew);
  auto const b = random<B>(n * ldb, -1, 1, skew);
  auto const bias = random<T>(n);
  auto const run = table.gemm_nt[std::is_same_v<A, bf16>][std::is_same_v<B, bf16>][std::is_same_v<C, bf16>];
  for (int variant = 0; variant < 3; ++variant) {
    Guarded<C> c(m * ldc, skew);
    Guarded<C> before(m * ldc);
    double const alpha = variant == 0 ? 1 : 0.5, beta = variant == 2 ? -2 : 0;
    if (variant == 2) {
      for (i64 i = 0; i < m; ++i) {
        for (i64 j = 0; j < n; ++j) {
          c.set(i * ldc + j, static_cast<double>((i + j) % 5));
          before.set(i * ldc + j, static_cast<double>((i + j) % 5));
        }
      }
    }
    GemmNt<T> g;
    g.m = m, g.n = n, g.k = k;
    g.a = a.data(), g.lda = lda, g.b = b.data(), g.ldb = ldb, g.c = c.data(), g.ldc = ldc;
    g.bias = variant == 0 ? nullptr : bias.data();
    g.alpha = static_cast<T>(alpha), g.beta = static_cast<T>(beta);
    run(g);
    bool good = true;
    for (i64 i = 0; i < m; ++i) {
      for (i64 j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        for (i64 p = 0; p < k; ++p) {
          double const product = a.get(i * lda + p) * b.get(j * ldb + p);
          sum += product;
          magnitude += std::abs(product);
        }
        double expected = alpha * sum + (variant == 0 ? 0 : bias.get(j));
        expected += variant == 2 ? beta * before.get(i * ldc + j) : 0;
        double const slack = std::is_same_v<C, bf16> ? std::abs(expected) * 0x1p-8 : 0;
        good &=
            std::abs(c.get(i * ldc + j) - expected) <= (magnitude + std::abs(expected) + 8) * 8 * unit<T> + slack;
      }
    }
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    CAPTURE(variant);
    CHECK(good);
    CHECK(c.untouched(m, n, ldc));
  }
}

template <class T, class B> void check_gemm_nn(KernelTable<T> const& table, i64 m, i64 n, i64 k, bool transposed) {
  i64 const ldb = n + 3, ldc = n + 5, lda = (transposed ? m : k) + 2;
  auto const a = random<T>((transposed ? k : m) * lda);
  auto const b = random<B>(k * ldb, -1, 1, 2 * static_cast<i64>(sizeof(B)));
  for (double const beta : {0.0, -2.0}) {
    Guarded<T> c(m * ldc);
    if (beta != 0) {
      for (i64 i = 0; i < m * ldc; ++i) {
        if (i % ldc < n) {
          c.set(i, static_cast<double>(i % 5));
        }
      }
    }
    GemmNn<T> g;
    g.m = m, g.n = n, g.k = k;
    g.a = a.data(), g.a_row = transposed ? 1 : lda, g.a_col = transposed ? lda : 1;
    g.b = b.data(), g.ldb = ldb, g.c = c.data(), g.ldc = ldc, g.alpha = T(0.5), g.beta = static_cast<T>(beta);
    table.gemm_nn[std::is_same_v<B, bf16>](g);
    bool good = true;
    for (i64 i = 0; i < m; ++i) {
      for (i64 j = 0; j < n; ++j) {
        double sum = 0;
        for (i64 p = 0; p < k; ++p) {
          sum += a.get(i * g.a_row + p * g.a_col) * b.get(p * ldb + j);
        }
        double const expected = 0.5 * sum + (beta != 0 ? beta * static_cast<double>((i * ldc + j) % 5) : 0);
        good &= std::abs(c.get(i * ldc + j) - expected) <= static_cast<double>(k + 16) * unit<T>;
      }
    }
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    CAPTURE(beta);
    CHECK(good);
    CHECK(c.untouched(m, n, ldc));
  }
}

}  // namespace

TEST_CASE("simd: the list of instruction sets") {
  auto const list = jet::cpu::available_isas();
  REQUIRE(!list.empty());
  CHECK(list.front() == Isa::generic);
  CHECK(list.back() == jet::cpu::best_isa());
  for (Isa const isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
    bool const listed = std::find(list.begin(), list.end(), isa) != list.end();
    CHECK(jet::cpu::has(isa) == listed);
    if (!listed) {
      CHECK_THROWS_AS(jet::cpu::kernels<float>(isa), jet::Error);
    }
    std::string const message =
        std::string(jet::cpu::name_of(isa)) + (listed ? ": tested" : ": not available here");
    MESSAGE(message);
  }
}

TEST_CASE_TEMPLATE("simd: gemm_nt", T, float, double) {
  struct Shape {
    i64 m, n, k;
  };
  std::vector<Shape> shapes;
  for (i64 const k : sizes) {
    shapes.push_back({3, 5, k});
    shapes.push_back({k, 3, 33});
    shapes.push_back({2, k, 17});
  }
  for (i64 m = 1; m <= 14; ++m) {
    shapes.push_back({m, 7, 35});
  }
  shapes.insert(shapes.end(),
                {{13, 37, 511}, {14, 35, 513}, {101, 6, 1030}, {0, 0, 0}, {15, 4, 0}, {20, 33, 1024}});
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (auto const [m, n, k] : shapes) {
      i64 const skew = (m + n + k) % 2 * 2;
      check_gemm_nt<T, T, T, T>(*table, m, n, k, 0);
      check_gemm_nt<T, T, T, bf16>(*table, m, n, k, 0);
      check_gemm_nt<T, T, bf16, T>(*table, m, n, k, 0);
      check_gemm_nt<T, T, bf16, bf16>(*table, m, n, k, 0);
      check_gemm_nt<T, bf16, T, T>(*table, m, n, k, 0);
      check_gemm_nt<T, bf16, T, bf16>(*table, m, n, k, 0);
      check_gemm_nt<T, bf16, bf16, T>(*table, m, n, k, 0);
      check_gemm_nt<T, bf16, bf16, bf16>(*table, m, n, k, skew);
    }
    // Operands at any byte, as in a mapped file.
    check_gemm_nt<T, T, T, T>(*table, 13, 9, 35, 2);
    check_gemm_nt<T, T, bf16, T>(*table, 3, 9, 35, 1);
  }
}

TEST_CASE("simd: gemm_nt agrees with Eigen") {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  std::srand(3);
  Matrix const a = Matrix::Random(70, 200);
  Matrix const b = Matrix::Random(45, 200);
  Matrix const expected = a * b.transpose();
  for (auto const* table : tables<float>()) {
    Matrix c(70, 45);
    GemmNt<float> g;
    g.m = 70, g.n = 45, g.k = 200, g.a = a.data(), g.lda = 200, g.b = b.data(), g.ldb = 200;
    g.c = c.data(), g.ldc = 45;
    table->gemm_nt[0][0][0](g);
    CHECK((c - expected).cwiseAbs().maxCoeff() < 2e-5f);
  }
}

TEST_CASE_TEMPLATE("simd: gemm_nn", T, float, double) {
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (bool const transposed : {false, true}) {
      for (i64 const size : sizes) {
        check_gemm_nn<T, T>(*table, 5, size, 9, transposed);
        check_gemm_nn<T, bf16>(*table, 9, size, 3, transposed);
        check_gemm_nn<T, T>(*table, size, 19, 5, transposed);
        check_gemm_nn<T, bf16>(*table, 3, 50, size, transposed);
      }
      check_gemm_nn<T, T>(*table, 15, 51, 523, transposed);
      check_gemm_nn<T, bf16>(*table, 15, 97, 257, transposed);
    }
  }
}

TEST_CASE_TEMPLATE("simd: transpose", T, float, double) {
  auto const check = [](KernelTable<T> const& table, auto const& x, i64 rows, i64 columns, i64 ldx, int type) {
    i64 const ldy = rows + 3;
    Guarded<T> y(columns * ldy);
    table.transpose[type](rows, columns, x.data(), ldx, y.data(), ldy);
    bool good = true;
    for (i64 r = 0; r < rows; ++r) {
      for (i64 c = 0; c < columns; ++c) {
        good &= y.get(c * ldy + r) == x.get(r * ldx + c);
      }
    }
    CAPTURE(rows);
    CAPTURE(columns);
    CHECK(good);
    CHECK(y.untouched(columns, rows, ldy));
  };
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const rows : sizes) {
      for (i64 const columns : {1, 7, 16, 33, 64}) {
        check(*table, random<T>(rows * (columns + 2)), rows, columns, columns + 2, 0);
        check(*table, random<bf16>(rows * (columns + 2)), rows, columns, columns + 2, 1);
      }
    }
  }
}

TEST_CASE("simd: products of packed pairs of bf16") {
  for (auto const* table : tables<float>()) {
    if (table->gemm_pairs == nullptr) {
      continue;
    }
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const m : {1, 2, 5, 6, 7, 13, 96}) {
      for (i64 const n : {1, 15, 16, 17, 48, 64, 100, 128}) {
        for (i64 const pairs : {1, 3, 32, 65}) {
          i64 const lda = 2 * pairs + 2, ldb = n + 1, ldc = n + 3;
          auto const a = random<bf16>(m * lda);
          auto const b = random<bf16>(2 * pairs * n);  // rows of K
          Guarded<bf16> packed(pairs * 2 * ldb);
          for (i64 p = 0; p < pairs; ++p) {
            table->interleave(n, b.data() + 2 * p * n, b.data() + (2 * p + 1) * n, packed.data() + 2 * p * ldb);
          }
          CHECK(packed.untouched(pairs, 2 * n, 2 * ldb));
          for (bool const accumulate : {false, true}) {
            Guarded<float> c(m * ldc);
            for (i64 i = 0; accumulate && i < m * ldc; ++i) {
              if (i % ldc < n) {
                c.set(i, static_cast<double>(i % 5));
              }
            }
            jet::cpu::GemmPairs<float> g;
            g.m = m, g.n = n, g.pairs = pairs;
            g.a = a.data(), g.lda = lda, g.b = packed.data(), g.ldb = ldb, g.c = c.data(), g.ldc = ldc;
            g.accumulate = accumulate;
            table->gemm_pairs(g);
            bool good = true;
            for (i64 i = 0; i < m; ++i) {
              for (i64 j = 0; j < n; ++j) {
                double sum = accumulate ? static_cast<double>((i * ldc + j) % 5) : 0;
                for (i64 k = 0; k < 2 * pairs; ++k) {
                  sum += a.get(i * lda + k) * b.get(k * n + j);
                }
                good &= std::abs(c.get(i * ldc + j) - sum) <= static_cast<double>(2 * pairs + 16) * unit<float>;
              }
            }
            CAPTURE(m);
            CAPTURE(n);
            CAPTURE(pairs);
            CAPTURE(accumulate);
            CHECK(good);
            CHECK(c.untouched(m, n, ldc));
          }
        }
      }
    }
    for (i64 const n : sizes) {
      CAPTURE(n);
      auto const x = random<float>(n, -20, 1);
      Guarded<bf16> e(n);
      double const found = static_cast<double>(table->exp_sum_bf16(n, 1.0f, x.data(), e.data()));
      double sum = 0;
      bool good = true;
      for (i64 i = 0; i < n; ++i) {
        double const expected = std::exp(x.get(i) - 1);
        good &= std::abs(e.get(i) - expected) <= expected * 0x1.02p-8;
        sum += e.get(i);  // as rounded
      }
      CHECK(good);
      CHECK(near<float>(found, sum, sum, 16));
      CHECK(e.untouched());
    }
  }
}

// The promise of table.hpp: an element depends, bit for bit, on K alone.
TEST_CASE_TEMPLATE("simd: elements of products do not depend on the shape", T, float, double) {
  i64 const m = 110, n = 70;
  for (auto const* table : tables<T>()) {
    for (i64 const k : {1, 5, 31, 40, 100, 513, 1100}) {
      CAPTURE(std::string(jet::cpu::name_of(table->isa)));
      CAPTURE(k);
      auto const check = [&]<class A, class B>(A, B) {
        auto const a = random<A>(m * k);
        auto const b = random<B>(n * k);
        auto const run = table->gemm_nt[std::is_same_v<A, bf16>][std::is_same_v<B, bf16>][0];
        std::vector<T> whole(static_cast<std::size_t>(m * n)), part(whole.size());
        GemmNt<T> g;
        g.m = m, g.n = n, g.k = k, g.lda = k, g.ldb = k, g.ldc = n, g.alpha = T(0.3);
        g.a = a.data(), g.b = b.data(), g.c = whole.data();
        run(g);
        struct Part {
          i64 i, j, m, n;
        };
        for (auto const p : {Part{0, 0, 1, n},
                             {7, 0, 1, n},
                             {109, 69, 1, 1},
                             {3, 1, 5, 69},
                             {1, 33, 12, 3},
                             {2, 5, 13, 34},
                             {0, 3, 99, 2},
                             {97, 0, 13, 70}}) {
          g.m = p.m, g.n = p.n;
          g.a = a.data() + p.i * k, g.b = b.data() + p.j * k, g.c = part.data();
          run(g);
          bool same = true;
          for (i64 i = 0; i < p.m; ++i) {
            same &= std::memcmp(part.data() + i * n, whole.data() + (p.i + i) * n + p.j,
                                sizeof(T) * static_cast<std::size_t>(p.n)) == 0;
          }
          CAPTURE(p.m);
          CAPTURE(p.n);
          CHECK(same);
        }
      };
      check(T(), T());
      check(T(), bf16());
      check(bf16(), T());
      check(bf16(), bf16());

      auto const a = random<T>(m * k);
      auto const b = random<T>(k * n);
      std::vector<T> whole(static_cast<std::size_t>(m * n)), part(whole.size());
      GemmNn<T> g;
      g.m = m, g.n = n, g.k = k, g.a_row = k, g.ldb = n, g.ldc = n, g.alpha = T(0.3);
      g.a = a.data(), g.b = b.data(), g.c = whole.data();
      table->gemm_nn[0](g);
      for (i64 const i : {0, 1, 9, 109}) {
        for (i64 const j : {0, 1, 17, 40, 69}) {
          g.m = std::min<i64>(m - i, 3 + i), g.n = std::min<i64>(n - j, 1 + j);
          g.a = a.data() + i * k, g.b = b.data() + j, g.c = part.data();
          // Without blocks of k as well: a beta that multiplies zeros.
          for (T const beta : {T(0), T(1)}) {
            std::fill(part.begin(), part.end(), T(0));
            g.beta = beta;
            table->gemm_nn[0](g);
            bool same = true;
            for (i64 r = 0; r < g.m; ++r) {
              same &= std::memcmp(part.data() + r * n, whole.data() + (i + r) * n + j,
                                  sizeof(T) * static_cast<std::size_t>(g.n)) == 0;
            }
            CAPTURE(i);
            CAPTURE(j);
            CHECK(same);
          }
          g.beta = 0;
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("simd: element-wise kernels", T, float, double) {
  using One = void (*)(i64, T const*, T*);
  double const inf = std::numeric_limits<double>::infinity();
  double const nan = std::numeric_limits<double>::quiet_NaN();
  auto const sigmoid = [](double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); };
  struct Function {
    char const* name;
    One KernelTable<T>::*entry;
    std::function<double(double)> formula;
    double ulps;
  };
  std::vector<Function> const functions = {
      {"exp", &KernelTable<T>::exp, [](double x) { return static_cast<double>(static_cast<T>(std::exp(x))); }, 2},
      {"sigmoid", &KernelTable<T>::sigmoid, sigmoid, 3},
      {"silu", &KernelTable<T>::silu, [&](double x) { return x * sigmoid(x); }, 4},
      {"softplus", &KernelTable<T>::softplus,
       [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }, 3}};
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (auto const& f : functions) {
      CAPTURE(std::string(f.name));
      One const run = table->*f.entry;
      for (i64 const n : sizes) {
        auto const x = random<T>(n, -20, 20, static_cast<i64>(sizeof(T)));
        Guarded<T> y(n, 2 * static_cast<i64>(sizeof(T)));
        run(n, x.data(), y.data());
        bool good = true;
        for (i64 i = 0; i < n; ++i) {
          double const expected = f.formula(x.get(i));
          good &= near<T>(y.get(i), expected, std::abs(expected), f.ulps);
        }
        CHECK(good);
        CHECK(y.untouched());
        auto z = x;
        run(n, z.data(), z.data());
        CHECK((n == 0 || std::memcmp(y.data(), z.data(), static_cast<std::size_t>(n) * sizeof(T)) == 0));
      }
      // A dense sweep of the range where results are normal numbers.
      i64 const n = 40001;
      Guarded<T> x(n), y(n);
      for (i64 i = 0; i < n; ++i) {
        x.set(i, -86.0 + 174.0 * static_cast<double>(i) / static_cast<double>(n));
      }
      run(n, x.data(), y.data());
      double worst = 0;
      for (i64 i = 0; i < n; ++i) {
        double const expected = f.formula(x.get(i));
        worst = std::max(worst, std::abs(y.get(i) - expected) / (unit<T> * std::abs(expected)));
      }
      CAPTURE(worst);
      CHECK(worst <= f.ulps);
    }

    struct Extreme {
      One KernelTable<T>::*entry;
      double x, expected, tolerance;
    };
    for (auto const& e : std::vector<Extreme>{{&KernelTable<T>::exp, -1e30, 0, 0},
                                              {&KernelTable<T>::exp, 1e30, inf, 0},
                                              {&KernelTable<T>::exp, -inf, 0, 0},
                                              {&KernelTable<T>::exp, inf, inf, 0},
                                              {&KernelTable<T>::exp, nan, nan, 0},
                                              {&KernelTable<T>::exp, 0, 1, 0},
                                              {&KernelTable<T>::exp, -100, std::exp(-100.0), 3e-45},
                                              {&KernelTable<T>::sigmoid, -1e30, 0, 0},
                                              {&KernelTable<T>::sigmoid, 1e30, 1, 0},
                                              {&KernelTable<T>::sigmoid, -inf, 0, 0},
                                              {&KernelTable<T>::sigmoid, inf, 1, 0},
                                              {&KernelTable<T>::sigmoid, nan, nan, 0},
                                              {&KernelTable<T>::silu, -200, 0, 1e-37},
                                              {&KernelTable<T>::silu, -1e30, 0, 0},
                                              {&KernelTable<T>::silu, 200, 200, 0},
                                              {&KernelTable<T>::silu, inf, inf, 0},
                                              {&KernelTable<T>::silu, nan, nan, 0},
                                              {&KernelTable<T>::softplus, 100, 100, 0},
                                              {&KernelTable<T>::softplus, -100, std::exp(-100.0), 3e-45},
                                              {&KernelTable<T>::softplus, -1e30, 0, 0},
                                              {&KernelTable<T>::softplus, inf, inf, 0},
                                              {&KernelTable<T>::softplus, -inf, 0, 0},
                                              {&KernelTable<T>::softplus, nan, nan, 0}}) {
      for (i64 const n : {1, 19}) {  // in a tail and in a whole vector
        Guarded<T> x(n), y(n);
        for (i64 i = 0; i < n; ++i) {
          x.set(i, e.x);
        }
        (table->*e.entry)(n, x.data(), y.data());
        CAPTURE(e.x);
        CAPTURE(y.get(0));
        CHECK((std::isnan(e.expected) ? std::isnan(y.get(0))
                                      : y.get(0) == e.expected || std::abs(y.get(0) - e.expected) <= e.tolerance));
        CHECK((std::isnan(e.expected) ? std::isnan(y.get(n - 1)) : y.get(n - 1) == y.get(0)));
      }
    }

    for (i64 const n : sizes) {
      auto const x = random<T>(n, -3, 3), z = random<T>(n, -3, 3);
      T const a = T(0.7);
      Guarded<T> sum(n), scaled(n), both(n), gated(n);
      auto accumulated = z;
      table->add(n, x.data(), z.data(), sum.data());
      table->scale(n, a, x.data(), scaled.data());
      table->axpy(n, a, x.data(), accumulated.data());
      table->mul_scale(n, a, x.data(), z.data(), both.data());
      table->silu_mul(n, x.data(), z.data(), gated.data());
      bool good = true;
      for (i64 i = 0; i < n; ++i) {
        double const u = x.get(i), v = z.get(i), d = static_cast<double>(a);
        good &= sum.get(i) == static_cast<double>(static_cast<T>(u + v));
        good &= scaled.get(i) == static_cast<double>(static_cast<T>(u * d));
        good &= near<T>(accumulated.get(i), v + d * u, std::abs(v) + std::abs(d * u), 1);
        good &= near<T>(both.get(i), d * u * v, std::abs(d * u * v), 2);
        good &= near<T>(gated.get(i), u * sigmoid(u) * v, std::abs(u * v), 4);
      }
      CHECK(good);
      CHECK((sum.untouched() && scaled.untouched() && accumulated.untouched() && both.untouched()));
      CHECK(gated.untouched());
    }
  }
}

TEST_CASE_TEMPLATE("simd: bf16 conversions are exact", T, float, double) {
  std::vector<float> cases = {0.0f,          -0.0f,   1.0f,     0x1.01p0f, 0x1.03p0f,
                              0x1.010002p0f, 3.4e38f, -3.4e38f, 1e-40f,    3e-39f};
  cases.push_back(std::numeric_limits<float>::infinity());
  cases.push_back(-std::numeric_limits<float>::infinity());
  cases.push_back(std::numeric_limits<float>::quiet_NaN());
  cases.push_back(std::bit_cast<float>(0x7f800001u));  // a NaN whose digits would be rounded away
  std::uniform_int_distribution<std::uint32_t> bits;
  while (cases.size() < 300) {
    cases.push_back(std::bit_cast<float>(bits(generator())));
  }
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const n : sizes) {
      Guarded<T> x(n), back(n);
      Guarded<bf16> y(n, 2);
      for (i64 i = 0; i < n; ++i) {
        x.set(i, static_cast<double>(cases[static_cast<std::size_t>(i)]));
      }
      table->to_bf16(n, x.data(), y.data());
      table->from_bf16(n, y.data(), back.data());
      bool good = true;
      for (i64 i = 0; i < n; ++i) {
        double const expected = static_cast<double>(static_cast<float>(bf16(x.get(i))));
        good &= std::isnan(expected) ? std::isnan(y.get(i)) && std::isnan(back.get(i))
                                     : y.get(i) == expected && back.get(i) == expected;
        good &= std::signbit(y.get(i)) == std::signbit(expected) || std::isnan(expected);
      }
      CHECK(good);
      CHECK((y.untouched() && back.untouched()));
    }
  }
}

TEST_CASE_TEMPLATE("simd: reductions", T, float, double) {
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const n : sizes) {
      CAPTURE(n);
      auto const x = random<T>(n, -3, 3, static_cast<i64>(sizeof(T))), y = random<T>(n, -3, 3);
      double dot = 0, squares = 0, magnitude = 0, largest = -std::numeric_limits<double>::infinity(), sum = 0;
      for (i64 i = 0; i < n; ++i) {
        dot += x.get(i) * y.get(i);
        magnitude += std::abs(x.get(i) * y.get(i));
        squares += x.get(i) * x.get(i);
        largest = std::max(largest, x.get(i));
        sum += std::exp(x.get(i) - 0.5);
      }
      CHECK(near<T>(static_cast<double>(table->dot(n, x.data(), y.data())), dot, magnitude, 8));
      CHECK(near<T>(static_cast<double>(table->sum_squares(n, x.data())), squares, squares, 8));
      CHECK(static_cast<double>(table->max(n, x.data())) == largest);
      Guarded<T> e(n);
      CHECK(near<T>(static_cast<double>(table->exp_sum(n, T(0.5), x.data(), e.data())), sum, sum, 16));
      bool good = true;
      for (i64 i = 0; i < n; ++i) {
        good &= near<T>(e.get(i), std::exp(x.get(i) - 0.5), std::exp(x.get(i) - 0.5), 4);
      }
      CHECK(good);
      CHECK(e.untouched());
      if (n > 0) {
        auto with_nan = x;
        with_nan.set(n / 2, std::numeric_limits<double>::quiet_NaN());
        double rest = -std::numeric_limits<double>::infinity();
        for (i64 i = 0; i < n; ++i) {
          rest = i == n / 2 ? rest : std::max(rest, x.get(i));
        }
        CHECK(static_cast<double>(table->max(n, with_nan.data())) == rest);
      }
    }
  }
}

TEST_CASE_TEMPLATE("simd: rope", T, float, double) {
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const half : sizes) {
      auto const cosine = random<T>(half), sine = random<T>(half);
      auto x = random<T>(2 * half);
      auto const before = x;
      table->rope(half, cosine.data(), sine.data(), x.data());
      bool good = true;
      for (i64 i = 0; i < half; ++i) {
        double const u = before.get(i), v = before.get(i + half), c = cosine.get(i), s = sine.get(i);
        good &= near<T>(x.get(i), u * c - v * s, 2, 1);
        good &= near<T>(x.get(i + half), v * c + u * s, 2, 1);
      }
      CHECK(good);
      CHECK(x.untouched());
    }
  }
}

TEST_CASE_TEMPLATE("simd: conv", T, float, double) {
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (int const taps : {1, 2, 3, 4, 5, 8}) {
      for (i64 const n : sizes) {
        auto const w = random<T>(n * taps, -1, 1, static_cast<i64>(sizeof(T))), bias = random<T>(n);
        std::vector<Guarded<T>> rows;
        std::vector<T const*> x;
        for (int i = 0; i < taps; ++i) {
          rows.push_back(random<T>(n));
        }
        for (auto const& row : rows) {
          x.push_back(row.data());
        }
        for (bool const with_bias : {false, true}) {
          Guarded<T> y(n);
          table->conv(n, taps, x.data(), w.data(), with_bias ? bias.data() : nullptr, y.data());
          bool good = true;
          for (i64 c = 0; c < n; ++c) {
            double expected = with_bias ? bias.get(c) : 0;
            for (int i = 0; i < taps; ++i) {
              expected += w.get(c * taps + i) * rows[static_cast<std::size_t>(i)].get(c);
            }
            good &= near<T>(y.get(c), expected, taps + 1, 1);
          }
          CAPTURE(taps);
          CAPTURE(n);
          CHECK(good);
          CHECK(y.untouched());
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("simd: scan_step", T, float, double) {
  for (auto const* table : tables<T>()) {
    CAPTURE(std::string(jet::cpu::name_of(table->isa)));
    for (i64 const head_k : {0, 1, 3, 16, 96}) {
      for (i64 const head_v : sizes) {
        for (int variant = 0; variant < 4; ++variant) {
          bool const delta = variant % 2 == 0, channel = variant / 2 == 0;
          auto state = random<T>(head_k * head_v);
          auto const before = state;
          auto const q = random<T>(head_k), k = random<T>(head_k, -0.2, 0.2), v = random<T>(head_v);
          auto const decay = random<T>(channel ? head_k : 1, 0.5, 1);
          Guarded<T> u(head_v), o(head_v);
          ScanStep<T> s;
          s.head_k = head_k, s.head_v = head_v, s.state = state.data(), s.q = q.data(), s.k = k.data();
          s.v = v.data(), s.decay = decay.data(), s.decay_channel = channel, s.delta = delta;
          s.beta = T(0.8), s.scale = T(0.3), s.u = u.data(), s.o = o.data();
          table->scan_step(s);
          bool good = true;
          double const beta = static_cast<double>(s.beta), scale = static_cast<double>(s.scale);
          for (i64 c = 0; c < head_v; ++c) {
            double written = 0, read = 0;
            for (i64 r = 0; r < head_k; ++r) {
              written += k.get(r) * decay.get(channel ? r : 0) * before.get(r * head_v + c);
            }
            double const update = beta * (delta ? v.get(c) - written : v.get(c));
            for (i64 r = 0; r < head_k; ++r) {
              double const after = decay.get(channel ? r : 0) * before.get(r * head_v + c) + k.get(r) * update;
              good &= near<T>(state.get(r * head_v + c), after, 4, 4);
              read += q.get(r) * after;
            }
            good &= near<T>(o.get(c), scale * read, 16, 4);
          }
          CAPTURE(head_k);
          CAPTURE(head_v);
          CAPTURE(variant);
          CHECK(good);
          CHECK((state.untouched() && o.untouched() && u.untouched()));
        }
      }
    }
  }
}

#if defined(__linux__)
namespace {

/// Memory whose last byte is followed by a page that may not be touched.
class Edge {
 public:
  Edge() {
    memory_ = ::mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory_ != MAP_FAILED);
    REQUIRE(::mprotect(static_cast<char*>(memory_) + size, size, PROT_NONE) == 0);
  }
  Edge(Edge const&) = delete;
  Edge& operator=(Edge const&) = delete;
  ~Edge() { ::munmap(memory_, 2 * size); }
  /// The last `count` elements before the forbidden page.
  template <class S> S* last(i64 count) {
    return static_cast<S*>(static_cast<void*>(static_cast<char*>(memory_) + size)) - count;
  }

 private:
  static constexpr std::size_t size = std::size_t{1} << 16;
  void* memory_ = nullptr;
};

}  // namespace

TEST_CASE("simd: nothing is touched past the end of an array") {
  Edge x, y, z, w;
  for (auto const* table : tables<float>()) {
    for (i64 const n : sizes) {
      float* const a = x.last<float>(n);
      float* const b = y.last<float>(n);
      float* const c = z.last<float>(n);
      for (auto const entry : {table->exp, table->sigmoid, table->silu, table->softplus}) {
        entry(n, a, b);
      }
      table->to_bf16(n, a, y.last<bf16>(n));
      table->from_bf16(n, x.last<bf16>(n), b);
      for (auto const entry : {table->silu_mul, table->add}) {
        entry(n, a, b, c);
      }
      table->scale(n, 2, a, b);
      table->axpy(n, 2, a, b);
      table->mul_scale(n, 2, a, b, c);
      table->dot(n, a, b);
      table->sum_squares(n, a);
      table->max(n, a);
      table->exp_sum(n, 0, a, b);
      table->rope(n, a, b, z.last<float>(2 * n));
      for (int const taps : {3, 4}) {
        float const* const rows[] = {a, a, a, a};
        table->conv(n, taps, rows, y.last<float>(n * taps), c, w.last<float>(n));
      }
      for (i64 const m : {1, 2, 5, 14, 20}) {
        for (int type = 0; type < 8; ++type) {
          GemmNt<float> g;
          g.m = m, g.n = 5, g.k = n, g.lda = n, g.ldb = n, g.ldc = 5;
          g.a = (type & 4) != 0 ? static_cast<void*>(x.last<bf16>(m * n)) : x.last<float>(m * n);
          g.b = (type & 2) != 0 ? static_cast<void*>(y.last<bf16>(5 * n)) : y.last<float>(5 * n);
          g.c = (type & 1) != 0 ? static_cast<void*>(z.last<bf16>(m * 5)) : z.last<float>(m * 5);
          g.bias = w.last<float>(5);
          table->gemm_nt[type >> 2][(type >> 1) & 1][type & 1](g);
        }
        for (int type = 0; type < 2; ++type) {
          GemmNn<float> g;
          g.m = m, g.n = n, g.k = 3, g.a = x.last<float>(m * 3), g.a_row = 3, g.ldb = n, g.ldc = n;
          g.b = type != 0 ? static_cast<void*>(y.last<bf16>(3 * n)) : y.last<float>(3 * n);
          g.c = z.last<float>(m * n);
          table->gemm_nn[type](g);
        }
      }
      float const one = 1;
      ScanStep<float> s;
      s.head_k = 2, s.head_v = n, s.state = x.last<float>(2 * n), s.q = s.k = y.last<float>(2), s.v = c;
      s.decay = &one, s.u = w.last<float>(n), s.o = y.last<float>(n + 2);
      table->scan_step(s);
    }
  }
}
#endif
