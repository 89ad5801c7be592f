/// \file
/// The convolution whose kernels come from the input (op/short_conv.hpp, DynamicConv) for many tokens on Hopper:
/// its product on wgmma, the taps and silu while the next tile's product runs.
///
/// A block takes 32 channels (128 rows of w2, which stay in shared memory) and walks over tiles of 128 tokens, two
/// warpgroups in turn; a third part of the block fetches. The rows of w2 lie in shared memory in an order such that
/// a thread's sums are the four taps of eight neighbouring channels: nothing is exchanged between threads before
/// the convolution.
///
/// Every sum of the product runs over the hidden numbers in their order: a token's bits do not depend on the tokens
/// beside it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/conv_generate.cuh>
#include <jet/cuda/conv_window.cuh>
#include <jet/cuda/copy_bulk.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/tensor_map.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/cuda/wgmma.cuh>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Fewest tokens for which conv_generate_tiles is worth its start.
inline constexpr i64 conv_tiles_from = 64;

/// Sizes of conv_generate_tiles: 128 tokens by 32 channels of 4 taps, 64 hidden numbers at a time.
struct ConvTiles {
  static constexpr int tokens = 128;
  static constexpr int channels = 32;
  static constexpr int columns = 4 * channels;
  static constexpr int depth = 64;
  static constexpr int halo = 3;
  static constexpr int consumers = 2;                    // warpgroups
  static constexpr int threads = consumers * 128 + 128;  // the last warpgroup fetches
  static constexpr int fetching_registers = 40;
  static constexpr int computing_registers = 232;
  static constexpr int most_steps = 8;  // of depth: r is at most 512
  static constexpr int most_stages = 6;
  static constexpr int weight_bytes = columns * depth * int{sizeof(bf16)};
  static constexpr int stage_bytes = tokens * depth * int{sizeof(bf16)};
  static constexpr int input_bytes = (tokens + halo) * channels * int{sizeof(bf16)};
  static constexpr int input_room = (input_bytes + 127) / 128 * 128;
  static constexpr int barriers = most_steps + 1 + 2 * most_stages + consumers;
  static constexpr int most_shared = 227 * 1024 - 8 * barriers;
  /// Tiles of tokens whose hidden numbers are walked over for all channels before the next: they stay in L2.
  static constexpr int tiles_at_once = 128;

  /// The weights and the inputs of both consumers; beside them as many stages as there is room for.
  static constexpr int fixed_bytes(int steps) { return 1024 + steps * weight_bytes + consumers * input_room; }
  static constexpr int stages(int steps) {
    int const room = (most_shared - fixed_bytes(steps)) / stage_bytes;
    return room < most_stages ? room : most_stages;
  }
  static constexpr i64 shared_bytes(int steps) {
    return i64{fixed_bytes(steps)} + i64{stages(steps)} * stage_bytes;
  }
};
static_assert(ConvTiles::stages(ConvTiles::most_steps) >= 4);

/// The work in order: tiles of tokens within a column of 32 channels, columns within a group of tiles_at_once
/// tiles.
struct ConvWork {
  int tiles, columns;
  /// Tiles [begin, end) of a group, numbered within it: the share of one of `blocks` blocks.
  struct Share {
    int first, count, begin, end;  // of the group: its first tile, tiles of a column
  };
  __device__ int groups() const { return (tiles + ConvTiles::tiles_at_once - 1) / ConvTiles::tiles_at_once; }
  __device__ Share share(int group) const {
    int const first = group * ConvTiles::tiles_at_once;
    int const count = min(tiles - first, ConvTiles::tiles_at_once);
    i64 const all = i64{count} * columns;
    return {first, count, static_cast<int>(all * blockIdx.x / gridDim.x),
            static_cast<int>(all * (blockIdx.x + 1) / gridDim.x)};
  }
  /// Calls f(column, first tile, count) for every run of tiles of one column in this block's shares, in order.
  template <class F> __device__ void each_run(F const& f) const {
    for (int g = 0; g < groups(); ++g) {
      Share const s = share(g);
      for (int n = s.begin; n < s.end;) {
        int const at = n % s.count;
        int const here = min(s.count - at, s.end - n);
        f(n / s.count, s.first + at, here);
        n += here;
      }
    }
  }
  /// Tiles of this block.
  __device__ int count() const {
    int all = 0;
    for (int g = 0; g < groups(); ++g) {
      Share const s = share(g);
      all += s.end - s.begin;
    }
    return all;
  }
};

