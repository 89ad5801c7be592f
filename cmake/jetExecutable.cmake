# How jet's own executables (tests, examples, benchmarks) are compiled.

# The CPU micro-kernel tables are large: our own executables instantiate them in one translation unit (JET_EXTERN_KERNELS
# turns the others' into declarations). Users who include the headers need none of this.
set(jet_kernels "")
if(EXISTS "${PROJECT_SOURCE_DIR}/include/jet/cpu/simd/instantiate.hpp")
  add_library(jet_kernels STATIC EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/cmake/kernels.cpp")
  target_link_libraries(jet_kernels PUBLIC jet)
  target_compile_definitions(jet_kernels INTERFACE JET_EXTERN_KERNELS)
  set(jet_kernels jet_kernels)
endif()

set(jet_warnings "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")

find_path(JET_CLI11 CLI/CLI.hpp)
mark_as_advanced(JET_CLI11)

# Sources that include a header which needs a package that is not there are left out, and named.
function(jet_available_sources result)
  set(sources "")
  foreach(source IN LISTS ARGN)
    file(STRINGS "${source}" optional REGEX "^ *# *include *<(jet/.*tokenizer|pcre2|utf8proc)")
    if(optional AND NOT TARGET jet_tokenizer)
      message(STATUS "jet: not built without JET_TOKENIZER: ${source}")
      continue()
    endif()
    file(STRINGS "${source}" optional REGEX "^ *# *include *<CLI/")
    if(optional AND NOT JET_CLI11)
      message(STATUS "jet: not built without CLI11: ${source}")
    else()
      list(APPEND sources "${source}")
    endif()
  endforeach()
  set(${result} "${sources}" PARENT_SCOPE)
endfunction()

# jet_add_executable(name sources...)
function(jet_add_executable name)
  add_executable(${name} ${ARGN})
  target_compile_options(${name} PRIVATE ${jet_warnings})
  target_link_libraries(${name} PRIVATE jet ${jet_kernels} $<TARGET_NAME_IF_EXISTS:jet_tokenizer>)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "\\.cu$")
      target_link_libraries(${name} PRIVATE jet_cuda)
      break()
    endif()
  endforeach()
endfunction()
