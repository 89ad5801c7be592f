// expect: jet: on the CUDA backend weights and act are each f32 or bf16
// compilers: nvcc
#include <jet/cuda.cuh>

jet::Cuda<jet::Precision{.weights = jet::DType::f16}> backend;
