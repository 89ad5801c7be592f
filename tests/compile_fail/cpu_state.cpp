// expect: jet: on the CPU backend the recurrent state is the accumulation type, f32, bf16 or f16
#include <jet/cpu/backend.hpp>

jet::Cpu<jet::Precision{.state = jet::DType::f8e4m3}> backend;
