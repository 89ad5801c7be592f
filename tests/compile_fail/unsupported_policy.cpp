// expect: jet: on the CPU backend weights, act and kv are each the accumulation type or bf16
#include <jet/cpu/backend.hpp>

jet::Cpu<jet::Precision{.weights = jet::DType::f16}> backend;
