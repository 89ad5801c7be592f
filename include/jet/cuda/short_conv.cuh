/// \file
/// Short convolutions (op/short_conv.hpp) on the device.
#pragma once

#include <algorithm>
#include <cstdint>

#include <jet/core/context.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/conv_generate.cuh>
#include <jet/cuda/conv_generate_rows.cuh>
#include <jet/cuda/conv_hopper.cuh>
#include <jet/cuda/conv_window.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/fwd.hpp>
#include <jet/op/short_conv.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Checks the inputs of whoever sees the last `taps` tokens of a sequence. Throws jet::Error on other shapes and
/// dtypes.
template <class B>
ConvCall conv_inputs(char const* name, Context<B>& ctx, i64 taps, View const& x, Slot const& state) {
  i64 const channels = x.width();
  JET_CHECK(taps >= 1 && taps <= 64, "CUDA: ", name, ": taps is ", taps, ", expected 1 to 64");
  detail::check_rows(name, x, "x", x.tokens(), channels);
  ConvCall call{};
  call.x = x.data;
  call.x_stride = x.stride[0];
  call.channels = channels;
  call.batch = ctx.batch();
  call.taps = static_cast<int>(taps);
  call.type = x.dtype;
  if (state) {
    JET_CHECK(state.dtype == x.dtype && state.rank == 3 && state.extent[1] == taps && state.extent[2] == channels &&
                  state.stride[2] == 1 && state.stride[1] == channels,
              "CUDA: ", name, ": the state must have the shape [slots, ", taps, ", ", channels,
              "] with dense slots and x's dtype ", name_of(x.dtype));
    call.state = state.data;
    call.slot_stride = state.stride[0];
  }
  call.shift = longest_sequence(ctx) <= 1;
  return call;
}
/// The same with the output of a convolution.
template <class B>
ConvCall conv_call(char const* name, Context<B>& ctx, i64 taps, View const& x, Slot const& state, View const& y) {
  ConvCall call = conv_inputs(name, ctx, taps, x, state);
  check_f32_rows(name, y, "y", x.tokens(), x.width());
  call.y = y.as<float>();
  call.y_stride = y.stride[0];
  return call;
}

