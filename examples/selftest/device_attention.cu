#include "device.cuh"

template std::vector<selftest::Trace> selftest::on_device<selftest::AttentionBlocks>(jet::Precision const&);
