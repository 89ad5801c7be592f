// Counts parameters and cache of every model of the library. Everything printed here is a constant expression: no
// weights are loaded, nothing is allocated.
#include <cstdio>

#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/qwen.hpp>
#include <jet/model/rwkv7.hpp>

namespace {

// fp32 recurrent state, everything else bf16
constexpr jet::Precision policy{.weights = jet::DType::bf16, .act = jet::DType::bf16};

template <class Model> void row(char const* name) {
  constexpr jet::i64 params = Model::num_params();
  constexpr jet::i64 at_64k = Model::template state_bytes<policy>(1, 65536);
  std::printf("%-16s %15lld %8.3f GiB %12.2f MiB   %s\n", name, static_cast<long long>(params),
              static_cast<double>(2 * params) / (1024.0 * 1024 * 1024),
              static_cast<double>(at_64k) / (1024.0 * 1024), Model::plan().data());
}

}  // namespace

int main() {
  std::printf("%-16s %15s %12s %16s   %s\n", "model", "parameters", "bf16", "cache at 64K", "plan");
  row<jet::JetNemotron2B>("Jet-Nemotron-2B");
  row<jet::JetNemotron4B>("Jet-Nemotron-4B");
  row<jet::Qwen2_5_0_5B>("Qwen2.5-0.5B");
  row<jet::Qwen2_5_1_5B>("Qwen2.5-1.5B");
  row<jet::Qwen2_5_3B>("Qwen2.5-3B");
  row<jet::Qwen3_0_6B>("Qwen3-0.6B");
  row<jet::Qwen3_1_7B>("Qwen3-1.7B");
  row<jet::Llama3_2_1B>("Llama-3.2-1B");
  row<jet::Llama3_2_3B>("Llama-3.2-3B");
  row<jet::SmolLM2_135M>("SmolLM2-135M");
  row<jet::SmolLM2_360M>("SmolLM2-360M");
  row<jet::SmolLM2_1_7B>("SmolLM2-1.7B");
  row<jet::Mamba2_2_7B>("Mamba2-2.7B");
  row<jet::Rwkv7_1_5B>("RWKV7-1.5B");
}
