/// \file
/// The CPU backend with all its kernels.
#pragma once

#include <jet/cpu/attention.hpp>
#include <jet/cpu/backend.hpp>
#include <jet/cpu/embedding.hpp>
#include <jet/cpu/gated_scan.hpp>
#include <jet/cpu/linear.hpp>
#include <jet/cpu/norm.hpp>
#include <jet/cpu/rope.hpp>
#include <jet/cpu/sample.hpp>
#include <jet/cpu/short_conv.hpp>
#include <jet/cpu/swiglu.hpp>