/// Eight inputs of a token's window: channels [channel, channel + 8) of tap i, two in a word.
__device__ inline uint4 conv_eight(ConvCall const& call, ConvToken const& at, uint4 const* row, i64 channel,
                                   int i) {
  i64 const t = at.local - 3 + i;
  if (t >= 0) {
    return *row;
  }
  return call.state == nullptr ? uint4{0, 0, 0, 0}
                               : *reinterpret_cast<uint4 const*>(static_cast<bf16 const*>(call.state) + at.state +
                                                                 (4 + t) * call.channels + channel);
}

/// Any number of tokens, 4 taps, bf16, `activated` hidden numbers. The number of channels is a multiple of 8, r at
/// most 512; x, state, w2, y and b2 are 16-byte aligned, row by row. Maps: of the hidden numbers, tiles of 64 x
/// 128; of w2, tiles (64, 2, 4, 16); of x, tiles (32, 131).
template <class = void>
__global__ void __launch_bounds__(ConvTiles::threads, 1)
    conv_generate_tiles(ConvCall const __grid_constant__ call, ConvGenerator const __grid_constant__ generator,
                        CUtensorMap const __grid_constant__ hidden_map,
                        CUtensorMap const __grid_constant__ weight_map,
                        CUtensorMap const __grid_constant__ input_map) {
  using T = ConvTiles;
  if constexpr (has_wgmma) {
    extern __shared__ float4 conv_memory[];
    __shared__ std::uint64_t barriers[T::barriers];  // static: the host asks whether they are there
    int const steps = (generator.r + T::depth - 1) / T::depth;
    int const stages = T::stages(steps);
    std::byte* const base =
        reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(conv_memory) + 1023) / 1024 * 1024);
    std::byte* const weights = base;
    std::byte* const ring = weights + steps * T::weight_bytes;
    std::byte* const inputs = ring + stages * T::stage_bytes;
    std::uint64_t* const weight_full = barriers;
    std::uint64_t* const weight_empty = weight_full + T::most_steps;
    std::uint64_t* const full = weight_empty + 1;
    std::uint64_t* const empty = full + T::most_stages;
    std::uint64_t* const input_full = empty + T::most_stages;
    int const thread = static_cast<int>(threadIdx.x);
    int const warp = thread / warp_size;
    release_next();
    if (thread == 0) {
      for (int i = 0; i < T::most_steps; ++i) {
        barrier_init(&weight_full[i]);
      }
      barrier_init(weight_empty, T::consumers * 4);
      for (int i = 0; i < T::most_stages; ++i) {
        barrier_init(&full[i]);
        barrier_init(&empty[i], 4);  // the warps of one warpgroup
      }
      for (int i = 0; i < T::consumers; ++i) {
        barrier_init(&input_full[i]);
      }
    }
    __syncthreads();

    ConvWork const work{static_cast<int>((call.batch.tokens + T::tokens - 1) / T::tokens),
                        static_cast<int>((call.channels + T::channels - 1) / T::channels)};
    if (warp >= T::consumers * 4) {
      fewer_registers<T::fetching_registers>();
      if (thread == T::consumers * 128) {
        prefetch_map(hidden_map);
        prefetch_map(weight_map);
        prefetch_map(input_map);
        int stage = 0, phase = 0, weight_phase = 0;
        bool waited = false;
        work.each_run([&](int column, int first, int count) {
          int const octet = column * (T::channels / 8);
          barrier_wait(weight_empty, weight_phase ^ 1);
          weight_phase ^= 1;
          for (int k = 0; k < steps; ++k) {
            barrier_expect(&weight_full[k], T::weight_bytes);
            copy_tile(weights + k * T::weight_bytes, weight_map, &weight_full[k], k * T::depth, 0, octet, 0);
          }
          if (!waited) {  // the weights are nobody's result
            wait_for_previous();
            waited = true;
          }
          for (int i = 0; i < count; ++i) {
            int const token = (first + i) * T::tokens;
            for (int k = 0; k < steps; ++k) {
              barrier_wait(&empty[stage], phase ^ 1);
              barrier_expect(&full[stage], T::stage_bytes);
              copy_tile(ring + stage * T::stage_bytes, hidden_map, &full[stage], k * T::depth, token);
              if (++stage == stages) {
                stage = 0;
                phase ^= 1;
              }
            }
          }
        });
        if (!waited) {
          wait_for_previous();
        }
      } else {
        wait_for_previous();
      }
    } else {
      more_registers<T::computing_registers>();
      wait_for_previous();
      int const group = warp / 4;
      int const lane = thread % warp_size;
      int const quarter = lane % 4;
      int const tokens = static_cast<int>(call.batch.tokens);
      int const channels = static_cast<int>(call.channels);
      std::byte* const input = inputs + group * T::input_room;
      std::uint32_t const weights_at = shared_address(weights);
      std::uint32_t const ring_at = shared_address(ring);
      int stage = 0, phase = 0, weight_phase = 0, input_phase = 0;
      auto const advance = [&](int by) {
        for (stage += by; stage >= stages; stage -= stages) {
          phase ^= 1;
        }
      };
      // The sequence that the last tile's first token stands in.
      int sequence_begin = 0, sequence_end = 0;
      bool active = false;
      int turn = 0;  // of the next tile
      int const all = work.count();
      int done = 0;  // tiles, of both warpgroups
      work.each_run([&](int column, int first, int count) {
        int const channel0 = column * T::channels;
        int const channel = channel0 + 8 * quarter;
        if (count == 1 && turn != group && lane == 0) {
          barrier_arrive(weight_empty);
        }
        for (int i = 0; i < count; ++i) {
          bool const mine = turn == group;
          turn ^= 1;
          if (!mine) {
            advance(steps);
            continue;
          }
          int const first_token = (first + i) * T::tokens;
          named_sync(1 + group, 128);  // nobody reads the last tile's inputs any more
          if (thread % 128 == 0) {
            barrier_expect(&input_full[group], T::input_bytes);
            copy_tile(input, input_map, &input_full[group], channel0, first_token - T::halo);
          }
          float sum[2][64];
          JET_UNROLL
          for (int m = 0; m < 2; ++m) {
            wgmma_hold(sum[m]);
          }
          // The products of the tiles take turns: a barrier's parity tells a phase from the next alone, so the
          // other warpgroup must have seen the tile before.
          if (done + i > 0) {
            named_sync(1 + T::consumers + group, 256);
          }
          int last_stage = 0;
          for (int k = 0; k < steps; ++k) {
            barrier_wait(&weight_full[k], weight_phase);
            barrier_wait(&full[stage], phase);
            std::uint64_t const a =
                wgmma_rows<Swizzle::bytes128>(ring_at + static_cast<std::uint32_t>(stage * T::stage_bytes), 1024);
            std::uint64_t const b =
                wgmma_rows<Swizzle::bytes128>(weights_at + static_cast<std::uint32_t>(k * T::weight_bytes), 1024);
            wgmma_fence();
            JET_UNROLL
            for (int j = 0; j < T::depth / 16; ++j) {
              JET_UNROLL
              for (int m = 0; m < 2; ++m) {
                wgmma<__nv_bfloat16, T::columns>(sum[m], wgmma_advance(a, m * (T::stage_bytes / 2) + 32 * j),
                                                 wgmma_advance(b, 32 * j), k > 0 || j > 0);
              }
            }
            wgmma_commit();
            if (k > 0) {  // the products of the step before have read their stage
              wgmma_wait<1>();
              if (lane == 0) {
                barrier_arrive(&empty[last_stage]);
              }
            }
            last_stage = stage;
            advance(1);
          }
          if (done + i + 1 < all) {
            named_arrive(1 + T::consumers + (group ^ 1), 256);
          }
          wgmma_wait<0>();
          JET_UNROLL
          for (int m = 0; m < 2; ++m) {
            wgmma_hold(sum[m]);
          }
          if (lane == 0) {
            barrier_arrive(&empty[last_stage]);
          }
          if (i + 2 >= count && lane == 0) {
            barrier_arrive(weight_empty);
          }

          int const last_token = min(first_token + T::tokens, tokens);
          if (first_token < sequence_begin || first_token >= sequence_end) {
            i64 const sequence = sequence_of(call.batch, first_token);
            sequence_begin = static_cast<int>(call.batch.cu_seqlens[sequence]);
            sequence_end = static_cast<int>(call.batch.cu_seqlens[sequence + 1]);
            active = call.batch.slot[sequence] >= 0;
          }
          bool const inside = active && first_token - sequence_begin >= T::halo && last_token <= sequence_end;
          barrier_wait(&input_full[group], input_phase);
          input_phase ^= 1;
          auto const* const bias = reinterpret_cast<float4 const*>(generator.b2) + channel;
          JET_UNROLL
          for (int m = 0; m < 2; ++m) {
            JET_UNROLL
            for (int half = 0; half < 2; ++half) {
              int const row = 64 * m + 16 * (warp % 4) + lane / 4 + 8 * half;
              int const token = first_token + row;
              bool writes = token < last_token && channel < channels;
              // tap i of the eight channels, in the tile of inputs that begins `halo` tokens before the first
              auto const* const window = reinterpret_cast<uint4 const*>(input) + row * (T::channels / 8) + quarter;
              uint4 x[4]{};
              if (inside) {
                JET_UNROLL
                for (int tap = 0; tap < 4; ++tap) {
                  x[tap] = window[tap * (T::channels / 8)];
                }
              } else if (writes) {
                ConvToken const at(call, token);
                writes = at.active;
                if (at.active) {
                  JET_UNROLL
                  for (int tap = 0; tap < 4; ++tap) {
                    x[tap] = conv_eight(call, at, window + tap * (T::channels / 8), channel, tap);
                  }
                  if (call.shift && call.state != nullptr) {
                    JET_UNROLL
                    for (int tap = 0; tap < 4; ++tap) {
                      *reinterpret_cast<uint4*>(static_cast<bf16*>(call.state) + at.state + tap * call.channels +
                                                channel) = x[tap];
                    }
                  }
                }
              }
              float y[8];
              JET_UNROLL
              for (int c = 0; c < 8; ++c) {
                ConvFour in;
                JET_UNROLL
                for (int tap = 0; tap < 4; ++tap) {
                  std::uint32_t const word = c / 2 == 0   ? x[tap].x
                                             : c / 2 == 1 ? x[tap].y
                                             : c / 2 == 2 ? x[tap].z
                                                          : x[tap].w;
                  in.input[tap] = c % 2 == 0 ? low_bf16(word) : high_bf16(word);
                }
                // column 8 p + 2 quarter + e is tap 2 (p % 2) + e of channel p / 2
                float4 const kernel{sum[m][8 * c + 2 * half], sum[m][8 * c + 2 * half + 1],
                                    sum[m][8 * c + 4 + 2 * half], sum[m][8 * c + 5 + 2 * half]};
                y[c] = in.output(kernel, channel < channels ? __ldg(bias + c) : float4{0, 0, 0, 0});
              }
              // Neighbours exchange halves, so that every store of theirs fills 32 bytes.
              bool const odd = quarter % 2 != 0;
              float4 const first{y[0], y[1], y[2], y[3]}, second{y[4], y[5], y[6], y[7]};
              float4 const sent = odd ? first : second;
              float4 const got{__shfl_xor_sync(0xffffffffu, sent.x, 1), __shfl_xor_sync(0xffffffffu, sent.y, 1),
                               __shfl_xor_sync(0xffffffffu, sent.z, 1), __shfl_xor_sync(0xffffffffu, sent.w, 1)};
              // even: channels 0 - 3 of its own, then of the next thread's; odd: 4 - 7 of the one before's, then
              // its own
              float* const to =
                  call.y + token * call.y_stride + channel0 + 8 * (quarter / 2 * 2) + 4 * (quarter % 2);
              int const pair = channel0 + 8 * (quarter / 2 * 2);
              bool const row_writes = __shfl_sync(0xffffffffu, writes ? 1 : 0, lane / 4 * 4) != 0;
              if (row_writes && pair < channels) {
                __stcs(reinterpret_cast<float4*>(to), odd ? got : first);
              }
              if (row_writes && pair + 8 < channels) {
                __stcs(reinterpret_cast<float4*>(to + 8), odd ? second : got);
              }
            }
          }
        }
        weight_phase ^= 1;
        done += count;
      });
    }
  }
}

