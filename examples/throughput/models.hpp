// The models of throughput on a GPU, one translation unit each, and what was published about them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "../measure.hpp"

// Bf16 weights and activations, fp16 states, fp8 keys and values.
inline constexpr jet::Precision small_caches{jet::DType::bf16, jet::DType::bf16, jet::DType::f32, jet::DType::f16,
                                             jet::DType::f8e4m3};

// On the CUDA backend: bf16 weights, activations, keys and values, fp32 states; one with small caches.
Machine gpu();
Subject jet_nemotron_2b();
Subject jet_nemotron_2b_fp8();
Subject jet_nemotron_4b();
Subject qwen2_5_1_5b();
Subject qwen3_1_7b();
Subject smollm2_1_7b();
Subject llama3_2_3b();
Subject mamba2_2_7b();
Subject rwkv7_1_5b();

// Small ones on the CPU.
Machine this_cpu();
std::vector<Subject> small_models();

// arXiv 2508.15884 (table 3, figure 6) and the commands published with it, on an H100 in the authors' software. 0:
// not published.
struct Published {
  i64 batch = 0;                            // at 64K; not published for Llama-3.2-3B, whose cache is Qwen3-1.7B's
  double decode = 0;                        // tokens/s at 64K
  std::map<i64, i64> batches{};             // by context
  std::map<i64, double> decode_speedup{};   // over Qwen3-1.7B
  std::map<i64, double> prefill_speedup{};  // over Qwen3-1.7B
};

inline std::map<std::string, Published> const& published() {
  constexpr i64 k = 1024;
  static std::map<std::string, Published> const all{
      {"Jet-Nemotron-2B",
       {128,
        2885,
        {{4 * k, 1024}, {8 * k, 512}, {16 * k, 512}, {32 * k, 256}, {64 * k, 128}, {128 * k, 128}, {256 * k, 64}},
        {{4 * k, 15.6},
         {8 * k, 23.3},
         {16 * k, 39.6},
         {32 * k, 44.1},
         {64 * k, 47.5},
         {128 * k, 51.6},
         {256 * k, 53.6}},
        {{4 * k, 1.14},
         {8 * k, 1.15},
         {16 * k, 1.37},
         {32 * k, 1.74},
         {64 * k, 2.54},
         {128 * k, 4.03},
         {256 * k, 6.14}}}},
      {"Jet-Nemotron-2B-fp8", {128}},
      {"Jet-Nemotron-4B", {64, 1271}},
      {"Qwen2.5-1.5B", {32, 241}},
      {"Qwen3-1.7B", {8, 61}},
      {"SmolLM2-1.7B", {4, 32}},
      {"Llama-3.2-3B", {8, 60}},
      {"Mamba2-2.7B", {128, 2507}},
      {"RWKV7-1.5B", {256, 3050}},
  };
  return all;
}
