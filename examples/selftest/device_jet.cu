#include "device.cuh"

template std::vector<selftest::Trace> selftest::on_device<selftest::JetBlocks>(jet::Precision const&);
