/// \file
/// The CPU backend with all its kernels.
#pragma once

#include <jet/cpu/activate.hpp>
#include <jet/cpu/attention.hpp>
#include <jet/cpu/backend.hpp>
#include <jet/cpu/backward/attention.hpp>
#include <jet/cpu/backward/embedding.hpp>
#include <jet/cpu/backward/gated_scan.hpp>
#include <jet/cpu/backward/linear.hpp>
#include <jet/cpu/backward/norm.hpp>
#include <jet/cpu/backward/rope.hpp>
#include <jet/cpu/backward/short_conv.hpp>
#include <jet/cpu/backward/swiglu.hpp>
#include <jet/cpu/embedding.hpp>
#include <jet/cpu/gated_scan.hpp>
#include <jet/cpu/linear.hpp>
#include <jet/cpu/loss.hpp>
#include <jet/cpu/mamba2.hpp>
#include <jet/cpu/norm.hpp>
#include <jet/cpu/repeat_heads.hpp>
#include <jet/cpu/retention.hpp>
#include <jet/cpu/rope.hpp>
#include <jet/cpu/rwkv7.hpp>
#include <jet/cpu/sample.hpp>
#include <jet/cpu/short_conv.hpp>
#include <jet/cpu/swiglu.hpp>
