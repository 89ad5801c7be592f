/// \file
/// Short convolutions on the CPU: tasks are tiles of tokens times blocks of channels; the generated kernels of a
/// tile live in a worker's scratch only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include <jet/cpu/rows.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

inline constexpr i64 conv_tokens = 64;    // of a tile
inline constexpr i64 conv_channels = 64;  // of a block
inline constexpr i64 max_conv_taps = 64;

/// The inputs that a tile's outputs see, as T: row i is input first - (taps - 1) + i, from the state or zero where
/// that is before the call.
template <class T>
void conv_window(KernelTable<T> const& k, Sequence const& seq, i64 taps, i64 first, i64 count, i64 channel,
                 i64 width, View const& x, Slot const& state, T* window) {
  for (i64 i = 0; i < taps - 1 + count; ++i) {
    i64 const t = first - (taps - 1) + i;
    T* const row = window + i * width;
    void const* from = nullptr;
    if (t >= 0) {
      from = x.columns(channel, width).row_bytes(seq.begin + t);
    } else if (state) {
      i64 const element = seq.slot * state.stride[0] + (taps + t) * state.stride[1] + channel;
      from = static_cast<char const*>(state.data) + element * size_of(state.dtype);
    }
    if (from == nullptr) {
      std::fill_n(row, width, T{0});
    } else {
      T const* loaded = load_row(k, t >= 0 ? x.dtype : state.dtype, from, width, row);
      if (loaded != row) {
        std::copy_n(loaded, width, row);
      }
    }
  }
}

/// state <- the last `taps` rows of (state, x), for any number of new rows.
template <class B> void conv_keep(Context<B>& ctx, i64 taps, View const& x, Slot const& state) {
  if (!state) {
    return;
  }
  JET_ASSERT(state.dtype == x.dtype);
  i64 const row_bytes = x.width() * size_of(x.dtype);
  for (i64 i = 0; i < ctx.seqs(); ++i) {
    Sequence const seq = ctx.sequence(i);
    if (!seq.active() || seq.tokens == 0) {
      continue;
    }
    char* const base = static_cast<char*>(state.data) + seq.slot * state.stride[0] * size_of(state.dtype);
    i64 const fresh = std::min(seq.tokens, taps);
    std::memmove(base, base + fresh * row_bytes, static_cast<std::size_t>((taps - fresh) * row_bytes));
    for (i64 j = 0; j < fresh; ++j) {
      std::memcpy(base + (taps - fresh + j) * row_bytes, x.row_bytes(seq.begin + seq.tokens - fresh + j),
                  static_cast<std::size_t>(row_bytes));
    }
  }
}

/// The kernels [count, width * taps] of a tile of tokens and a block of channels; `hidden` is after silu.
template <class T>
void conv_generate(KernelTable<T> const& k, Sequence const& seq, i64 taps, i64 first, i64 count, i64 channel,
                   i64 width, View const& hidden, Slot const& w2, Slot const& b2, T* kernels) {
  GemmNt<T> g;
  g.m = count;
  g.n = width * taps;
  g.k = hidden.width();
  g.a = hidden.row_bytes(seq.begin + first);
  g.lda = hidden.stride[0];
  g.b = w2.row_bytes(channel * taps);
  g.ldb = w2.stride[0];
  g.c = kernels;
  g.ldc = g.n;
  g.bias = b2.as<T>() + channel * taps;
  k.gemm_nt[storage_index(hidden.dtype)][storage_index(w2.dtype)][0](g);
}

/// to = silu(hidden), row by row, of any storage type; a worker's memory holds one row.
template <class B, class T>
void conv_silu(Context<B>& ctx, View const& hidden, View const& to, WorkerScratch<T> const& workers) {
  auto const& k = ctx.backend().kernels();
  i64 const r = hidden.width();
  parallel_rows(ctx.backend(), hidden.tokens(), r, [&](i64 begin, i64 end, int worker) {
    for (i64 t = begin; t < end; ++t) {
      T* const out = row_target(to.dtype, to.row_bytes(t), workers.of(worker));
      k.silu(r, hidden.row<T>(t), out);
      store_row(k, to.dtype, out, r, to.row_bytes(t));
    }
  });
}

