// The one translation unit of jet's own executables that compiles the CPU micro-kernels (jetExecutable.cmake).
#include <jet/cpu/simd/instantiate.hpp>
