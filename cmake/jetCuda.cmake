# Enables the CUDA language for jet's own tests, examples and benchmarks.
# Portable kernels: sm_80, sm_90a and PTX of compute_90. Never by running code; a preset or the user may say otherwise.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "jet: JET_CUDA is ON, but no CUDA compiler was found. Put nvcc on PATH, set CUDACXX or "
    "CMAKE_CUDA_COMPILER to it, or set JET_CUDA=OFF.")
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.0 REQUIRED)