/// Queues moving the state on, unless that is done with.
template <class = void> void keep_inputs(cudaStream_t stream, ConvCall const& call) {
  if (call.state != nullptr && !call.shift) {
    launch("conv_keep", detail::grid_over(call.batch.seqs * call.channels, 128), stream, &conv_keep<>, call);
  }
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::ShortConv, tag::cuda> {
  template <class B>
  static void run(Context<B>& ctx, op::ShortConv const& op, Slot const& weight, Slot const& bias, View const& x,
                  Slot const& state, View const& y) {
    namespace kernel = cuda::kernel;
    kernel::ConvCall const call = kernel::conv_call("short_conv", ctx, op.taps, x, state, y);
    JET_CHECK(weight.dtype == DType::f32 && weight.numel() == call.channels * op.taps &&
                  (!bias || (bias.dtype == DType::f32 && bias.numel() == call.channels)),
              "CUDA: short_conv: weight and bias must be f32 with ", call.channels, " x ", op.taps, " and ",
              call.channels, " elements");
    cudaStream_t const stream = ctx.backend().stream();
    launch("short_conv", kernel::detail::grid_over(x.tokens() * call.channels, 256), stream, &kernel::short_conv<>,
           call, static_cast<float const*>(weight.as<float>()),
           static_cast<float const*>(bias ? bias.as<float>() : nullptr), op.silu);
    kernel::keep_inputs(stream, call);
  }
};

template <> struct Kernel<op::DynamicConv, tag::cuda> {
  /// silu of the generator's first product in bf16, for products on the tensor cores.
  template <class B>
  static bf16* scratch(Context<B>& ctx, op::DynamicConv const&, View const& hidden, Slot const&, Slot const&,
                       View const&, Slot const&, View const&) {
    return static_cast<bf16*>(ctx.scratch_bytes(hidden.tokens() * hidden.width() * i64{sizeof(bf16)}));
  }
  template <class B>
  static void run(Context<B>& ctx, op::DynamicConv const& op, bf16* memory, View const& hidden, Slot const& w2,
                  Slot const& b2, View const& x, Slot const& state, View const& y) {
    namespace kernel = cuda::kernel;
    kernel::ConvCall const call = kernel::conv_call("dynamic_conv", ctx, op.taps, x, state, y);
    i64 const tokens = x.tokens();
    i64 const r = hidden.width();
    kernel::check_f32_rows("dynamic_conv", hidden, "hidden", tokens, r);
    i64 const rows = call.channels * op.taps;
    JET_CHECK(w2.rank == 2 && w2.extent[0] == rows && w2.extent[1] == r && w2.stride[1] == 1 &&
                  (w2.dtype == DType::f32 || w2.dtype == DType::bf16),
              "CUDA: dynamic_conv: w2 must be f32 or bf16 of the shape (", rows, ", ", r, ")");
    JET_CHECK(b2.dtype == DType::f32 && b2.numel() == rows, "CUDA: dynamic_conv: b2 must be f32 of ", rows,
              " elements");
    if (tokens == 0) {
      return;
    }
    constexpr DType act = B::precision.act;
    kernel::ConvGenerator const generator{hidden.as<float>(),  memory,           w2.data,
                                          b2.as<float>(),      hidden.stride[0], w2.stride[0],
                                          static_cast<int>(r), w2.dtype,         act};
    auto const aligned = [](void const* at, i64 stride, i64 size) {
      return reinterpret_cast<std::uintptr_t>(at) % 16 == 0 && stride * size % 16 == 0;
    };
    cudaStream_t const stream = ctx.backend().stream();
    if (act == DType::bf16 && w2.dtype == DType::bf16 && op.taps == 4 && r % 16 == 0 &&
        aligned(w2.data, w2.stride[0], 2) && aligned(hidden.data, hidden.stride[0], 4) && aligned(b2.data, 0, 0)) {
      if (tokens <= kernel::conv_few && kernel::conv_few_shared(r) <= 160 * 1024) {
        launch("conv_generate_few",
               cuda::Grid{.blocks = (rows + kernel::conv_few_columns - 1) / kernel::conv_few_columns,
                          .threads = 128,
                          .shared_bytes = kernel::conv_few_shared(r),
                          .dependent = true},
               stream, &kernel::conv_generate_few<>, call, generator);
      } else if (ctx.backend().batch_invariant() || !kernel::conv_rows(stream, call, generator)) {
        using Tile = kernel::ConvTile;
        launch("conv_activate", kernel::detail::grid_over(tokens * (r / 4), 256), stream, &kernel::conv_activate<>,
               generator.hidden, generator.hidden_stride, memory, tokens, r);
        if (tokens >= kernel::conv_tiles_from &&
            kernel::conv_tiles_fit(ctx.backend().compute_capability(), call, generator)) {
          kernel::launch_conv_tiles(stream, ctx.backend().multiprocessors(), call, generator);
        } else {
          i64 const column_tiles = (rows + Tile::columns - 1) / Tile::columns;
          launch("conv_generate_many",
                 cuda::Grid{.blocks = (tokens + Tile::tokens - 1) / Tile::tokens * column_tiles,
                            .threads = 256,
                            .shared_bytes = Tile::shared_bytes,
                            .dependent = true},
                 stream, &kernel::conv_generate_many<>, call, generator);
        }
      }
    } else {
      i64 const channels = 64 / op.taps;
      i64 const channel_blocks = (call.channels + channels - 1) / channels;
      auto const grid = [&](i64 tile) {
        return cuda::Grid{.blocks = (tokens + tile - 1) / tile * channel_blocks, .threads = 256, .dependent = true};
      };
      if (tokens <= 16) {
        launch("conv_generate_any", grid(16), stream, &kernel::conv_generate_any<16>, call, generator);
      } else {
        launch("conv_generate_any", grid(64), stream, &kernel::conv_generate_any<64>, call, generator);
      }
    }
    kernel::keep_inputs(stream, call);
  }
};

JET_NAMESPACE_END
