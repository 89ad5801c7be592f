/// \file
/// Every public template, declared. Parses in a tenth of a second; needs neither Eigen nor CUDA.
#pragma once

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// What kernels are selected by: Kernel<op::RmsNorm, tag::cpu>.
namespace tag {
struct cpu {};
struct cuda {};
}  // namespace tag

/// The implementation of an op on a backend. Declared and never defined here: cpu/*.hpp and cuda/*.cuh specialise
/// it, and so do users for their own ops:
///   template <> struct jet::Kernel<mine::Ema, jet::tag::cpu> {
///     template <class B> static void run(jet::Context<B>& ctx, mine::Ema const& op, /* slots and views */);
///   };
/// A kernel that needs scratch also has `scratch(ctx, op, args...)`; `run` then takes its result before the args.
template <class Op, class BackendTag> struct Kernel;

template <class B> class Context;

/// The CPU backend with a precision policy (cpu/backend.hpp).
template <Precision P = Precision{}> class Cpu;

/// The CUDA backend with a precision policy (cuda/backend.cuh).
template <Precision P> class Cuda;

/// The precision policy of a backend type, also where the type is only declared.
template <class B> inline constexpr Precision precision_of = B::precision;
template <Precision P> inline constexpr Precision precision_of<Cpu<P>> = P;
template <Precision P> inline constexpr Precision precision_of<Cuda<P>> = P;

/// A model's parameters: one set of tensors per (layer, letter) (model/weights.hpp).
template <class Model> class Weights;

/// A model's state for a number of sequences (model/state_pool.hpp).
template <class Model> class StatePool;

/// A model that runs: weights, state pool and scratch on one backend (model/engine.hpp).
template <class Model, class B> class Engine;

JET_NAMESPACE_END
