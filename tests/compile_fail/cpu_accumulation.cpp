// expect: jet: the CPU backend accumulates in f32 or f64
#include <jet/cpu/backend.hpp>

jet::Cpu<jet::Precision{.acc = jet::DType::bf16}> backend;
