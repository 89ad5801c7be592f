#include "device.cuh"

template std::vector<selftest::Trace> selftest::on_device<selftest::FamilyBlocks>(jet::Precision const&);
