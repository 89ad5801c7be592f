// Six layers of Jet-Nemotron-2B's sizes on the CPU, with JetBlock and with the blocks that have one decay per head
// and JetBlock's state.
#include <jet/cpu/cpu.hpp>

#include "rows.hpp"

namespace {

using B = jet::Cpu<jet::precision::bf16_weights>;

struct SixLayers : jet::CausalLM<jet::LmConfig{.vocab = 4096, .d_model = 1536, .mlp = 8960}, "JASJSA",
                                 jet::Bind<'J', jet::JetBlock<jet::jet_2b>>,
                                 jet::Bind<'A', jet::FullAttention<jet::attention_2b>>,
                                 jet::Bind<'S', jet::SlidingWindow<jet::attention_2b, 1152>>> {};

}  // namespace

std::vector<Row> cpu_2b_rows() {
  return {swapped_row<SixLayers, jet::JetBlock<jet::jet_2b>, B>("JetBlock"),
          swapped_row<SixLayers, jet::RetNet<jet::retnet_2b_equal>, B>("RetNet"),
          mamba2_row<SixLayers, jet::mamba2_2b_equal, B>(),
          swapped_row<SixLayers, jet::GatedDeltaNet<jet::gated_deltanet_2b>, B>("Gated DeltaNet")};
}
