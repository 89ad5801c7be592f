// The end of a decode step.
#include <cstdint>

#include <jet/op/sample.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;

TEST_CASE_TEMPLATE("Greedy takes the lowest index of the largest logit, Advance moves on", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const vocab : {i64{1}, i64{2}, i64{17}, i64{1000}}) {
      CAPTURE(vocab);
      Matrix logits = rounded(normal(5, vocab, 1), p.acc);
      if (vocab >= 17) {
        logits.at(0, 3) = logits.at(0, 11) = 50;  // equal
        logits.at(1, vocab - 1) = 60;             // the last
        logits.at(2, 0) = 60;                     // the first
        for (i64 j = 0; j < vocab; ++j) {
          logits.at(4, j) = -1000.0 - static_cast<double>(j);  // all negative
        }
      }
      Activation<B> const l(backend, logits, p.acc);
      Batch batch;
      for (i64 i = 0; i < 5; ++i) {
        batch.add(i == 3 ? -1 : static_cast<std::int32_t>(i), 1, 10 * i);
      }
      std::vector<std::int32_t> ids(5, -5);
      std::vector<std::int64_t> position = batch.position;
      run_planned(backend, batch, [&](auto& ctx) {
        ctx.run(jet::op::Greedy{}, l.view(), ids.data());
        ctx.run(jet::op::Advance{}, position.data());
      });
      for (i64 i = 0; i < 5; ++i) {
        auto const s = static_cast<std::size_t>(i);
        i64 best = 0;
        for (i64 j = 1; j < vocab; ++j) {
          best = logits.at(i, j) > logits.at(i, best) ? j : best;
        }
        CHECK(ids[s] == (i == 3 ? -5 : best));
        CHECK(position[s] == 10 * i + (i == 3 ? 0 : 1));
      }
    }
  });
}

}  // namespace
