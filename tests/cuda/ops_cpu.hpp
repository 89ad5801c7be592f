// What the CPU leaves in the cases of testing/op_cases.hpp.
#pragma once

#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/testing/op_cases.hpp>

std::vector<jet::testing::OpResult> results_on_cpu(jet::Precision const& p);
