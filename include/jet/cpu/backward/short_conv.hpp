/// \file
/// Backward of the short convolutions on the CPU: tasks are blocks of channels, tiles of tokens in order. With
/// generated kernels a second pass, whose tasks are tiles of tokens, forms the gradient of the generator's hidden
/// values.
#pragma once

#include <algorithm>

#include <jet/cpu/backward/norm.hpp>
#include <jet/cpu/rows.hpp>
#include <jet/cpu/short_conv.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// Row `row` of a sequence's state or of its gradient; null for a null slot.
template <class T> T* conv_state_row(Slot const& state, Sequence const& seq, i64 row, i64 channel) {
  return state ? state.as<T>() + seq.slot * state.stride[0] + row * state.stride[1] + channel : nullptr;
}

/// The gradient of the state after the call belongs to the newest inputs: those of the call go to dx, older ones
/// to the state before it. Everything else starts at zero.
template <class T>
void conv_begin_state(Sequence const& seq, i64 taps, i64 channel, i64 width, View const& dx, Slot const& end,
                      Slot const& begin) {
  for (i64 t = 0; dx && t < seq.tokens; ++t) {
    std::fill_n(dx.row<T>(seq.begin + t) + channel, width, T{0});
  }
  for (i64 row = 0; begin && row < taps; ++row) {
    std::fill_n(conv_state_row<T>(begin, seq, row, channel), width, T{0});
  }
  for (i64 row = 0; end && row < taps; ++row) {
    i64 const at = seq.tokens - taps + row;  // the token that row holds
    T* const to = at >= 0 ? (dx ? dx.row<T>(seq.begin + at) + channel : nullptr)
                          : conv_state_row<T>(begin, seq, taps + at, channel);
    if (to != nullptr) {
      std::copy_n(conv_state_row<T>(end, seq, row, channel), width, to);
    }
  }
}

/// dx_i += dz w_i over the inputs i that output `t` sees; those before the call go to the state's gradient.
template <class T>
void conv_input_gradient(Sequence const& seq, i64 taps, i64 t, i64 channel, i64 width, T const* dz, T const* kernel,
                         View const& dx, Slot const& begin) {
  for (i64 tap = 0; tap < taps; ++tap) {
    i64 const at = t - (taps - 1) + tap;
    T* const to = at >= 0 ? (dx ? dx.row<T>(seq.begin + at) + channel : nullptr)
                          : conv_state_row<T>(begin, seq, taps + at, channel);
    for (i64 c = 0; to != nullptr && c < width; ++c) {
      to[c] += dz[c] * kernel[c * taps + tap];
    }
  }
}

}  // namespace cpu