/// f(seq, first token, tokens, first channel, channels, worker) over all tiles of all active sequences.
template <class B, class F> void conv_tiles(Context<B>& ctx, i64 channels, F const& f) {
  i64 const blocks = (channels + conv_channels - 1) / conv_channels;
  for_tiles(ctx, conv_tokens, blocks, [&](Sequence const& seq, i64 first, i64 count, i64 block, int worker) {
    i64 const channel = block * conv_channels;
    f(seq, first, count, channel, std::min(conv_channels, channels - channel), worker);
  });
}

}  // namespace cpu

template <> struct Kernel<op::ShortConv, tag::cpu> {
  template <class B>
  static auto scratch(Context<B>& ctx, op::ShortConv const& op, Slot const&, Slot const&, View const&, Slot const&,
                      View const&) {
    return cpu::worker_scratch(ctx, (cpu::conv_tokens + op.taps) * cpu::conv_channels);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::ShortConv const& op, S const& memory, Slot const& weight, Slot const& bias,
                  View const& x, Slot const& state, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    JET_ASSERT(op.taps <= cpu::max_conv_taps);
    cpu::conv_tiles(ctx, x.width(),
                    [&](Sequence const& seq, i64 first, i64 count, i64 channel, i64 width, int worker) {
                      T* const window = memory.of(worker);
                      cpu::conv_window(k, seq, op.taps, first, count, channel, width, x, state, window);
                      T const* rows[cpu::max_conv_taps];
                      for (i64 t = 0; t < count; ++t) {
                        for (i64 i = 0; i < op.taps; ++i) {
                          rows[i] = window + (t + i) * width;
                        }
                        T* const out = y.row<T>(seq.begin + first + t) + channel;
                        k.conv(width, static_cast<int>(op.taps), rows, weight.as<T>() + channel * op.taps,
                               bias ? bias.as<T>() + channel : nullptr, out);
                        if (op.silu) {
                          k.silu(width, out, out);
                        }
                      }
                    });
    cpu::conv_keep(ctx, op.taps, x, state);
  }
};

template <> struct Kernel<op::DynamicConv, tag::cpu> {
  template <class T> struct Memory {
    View hidden;  // silu of the generator's first product, at act
    cpu::WorkerScratch<T> workers;
  };
  template <class B>
  static Memory<cpu::scalar_of<B>> scratch(Context<B>& ctx, op::DynamicConv const& op, View const& hidden,
                                           Slot const&, Slot const&, View const&, Slot const&, View const&) {
    i64 const window = (cpu::conv_tokens + op.taps) * cpu::conv_channels;
    i64 const kernels = cpu::conv_tokens * cpu::conv_channels * op.taps;
    return {ctx.scratch(hidden.tokens(), hidden.width()),
            cpu::worker_scratch(ctx, std::max(window + kernels, hidden.width()))};
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::DynamicConv const& op, S const& memory, View const& hidden, Slot const& w2,
                  Slot const& b2, View const& x, Slot const& state, View const& y) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    JET_ASSERT(op.taps <= cpu::max_conv_taps);
    cpu::conv_silu(ctx, hidden, memory.hidden, memory.workers);
    cpu::conv_tiles(
        ctx, x.width(), [&](Sequence const& seq, i64 first, i64 count, i64 channel, i64 width, int worker) {
          T* const window = memory.workers.of(worker);
          T* const kernels = window + (cpu::conv_tokens + op.taps) * cpu::conv_channels;
          cpu::conv_window(k, seq, op.taps, first, count, channel, width, x, state, window);
          cpu::conv_generate(k, seq, op.taps, first, count, channel, width, memory.hidden, w2, b2, kernels);
          T const* rows[cpu::max_conv_taps];
          for (i64 t = 0; t < count; ++t) {
            for (i64 i = 0; i < op.taps; ++i) {
              rows[i] = window + (t + i) * width;
            }
            T* const out = y.row<T>(seq.begin + first + t) + channel;
            k.conv(width, static_cast<int>(op.taps), rows, kernels + t * width * op.taps, nullptr, out);
            k.silu(width, out, out);
          }
        });
    cpu::conv_keep(ctx, op.taps, x, state);
  }
};

JET_NAMESPACE_END
