// RWKV-7 and Mamba2, whole and small, on the device: layer norms, a norm of the embedding, channel mixing, no MLP.
#define DOCTEST_CONFIG_IMPLEMENT
#include "cuda/engine/checks.hpp"

#include <cstdio>
#include <memory>

#include <jet/cpu/cpu.hpp>

#include "models.hpp"

using cuda_stacks::Bf16;
using cuda_stacks::F32;
using tiny_stacks::TinyMamba2;
using tiny_stacks::TinyRwkv7;

extern template class jet::Engine<TinyRwkv7, F32>;
extern template class jet::Engine<TinyRwkv7, Bf16>;
extern template class jet::Engine<TinyMamba2, F32>;
extern template class jet::Engine<TinyMamba2, Bf16>;

int main(int argc, char** argv) {
  if (cuda_stacks::devices() == 0) {
    std::printf("no CUDA device: not run\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}

namespace {

// The same weights and tokens on both backends: logits of all tokens of a prompt in two pieces, then of decode
// steps.
template <class Model, class B> void equals_the_cpu(double bound) {
  using Oracle = jet::Cpu<jet::precision_of<B>>;
  auto const weights = checks::random_weights<Model, B>(4);
  jet::EngineOptions const options{.slots = 2, .max_len = 256, .chunk = 200, .max_logits = 200};
  jet::Engine<Model, Oracle> cpu(weights, options);
  jet::Engine<Model, B> gpu(weights, options);
  checks::Ids const ids = checks::random_ids(190, 3, Model::config.vocab);
  double worst = 0;
  auto const compare = [&](jet::View const& got, jet::View const& want) {
    double const error = jet::reference::relative_rms(checks::doubles(got), checks::doubles(want));
    CHECK(error < bound);
    worst = std::max(worst, error);
  };
  for (auto const& [from, n] : {std::pair<jet::i64, jet::i64>{0, 131}, {131, 1}, {132, 48}}) {
    compare(gpu.forward(checks::one(1, n, from), checks::part(ids, from, n)),
            cpu.forward(checks::one(1, n, from), checks::part(ids, from, n)));
  }
  checks::Ids const slot{1};
  gpu.begin_decode(slot, checks::part(ids, 180, 1));
  cpu.begin_decode(slot, checks::part(ids, 180, 1));
  for (jet::i64 t = 180; t < 190; ++t) {
    gpu.set_decode_tokens(checks::part(ids, t, 1));
    cpu.set_decode_tokens(checks::part(ids, t, 1));
    compare(gpu.decode_step(), cpu.decode_step());
  }
  std::printf("largest error %.2e\n", worst);
}

}  // namespace

TEST_CASE("the device agrees with the CPU") {
  equals_the_cpu<TinyRwkv7, F32>(1e-5);
  equals_the_cpu<TinyMamba2, F32>(1e-5);
  equals_the_cpu<TinyRwkv7, Bf16>(8e-2);
  equals_the_cpu<TinyMamba2, Bf16>(8e-2);
}

TEST_CASE("repeats, neighbours and recording change no bit") {
  checks::bits_stay<TinyRwkv7, Bf16>(40);
  checks::bits_stay<TinyMamba2, Bf16>(40);
}

// Of RWKV-7 a stack cannot begin in the middle without the first layer's values: its pieces are compared above.
TEST_CASE("pieces of a prompt agree with the whole") {
  checks::pieces_agree<TinyMamba2, F32>();
}

TEST_CASE("memory is what was planned; streaming, sampling, errors") {
  checks::memory_and_streaming<TinyRwkv7, F32>();
  checks::memory_and_streaming<TinyMamba2, F32>();
}
