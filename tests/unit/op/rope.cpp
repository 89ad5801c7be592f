// Rotary positions against the float64 reference.
#include <jet/op/rope.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
namespace reference = jet::reference;

struct Kind {
  char const* name;
  jet::RopeConfig config;
  Vector (*inv_freq)(i64);
};
std::vector<Kind> const& kinds() {
  static std::vector<Kind> const list{
      {"default", {}, [](i64 d) { return reference::rope_inv_freq(d, 1e4); }},
      {"theta 1e6", {.theta = 1e6}, [](i64 d) { return reference::rope_inv_freq(d, 1e6); }},
      {"llama 3.2",
       {.theta = 5e5, .scaling = {.factor = 32, .original_max_position = 8192}},
       [](i64 d) {
         return reference::rope_inv_freq_llama3(d, 5e5, {.factor = 32, .original_max_position = 8192});
       }},
      {"llama 3 short",
       {.theta = 1e4,
        .scaling = {.factor = 8, .low_freq_factor = 2, .high_freq_factor = 3, .original_max_position = 100}},
       [](i64 d) {
         return reference::rope_inv_freq_llama3(d, 1e4, {8, 2, 3, 100});
       }},
  };
  return list;
}

TEST_CASE_TEMPLATE("RopeTable and Rope equal the reference", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  constexpr double bound = p.acc == DType::f64 ? 1e-12 : 2e-7;
  for_isas<B>([&](B& backend) {
    for (Kind const& kind : kinds()) {
      for (i64 const head : {i64{2}, i64{6}, i64{64}, i64{128}}) {
        CAPTURE(kind.name);
        CAPTURE(head);
        // an empty sequence, a short one, one that starts late
        i64 const heads = head == 64 ? 12 : 3;
        Batch batch;
        batch.add(0, 5, 0);
        batch.add(1, 0, 9);
        batch.add(2, 65, 100000);
        Matrix const x = rounded(normal(70, heads * head, 1), p.acc);
        Activation<B> const table(backend, 70, head, p.acc), xa(backend, x, p.acc);
        run_planned(backend, batch, [&](auto& ctx) {
          ctx.run(jet::op::RopeTable{kind.config, head}, table.view());
          ctx.run(jet::op::Rope{heads, head}, table.view(), xa.view());
        });
        Vector const inv_freq = kind.inv_freq(head);
        Matrix const expected =
            reference::concatenate(reference::rope(reference::rows_of(x, 0, 5), heads, inv_freq, 0),
                                   reference::rope(reference::rows_of(x, 5, 65), heads, inv_freq, 100000));
        CHECK(relative_rms(xa.values(), expected) <= bound);
        Matrix angles(70, head);
        for (i64 t = 0; t < 70; ++t) {
          double const position = static_cast<double>(t < 5 ? t : 100000 + t - 5);
          for (i64 m = 0; m < head / 2; ++m) {
            angles.at(t, m) = std::cos(position * reference::at(inv_freq, m));
            angles.at(t, head / 2 + m) = std::sin(position * reference::at(inv_freq, m));
          }
        }
        // the frequencies come from another formula: a few ulp of the angle
        CHECK(reference::max_abs(table.values(), angles) <= (p.acc == DType::f64 ? 1e-9 : 1.2e-7));
      }
    }
  });
}

TEST_CASE("tables of different configs have different keys") {
  std::vector<std::uint64_t> keys;
  for (Kind const& kind : kinds()) {
    for (i64 const head : {i64{64}, i64{128}}) {
      for (std::uint64_t const key : keys) {
        CHECK(key != kind.config.key(head));
      }
      keys.push_back(kind.config.key(head));
    }
  }
}

}  // namespace
