// Embedding and the choice of rows.
#include <cstdint>

#include <jet/op/embedding.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;

TEST_CASE_TEMPLATE("Embedding copies rows, inactive ones are zero", B, F64, F32, Bf16Weights, Bf16) {
  constexpr jet::Precision p = B::precision;
  B backend;
  Matrix const table = rounded(normal(11, 13, 1), p.weights);
  Activation<B> const t(backend, table, p.weights), x(backend, 7, 13, p.act);
  Batch batch;
  batch.add(1, 3, 0);
  batch.add(0, 0, 4);
  batch.add(-1, 2, 0);
  batch.add(2, 2, 9);
  std::vector<std::int32_t> const ids{10, 0, 3, -7, 1 << 30, 3, 10};  // those of the inactive row are not read
  run_planned(backend, batch, [&](auto& ctx) {
    ctx.run(jet::op::Embedding{}, t.slot({11, 13}), ids.data(), x.view());
  });
  Matrix const got = x.values();
  for (i64 i = 0; i < 7; ++i) {
    for (i64 j = 0; j < 13; ++j) {
      CHECK(got.at(i, j) == (i == 3 || i == 4 ? 0.0 : table.at(ids[static_cast<std::size_t>(i)], j)));
    }
  }
}

TEST_CASE_TEMPLATE("GatherRows", B, F64, Bf16) {
  constexpr jet::Precision p = B::precision;
  B backend;
  Matrix const x = rounded(normal(9, 5, 1), p.act);
  Activation<B> const xa(backend, x, p.act), y(backend, 4, 5, p.act), none(backend, 0, 5, p.act);
  std::vector<std::int64_t> const rows{8, 0, 0, 3};
  run_planned(backend, one(9), [&](auto& ctx) {
    ctx.run(jet::op::GatherRows{}, xa.view(), rows.data(), y.view());
    ctx.run(jet::op::GatherRows{}, xa.view(), rows.data(), none.view());
  });
  for (i64 i = 0; i < 4; ++i) {
    for (i64 j = 0; j < 5; ++j) {
      CHECK(y.values().at(i, j) == x.at(rows[static_cast<std::size_t>(i)], j));
    }
  }
}

}  // namespace