template <> struct Kernel<op::Backward<op::ShortConv>, tag::cpu> {
  static constexpr i64 tile = cpu::conv_tokens;
  static constexpr i64 block = cpu::conv_channels;

  template <class B>
  static auto scratch(Context<B>& ctx, op::Backward<op::ShortConv> const& op, Slot const&, Slot const&, View const&,
                      Slot const&, View const&, View const&, Slot const&, Slot const&, Slot const&, Slot const&) {
    return cpu::worker_scratch(ctx, (tile + op.forward.taps) * block + 3 * block);
  }
  template <class B, class S>
  static void run(Context<B>& ctx, op::Backward<op::ShortConv> const& op, S const& memory, Slot const& weight,
                  Slot const& bias, View const& x, Slot const& state, View const& dy, View const& dx,
                  Slot const& dweight, Slot const& dbias, Slot const& dstate_end, Slot const& dstate_begin) {
    using T = cpu::scalar_of<B>;
    i64 const taps = op.forward.taps;
    JET_ASSERT(taps <= cpu::max_conv_taps);
    auto const& k = ctx.backend().kernels();
    ctx.backend().parallel((x.width() + block - 1) / block, [&](i64 task, int worker) {
      i64 const channel = task * block;
      i64 const width = std::min(block, x.width() - channel);
      T* const window = memory.of(worker);
      T* const z = window + (tile + taps) * block;
      T* const dz = z + 2 * block;
      T const* const kernel = weight.as<T>() + channel * taps;
      for (i64 i = 0; i < ctx.seqs(); ++i) {
        Sequence const seq = ctx.sequence(i);
        cpu::conv_begin_state<T>(seq, taps, channel, width, dx, dstate_end, dstate_begin);
        for (i64 t = 0; t < seq.tokens; ++t) {
          if (t % tile == 0) {
            cpu::conv_window(k, seq, taps, t, std::min(tile, seq.tokens - t), channel, width, x, state, window);
          }
          T const* rows[cpu::max_conv_taps];
          for (i64 tap = 0; tap < taps; ++tap) {
            rows[tap] = window + (t % tile + tap) * width;
          }
          std::copy_n(dy.row<T>(seq.begin + t) + channel, width, dz);
          if (op.forward.silu) {
            k.conv(width, static_cast<int>(taps), rows, kernel, bias ? bias.as<T>() + channel : nullptr, z);
            cpu::silu_slope(k, width, z, z + block, z);
            cpu::multiply(width, z, dz);
          }
          cpu::conv_input_gradient(seq, taps, t, channel, width, dz, kernel, dx, dstate_begin);
          for (i64 c = 0; dweight && c < width; ++c) {
            for (i64 tap = 0; tap < taps; ++tap) {
              dweight.as<T>()[(channel + c) * taps + tap] += dz[c] * rows[tap][c];
            }
          }
          if (dbias) {
            k.axpy(width, T{1}, dz, dbias.as<T>() + channel);
          }
        }
      }
    });
  }
};

