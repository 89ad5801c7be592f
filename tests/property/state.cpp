// State: paged, of another dtype. (What every block promises about its state: conformance.)
#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::reference::rows_of;

// Pages anywhere in the pool, in any order.
template <class M, class B> void paged(i64 page_size) {
  constexpr i64 max_len = 1200;
  i64 const per_sequence = (max_len + page_size - 1) / page_size;
  HarnessOptions options{.slots = 2, .max_len = max_len, .backend = {.threads = 2}};
  Subject<M, B> contiguous(options);
  options.page_size = page_size;
  options.pages = 2 * per_sequence + 1;
  Subject<M, B> pages(options);
  auto const spare = pages.raw_state(2 * per_sequence);
  auto const table = [&](Batch& batch, std::vector<i64> const& sequences) {
    batch.page_size = page_size;
    for (i64 const i : sequences) {
      for (i64 j = 0; j < per_sequence; ++j) {
        batch.pages.push_back(static_cast<std::int32_t>(2 * (per_sequence - 1 - j) + i));
      }
    }
  };
  std::uint64_t seed = 0;
  for (auto const& [first, second] :
       std::vector<std::pair<i64, i64>>{{3, 70}, {1, 1}, {509, 0}, {1, 600}, {17, 1}, {1, 1}}) {
    Batch plain;
    plain.add(0, first, contiguous.length(0));
    plain.add(1, second, contiguous.length(1));
    Batch with_pages = plain;
    table(with_pages, {0, 1});
    Matrix const x = normal(first + second, M::width, ++seed);
    Matrix const y = contiguous.forward(plain, x);
    CHECK(all_finite(y));
    CHECK(same_bits(pages.forward(with_pages, x), y));
  }
  CHECK(pages.raw_state(2 * per_sequence) == spare);  // a page of nobody
}
TEST_CASE_TEMPLATE("paged keys and values equal contiguous ones, bit for bit", B, F64, F32, Bf16) {
  // tiles of up to 512 keys are cut alike; other pages cut the sums elsewhere
  SUBCASE("full attention, 512") {
    paged<Full, B>(512);
  }
  SUBCASE("a window is never paged") {
    paged<Window, B>(512);
  }
  SUBCASE("JetBlock has none") {
    paged<Jet, B>(512);
  }
}

template <class B> void small_pages(i64 page_size) {
  constexpr i64 total = 150;
  HarnessOptions options{.slots = 1, .max_len = 160, .backend = {.threads = 2}};
  Subject<Full, B> contiguous(options);
  options.page_size = page_size;
  options.pages = (160 + page_size - 1) / page_size;
  Subject<Full, B> pages(options);
  Matrix const x = normal(total, Full::width, 3);
  Matrix y(0, Full::width);
  for (i64 const n : random_pieces(5, total)) {
    Batch batch;
    batch.add(0, n, pages.length(0));
    batch.page_size = page_size;
    for (i64 j = 0; j < options.pages; ++j) {
      batch.pages.push_back(static_cast<std::int32_t>(options.pages - 1 - j));
    }
    y = jet::reference::concatenate(y, pages.forward(batch, rows_of(x, y.rows, n)));
  }
  CHECK(relative_rms(y, in_pieces(contiguous, x, random_pieces(5, total))) <= split_bound(B::precision));
}
TEST_CASE_TEMPLATE("pages of any size", B, F64, F32, Bf16) {
  for (i64 const size : {i64{1}, i64{5}, i64{16}, i64{100}, i64{160}}) {
    CAPTURE(size);
    small_pages<B>(size);
  }
}

// ---- dtypes of state and cache beside the policies'

template <DType State, DType Kv>
using Mixed = jet::Cpu<jet::Precision{DType::f32, DType::f32, DType::f32, State, Kv}>;

// Differs from float state by roundings, once per call.
template <class B> void rounded_state(double per_call) {
  Subject<Jet, B> block(harness_options(1));
  Subject<Jet, F32> exact(harness_options(1));
  Matrix const x = normal(130, Jet::width, 3);
  for (auto const& pieces : {std::vector<i64>{130}, pieces_of(20, 130)}) {
    Matrix const y = in_pieces(block, x, pieces), expected = in_pieces(exact, x, pieces);
    double const distance = state_distance(block.state(0), exact.state(0));
    CHECK(distance <= per_call * std::sqrt(static_cast<double>(pieces.size())));
    CHECK(distance > 0);
    CHECK(relative_rms(y, expected) <= per_call * std::sqrt(static_cast<double>(pieces.size())));
  }
  CHECK(same_bits(in_pieces(block, x, {130}), in_pieces(exact, x, {130})));  // the first call sees no rounded state
}
TEST_CASE("recurrent state kept as bf16 and f16") {
  rounded_state<Mixed<DType::bf16, DType::f32>>(4e-3);
  rounded_state<Mixed<DType::f16, DType::f32>>(5e-4);
}

// Keys and values are rounded before they are used, so a split changes nothing here either.
template <class M> void rounded_cache() {
  using B = Mixed<DType::f32, DType::bf16>;
  Subject<M, B> block(harness_options(1));
  Subject<M, F32> exact(harness_options(1));
  Matrix const x = normal(130, M::width, 3);
  Matrix const whole = in_pieces(block, x, {130});
  auto const state = block.state(0);
  CHECK(relative_rms(whole, in_pieces(exact, x, {130})) <= 4e-3);
  CHECK(state_distance(state, exact.state(0)) <= 4e-3);
  CHECK(state_distance(state, exact.state(0)) > 1e-4);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    CHECK(relative_rms(in_pieces(block, x, random_pieces(seed, 130)), whole) <= split_bound(jet::precision::f32));
  }
}
TEST_CASE("keys and values kept as bf16 under float activations") {
  rounded_cache<Full>();
  rounded_cache<Window>();
}

}  // namespace
