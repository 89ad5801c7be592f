/// \file
/// Everything that runs on the CPU. Needs a C++20 compiler and Eigen; reading checkpoints needs nlohmann-json. The
/// tokenizer is a component of its own (<jet/io/tokenizer.hpp>, PCRE2 and utf8proc).
#pragma once

#include <jet/block/deltanet.hpp>
#include <jet/block/full_attention.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rms_norm.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/block/rwkv7_channel_mix.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/block/swiglu_mlp.hpp>
#include <jet/concepts.hpp>
#include <jet/cpu/cpu.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/qwen.hpp>
#include <jet/model/rwkv7.hpp>
#include <jet/model/training.hpp>