template <> struct Kernel<op::Backward<op::DynamicConv>, tag::cpu> {
  static constexpr i64 tile = cpu::conv_tokens;
  static constexpr i64 block = cpu::conv_channels;

  template <class T> struct Memory {
    View hidden;  // after silu, at act
    View dz;      // (tokens, channels): the gradient before the output's silu
    cpu::WorkerScratch<T> workers;
  };
  /// A worker's window, kernels and two rows.
  static i64 worker_size(i64 taps, i64 hidden) {
    return std::max((tile + taps) * block + tile * block * taps + 2 * block, 2 * hidden);
  }

  template <class B>
  static Memory<cpu::scalar_of<B>> scratch(Context<B>& ctx, op::Backward<op::DynamicConv> const& op,
                                           View const& hidden, Slot const&, Slot const&, View const& x, Slot const&,
                                           View const&, View const&, View const&, Slot const&, Slot const&,
                                           Slot const&, Slot const&) {
    return {ctx.scratch(hidden.tokens(), hidden.width()), ctx.accumulator(x.tokens(), x.width()),
            cpu::worker_scratch(ctx, worker_size(op.forward.taps, hidden.width()))};
  }

  template <class B, class M>
  static void run(Context<B>& ctx, op::Backward<op::DynamicConv> const& op, M const& memory, View const& hidden,
                  Slot const& w2, Slot const& b2, View const& x, Slot const& state, View const& dy,
                  View const& dhidden, View const& dx, Slot const& dw2, Slot const& db2, Slot const& dstate_end,
                  Slot const& dstate_begin) {
    using T = cpu::scalar_of<B>;
    i64 const taps = op.forward.taps;
    JET_ASSERT(taps <= cpu::max_conv_taps);
    auto const& k = ctx.backend().kernels();
    cpu::conv_silu(ctx, hidden, memory.hidden, memory.workers);
    i64 const blocks = (x.width() + block - 1) / block;
    ctx.backend().parallel(blocks, [&](i64 task, int worker) {
      i64 const channel = task * block;
      i64 const width = std::min(block, x.width() - channel);
      for (i64 i = 0; i < ctx.seqs(); ++i) {
        Sequence const seq = ctx.sequence(i);
        cpu::conv_begin_state<T>(seq, taps, channel, width, dx, dstate_end, dstate_begin);
        for (i64 first = 0; first < seq.tokens; first += tile) {
          i64 const count = std::min(tile, seq.tokens - first);
          T* const window = memory.workers.of(worker);
          T* const kernels = window + (tile + taps) * block;
          T* const z = kernels + tile * block * taps;
          cpu::conv_window(k, seq, taps, first, count, channel, width, x, state, window);
          cpu::conv_generate(k, seq, taps, first, count, channel, width, memory.hidden, w2, b2, kernels);
          for (i64 t = 0; t < count; ++t) {
            T const* rows[cpu::max_conv_taps];
            for (i64 tap = 0; tap < taps; ++tap) {
              rows[tap] = window + (t + tap) * width;
            }
            T* const kernel = kernels + t * width * taps;
            T* const dz = memory.dz.template row<T>(seq.begin + first + t) + channel;
            k.conv(width, static_cast<int>(taps), rows, kernel, nullptr, z);
            cpu::silu_slope(k, width, z, z + block, z);
            k.mul_scale(width, T{1}, z, dy.row<T>(seq.begin + first + t) + channel, dz);
            cpu::conv_input_gradient(seq, taps, first + t, channel, width, dz, kernel, dx, dstate_begin);
            kernel_gradient(width, taps, rows, dz, kernel);  // the kernels themselves are done with
            if (db2) {
              k.axpy(width * taps, T{1}, kernel, db2.as<T>() + channel * taps);
            }
          }
          if (dw2) {
            i64 const n = width * taps;
            View const h = memory.hidden.rows(seq.begin + first, count);
            k.gemm_nn[cpu::storage_index(h.dtype)]({n, h.width(), count, kernels, 1, n, h.data, h.stride[0],
                                                    dw2.row<T>(channel * taps), dw2.stride[0], T{1}, T{1}});
          }
        }
      }
    });
    if (dhidden) {
      hidden_gradient(ctx, taps, memory, hidden, w2, x, state, dhidden);
    }
  }

 private:
  /// dkernel[c * taps + i] = dz[c] x_i[c]
  template <class T>
  static void kernel_gradient(i64 width, i64 taps, T const* const* rows, T const* dz, T* kernel) {
    for (i64 c = 0; c < width; ++c) {
      for (i64 tap = 0; tap < taps; ++tap) {
        kernel[c * taps + tap] = dz[c] * rows[tap][c];
      }
    }
  }

  /// dhidden = silu'(hidden) * sum over channels and taps of dkernel W2
  template <class B, class M>
  static void hidden_gradient(Context<B>& ctx, i64 taps, M const& memory, View const& hidden, Slot const& w2,
                              View const& x, Slot const& state, View const& dhidden) {
    using T = cpu::scalar_of<B>;
    auto const& k = ctx.backend().kernels();
    i64 const r = hidden.width();
    cpu::for_tiles(ctx, tile, 1, [&](Sequence const& seq, i64 first, i64 count, i64, int worker) {
      T* const window = memory.workers.of(worker);
      T* const kernels = window + (tile + taps) * block;
      for (i64 channel = 0; channel < x.width(); channel += block) {
        i64 const width = std::min(block, x.width() - channel);
        cpu::conv_window(k, seq, taps, first, count, channel, width, x, state, window);
        for (i64 t = 0; t < count; ++t) {
          T const* rows[cpu::max_conv_taps];
          for (i64 tap = 0; tap < taps; ++tap) {
            rows[tap] = window + (t + tap) * width;
          }
          kernel_gradient(width, taps, rows, memory.dz.template row<T>(seq.begin + first + t) + channel,
                          kernels + t * width * taps);
        }
        k.gemm_nn[cpu::storage_index(w2.dtype)](
            {count, r, width * taps, kernels, width * taps, 1, w2.row_bytes(channel * taps), w2.stride[0],
             dhidden.row<T>(seq.begin + first), dhidden.stride[0], T{1}, channel > 0 ? T{1} : T{0}});
      }
      for (i64 t = seq.begin + first; t < seq.begin + first + count; ++t) {
        cpu::silu_slope(k, r, hidden.row<T>(t), window, window + r);
        cpu::multiply(r, window + r, dhidden.row<T>(t));
      }
    });
  }
};

JET_NAMESPACE_END