/// Whether conv_generate_tiles can run in a call of this many channels, taps and hidden numbers: all that does not
/// depend on the number of tokens. The rest of its conditions are those of conv_generate_many.
template <class = void>
bool conv_tiles_fit(int compute_capability, ConvCall const& call, ConvGenerator const& generator) {
  auto const aligned = [](void const* at, i64 stride, i64 size) {
    return reinterpret_cast<std::uintptr_t>(at) % 16 == 0 && stride * size % 16 == 0;
  };
  if (compute_capability / 10 != 9 || !has_dependent_launch || call.channels % 8 != 0 ||
      generator.r > ConvTiles::most_steps * ConvTiles::depth || !aligned(call.x, call.x_stride, 2) ||
      !aligned(call.y, call.y_stride, 4) || !aligned(call.state, call.slot_stride, 2)) {
    return false;
  }
  cudaFuncAttributes attributes{};
  cuda_check(cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&conv_generate_tiles<>)),
             "attributes of a kernel");
  return attributes.sharedSizeBytes > 0;  // it was compiled with wgmma
}

/// Queues conv_generate_tiles.
template <class = void>
void launch_conv_tiles(cudaStream_t stream, int multiprocessors, ConvCall const& call,
                       ConvGenerator const& generator) {
  using T = ConvTiles;
  i64 const row = generator.w2_stride * i64{sizeof(bf16)};
  auto const hidden = tensor_map<2>(
      DType::bf16, generator.activated,
      {{{generator.r, 0, T::depth}, {call.batch.tokens, generator.r * i64{sizeof(bf16)}, T::tokens}}});
  auto const weight = tensor_map<4>(DType::bf16, generator.w2,
                                    {{{generator.r, 0, T::depth},
                                      {2, row, 2},
                                      {call.channels / 8, 32 * row, T::channels / 8},
                                      {16, 2 * row, 16}}});
  auto const input = tensor_map<2>(DType::bf16, call.x,
                                   {{{call.channels, 0, T::channels},
                                     {call.batch.tokens, call.x_stride * i64{sizeof(bf16)}, T::tokens + T::halo}}},
                                   Swizzle::none);
  constexpr i64 most = std::numeric_limits<int>::max();
  JET_CHECK(call.batch.tokens <= most / 4 && call.channels <= most / 64 &&
                call.batch.tokens / T::tokens * (call.channels / T::channels) < most / 4,
            "CUDA: dynamic_conv: a call of ", call.batch.tokens, " tokens of ", call.channels,
            " channels is too large");
  int const steps = (generator.r + T::depth - 1) / T::depth;
  i64 const tiles = (call.batch.tokens + T::tokens - 1) / T::tokens;
  i64 const columns = (call.channels + T::channels - 1) / T::channels;
  launch("conv_generate_tiles",
         {.blocks = std::min<i64>(multiprocessors, tiles * columns),
          .threads = T::threads,
          .shared_bytes = T::shared_bytes(steps),
          .dependent = true},
         stream, &conv_generate_tiles<>, call, generator, hidden, weight, input);
}

}  // namespace kernel
JET_CUDA_NAMESPACE_END
