// Attention against the float64 reference: full, windows, grouped heads, caches.
#include <jet/op/attention.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
using jet::op::AttentionShape;
namespace reference = jet::reference;

// What is left of keys and values when they are kept as kv_dtype; queries are at acc.
constexpr double bound(jet::Precision const& p) {
  return p.acc == DType::f64 ? 1e-12 : p.act == DType::bf16 ? bf16_bounds.op : 2e-6;
}

// T tokens from nothing, then one, then seven, through a cache; and T tokens without one.
template <AttentionShape C, class B>
void against_reference(B& backend, std::vector<i64> const& sizes = odd_sizes()) {
  constexpr jet::Precision p = B::precision;
  constexpr i64 q_width = C.heads * C.head, kv_width = C.kv_heads * C.head;
  for (i64 const t : sizes) {
    CAPTURE(t);
    i64 const total = t + 8;
    i64 const capacity = C.window > 0 ? std::min(C.window, total) : total;
    Matrix const q = rounded(normal(total, q_width, 1), p.acc);
    Matrix const k = rounded(normal(total, kv_width, 2), p.kv_dtype()),
                 v = rounded(normal(total, kv_width, 3), p.kv_dtype());
    Matrix const expected = reference::attention(q, k, v, C.heads, C.kv_heads, C.window, 0);
    // slot 1 of two, poisoned
    Activation<B> const keys(backend, 2 * capacity, kv_width, p.kv_dtype()),
        values(backend, 2 * capacity, kv_width, p.kv_dtype());
    Shape const cache{i64{2}, capacity, C.kv_heads, C.head};
    i64 at = 0;
    for (i64 const n : {t, i64{1}, i64{7}}) {
      CAPTURE(n);
      auto const piece = [&](Matrix const& m) { return reference::rows_of(m, at, n); };
      Activation<B> const qa(backend, piece(q), p.acc), ka(backend, piece(k), p.acc), va(backend, piece(v), p.acc);
      Activation<B> const o(backend, n, q_width, p.act), o_null(backend, n, q_width, p.act);
      run_planned(backend, one(n, 1, at), [&](auto& ctx) {
        ctx.run(jet::op::Attention<C>{}, qa.view(), ka.view(), va.view(), keys.slot(cache), values.slot(cache),
                o.view());
      });
      CHECK(relative_rms(o.values(), piece(expected)) <= bound(p));
      if (at == 0) {
        run_planned(backend, one(n, 1, 0), [&](auto& ctx) {
          ctx.run(jet::op::Attention<C>{}, qa.view(), ka.view(), va.view(), Slot{}, Slot{}, o_null.view());
        });
        CHECK(same_bits(o.values(), o_null.values()));
      }
      at += n;
    }
    // position p lies at row p mod capacity, rounded and nothing else
    Matrix const kept = keys.values(), kept_v = values.values();
    for (i64 position = std::max<i64>(0, total - capacity); position < total; ++position) {
      i64 const row = capacity + position % capacity;
      REQUIRE(same_bits(reference::rows_of(kept, row, 1), reference::rows_of(k, position, 1)));
      REQUIRE(same_bits(reference::rows_of(kept_v, row, 1), reference::rows_of(v, position, 1)));
    }
  }
}

template <AttentionShape C, class B> void everywhere(std::vector<i64> const& sizes = odd_sizes()) {
  for_isas<B>([&](B& backend) { against_reference<C>(backend, sizes); });
}

TEST_CASE_TEMPLATE("full attention equals the reference", B, F64, F32, Bf16) {
  SUBCASE("one head") {
    everywhere<AttentionShape{1, 1, 20}, B>();
  }
  SUBCASE("three heads, an odd size") {
    everywhere<AttentionShape{3, 3, 7}, B>();
  }
  SUBCASE("twelve queries on two keys") {
    everywhere<AttentionShape{12, 2, 16}, B>();
  }
  SUBCASE("seventy queries on one key") {
    everywhere<AttentionShape{70, 1, 4}, B>({1, 3, 65});
  }
}

TEST_CASE_TEMPLATE("windows equal the reference", B, F64, F32, Bf16) {
  SUBCASE("1") {
    everywhere<AttentionShape{3, 1, 8, 1}, B>();
  }
  SUBCASE("2") {
    everywhere<AttentionShape{2, 2, 5, 2}, B>();
  }
  SUBCASE("64: T - 1, T and T + 1 among the lengths") {
    everywhere<AttentionShape{4, 2, 16, 64}, B>();
  }
  SUBCASE("100") {
    everywhere<AttentionShape{3, 3, 12, 100}, B>();
  }
  SUBCASE("longer than all") {
    everywhere<AttentionShape{3, 3, 12, 1000}, B>();
  }
}

TEST_CASE_TEMPLATE("huge queries", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    i64 const t = 70, head = 16;
    Matrix const q = rounded(normal(t, head, 1, 1e4), p.acc), k = rounded(normal(t, head, 2), p.kv_dtype()),
                 v = rounded(normal(t, head, 3), p.kv_dtype());
    Activation<B> const qa(backend, q, p.acc), ka(backend, k, p.acc), va(backend, v, p.acc),
        o(backend, t, head, p.act);
    run_planned(backend, one(t), [&](auto& ctx) {
      ctx.run(jet::op::Attention<AttentionShape{1, 1, 16}>{}, qa.view(), ka.view(), va.view(), Slot{}, Slot{},
              o.view());
    });
    // scores of 1e4 have an absolute error of 1e4 * 2^-24 in float, and so have the logarithms of the weights
    double const tolerated = p.acc == DType::f64 ? 1e-11 : p.act == DType::bf16 ? 5e-3 : 1e-3;
    CHECK(relative_rms(o.values(), reference::attention(q, k, v, 1, 1, 0, 0)) <= tolerated);
  });
}

TEST_CASE_TEMPLATE("identical keys average the values; zero queries too", B, F64, F32) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    i64 const t = 130, head = 8;
    Matrix q = normal(t, head, 1);
    Matrix k(t, head), v = rounded(normal(t, head, 3), p.acc);
    for (i64 i = 0; i < t; ++i) {
      for (i64 e = 0; e < head; ++e) {
        k.at(i, e) = static_cast<double>(e) - 3;
        q.at(i, e) = i % 2 == 0 ? 0 : q.at(i, e);
      }
    }
    Matrix expected(t, head);
    for (i64 e = 0; e < head; ++e) {
      double sum = 0;
      for (i64 i = 0; i < t; ++i) {
        sum += v.at(i, e);
        expected.at(i, e) = sum / static_cast<double>(i + 1);
      }
    }
    Activation<B> const qa(backend, q, p.acc), ka(backend, k, p.acc), va(backend, v, p.acc),
        o(backend, t, head, p.act);
    run_planned(backend, one(t), [&](auto& ctx) {
      ctx.run(jet::op::Attention<AttentionShape{1, 1, 8}>{}, qa.view(), ka.view(), va.view(), Slot{}, Slot{},
              o.view());
    });
    CHECK(relative_rms(o.values(), expected) <= bound(p));
  });
}

}  // namespace
