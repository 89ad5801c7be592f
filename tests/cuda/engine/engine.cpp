// Engines on the device, used by a host translation unit that knows the backend by name only.
#define DOCTEST_CONFIG_IMPLEMENT
#include "checks.hpp"

#include <cstdio>

#include <jet/cpu/cpu.hpp>

#include "models.hpp"

using cuda_engine::Bf16;
using cuda_engine::F32;
using cuda_engine::Small;
using cuda_engine::Windows;

extern template class jet::Engine<golden::TinyQwen3, F32>;
extern template class jet::Engine<golden::TinyLlama3, F32>;
extern template class jet::Engine<Windows, F32>;
extern template class jet::Engine<Windows, Bf16>;
extern template class jet::Engine<golden::TinyJet, F32>;
extern template class jet::Engine<golden::TinyJet, Bf16>;
extern template class jet::Engine<golden::TinyJet, Small>;

int main(int argc, char** argv) {
  if (cuda_engine::devices() == 0) {
    std::printf("no CUDA device: not run\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}

TEST_CASE("checkpoints of the reference classes on the device") {
  checks::golden_checkpoint<golden::TinyQwen3, F32>(1e-5);
  checks::golden_checkpoint<golden::TinyLlama3, F32>(1e-5);
  checks::golden_checkpoint<golden::TinyJet, F32>(1e-5);
  checks::golden_checkpoint<golden::TinyJet, Bf16>(3e-2);
}

TEST_CASE("repeats, neighbours and recording change no bit") {
  checks::bits_stay<Windows, F32>(40);
  checks::bits_stay<Windows, Bf16>(40);
  checks::bits_stay<golden::TinyJet, F32>(40);
  checks::bits_stay<golden::TinyJet, Bf16>(40);
  checks::bits_stay<golden::TinyJet, Small>(40);
}

TEST_CASE("pieces of a prompt agree with the whole") {
  checks::pieces_agree<Windows, F32>();
  checks::pieces_agree<Windows, Bf16>();
  checks::pieces_agree<golden::TinyJet, F32>();
  checks::pieces_agree<golden::TinyJet, Bf16>();
}

TEST_CASE("keys and values in pages change no bit") {
  checks::pages_agree<Windows, F32>();
  checks::pages_agree<golden::TinyJet, Bf16>();
  checks::pages_agree<golden::TinyJet, Small>();
}

TEST_CASE("memory is what was planned; streaming, sampling, errors") {
  checks::memory_and_streaming<Windows, F32>();
  checks::memory_and_streaming<Windows, Bf16>();
  checks::memory_and_streaming<golden::TinyJet, F32>();
  checks::memory_and_streaming<golden::TinyJet, Small>();
}

TEST_CASE("a saved sequence goes on on the other backend") {
  checks::state_travels<Windows, jet::Cpu<jet::precision::f32>, F32>();
  checks::state_travels<Windows, F32, jet::Cpu<jet::precision::f32>>();
  checks::state_travels<golden::TinyJet, jet::Cpu<jet::precision::f32>, F32>();
  checks::state_travels<golden::TinyJet, jet::Cpu<jet::precision::bf16>, Bf16>();
  checks::state_travels<golden::TinyJet, Small, Small>();
}

TEST_CASE("a thousand decode steps take no memory") {
  jet::EngineOptions const options{.slots = 3, .max_len = 1100, .chunk = 16};
  jet::Engine<Windows, Bf16> lm(checks::random_weights<Windows, Bf16>(9), options);
  checks::Ids const ids = checks::random_ids(10, 1, Windows::config.vocab);
  for (std::int32_t const s : {0, 1, 2}) {
    lm.append(s, ids);
  }
  checks::Ids const slots{0, 1, 2};
  lm.begin_decode(slots, checks::Ids{1, 2, 3});
  for (int i = 0; i < 5; ++i) {
    lm.decode_step();
  }
  jet::i64 const before = cuda_engine::free_device_memory();
  for (int i = 0; i < 1000; ++i) {
    lm.decode_step(i % 10 == 0 ? jet::Logits::all : jet::Logits::none);
  }
  lm.decode_tokens();
  CHECK(cuda_engine::free_device_memory() == before);
  CHECK(lm.length(1) == 1015);
}

TEST_CASE("an engine refuses a device that is not there") {
  auto weights = checks::random_weights<Windows, F32>(1);
  CHECK_THROWS_AS((jet::Engine<Windows, F32>(weights, {.backend = {.device = 1000}})), jet::Error);
}
