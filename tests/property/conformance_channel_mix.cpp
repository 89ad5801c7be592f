#include <jet/block/rwkv7_channel_mix.hpp>

#include "candidate_cases.hpp"

namespace {

using namespace tests;
using Mix = jet::Rwkv7ChannelMix<jet::ChannelMixConfig{.d_model = 23, .hidden = 37}>;

TEST_CASE_TEMPLATE("conformance: RWKV-7 channel mixing", B, F64, F32, Bf16) {
  candidate_conforms<Mix, B>();
}

}  // namespace
