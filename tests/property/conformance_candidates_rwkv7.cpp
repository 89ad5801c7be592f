#include <jet/block/rwkv7.hpp>

#include "candidate_cases.hpp"

namespace {

using namespace tests;
using Rwkv7 = jet::Rwkv7<jet::Rwkv7Config{
    .d_model = 20, .heads = 2, .head = 9, .decay_rank = 5, .rate_rank = 4, .gate_rank = 6}>;

TEST_CASE_TEMPLATE("conformance: RWKV-7", B, F64, F32, Bf16) {
  candidate_conforms<Rwkv7, B>();
}

}  // namespace
