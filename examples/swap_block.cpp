// Swaps one block everywhere, one layer, and chooses a plan at run time.
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <jet/jet.hpp>

namespace {

// A small hybrid: JetBlocks with full attention in the middle and a sliding window after it.
inline constexpr jet::AttentionConfig attention{.d_model = 128, .heads = 4, .kv_heads = 2, .head = 32};
inline constexpr jet::JetBlockConfig jet_block{.d_model = 128, .heads = 2, .head_k = 32, .head_v = 64};

struct Small
    : jet::CausalLM<jet::LmConfig{.vocab = 1000, .d_model = 128, .mlp = 352}, "JJAJSJ",
                    jet::Bind<'J', jet::JetBlock<jet_block>>, jet::Bind<'A', jet::FullAttention<attention>>,
                    jet::Bind<'S', jet::SlidingWindow<attention, 64>>> {};

// Swap a block everywhere: the same plan, another JetBlock.
inline constexpr jet::JetBlockConfig wide{.d_model = 128, .heads = 4, .head_k = 32, .head_v = 64};
struct Wide : Small::rebind<jet::Bind<'J', jet::JetBlock<wide>>> {};

// Change one layer.
struct MoreAttention : Small::replan<"JAAJSJ"> {};

template <class Model> void report(char const* name) {
  using B = jet::Cpu<jet::precision::f32>;
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate(B{});
  jet::initialise(*weights, 1);
  jet::Engine<Model, B> lm(weights, {.max_len = 256, .chunk = 64});
  std::vector<std::int32_t> prompt(100);
  std::iota(prompt.begin(), prompt.end(), 1);
  lm.append(0, prompt);
  auto const plan = lm.memory_plan();
  std::printf("%-14s %s  %8lld parameters  state %7.1f KiB\n", name, Model::plan().data(),
              static_cast<long long>(Model::num_params()),
              static_cast<double>(plan.kv + plan.recurrent + plan.conv) / 1024.0);
}

}  // namespace

int main() {
  report<Small>("Small");
  report<Wide>("Wide");
  report<MoreAttention>("MoreAttention");

  // A plan at run time: a store that holds two letters in every layer runs any mixture of them, with the same
  // kernels and without allocation. This is what a search over placements does.
  using B = jet::Cpu<jet::precision::f32>;
  auto store = std::make_shared<jet::Weights<Small>>(std::vector<std::string>(Small::layers, "JA"));
  store->allocate(B{});
  jet::initialise(*store, 1);
  jet::Engine<Small, B> lm(store, {.max_len = 256, .chunk = 64, .plan = "JJJJJJ"});
  std::vector<std::int32_t> const prompt{1, 2, 3, 4, 5};
  for (std::string const plan : {"JJJJJJ", "JJAJJJ", "AAAAAA"}) {
    lm.set_plan(plan);
    lm.reset(0);
    jet::View const logits = lm.append(0, prompt);
    std::printf("plan %s  %8lld parameters  logit of token 7: %+.4f\n", plan.c_str(),
                static_cast<long long>(Small::num_params(plan)), static_cast<double>(logits.row<float>(0)[7]));
  }
}
