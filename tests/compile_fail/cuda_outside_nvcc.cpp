// expect: jet: <jet/cuda.cuh> needs nvcc: include it from a .cu file
// compilers: g++ clang++
#include <jet/cuda.cuh>
