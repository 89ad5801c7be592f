/// \file
/// The namespace of everything whose meaning depends on the architectures that a translation unit is compiled for.
///
/// Objects built for different architectures may meet in one program: an engine for sm_80 in one library, one for
/// sm_90a in another. Were their launchers one symbol, the linker would keep one of the two and the other library's
/// calls would reach kernels that it was not built with. So kernels, their launchers, and what reports the list
/// live in an inline namespace that names the list, with hidden visibility: two lists are two symbols, and even the
/// same list in two shared libraries (sm_90 and sm_90a are both 900 here) stays inside each library.
///
/// What a shared library instantiates above the kernels (`Kernel<Op, tag::cuda>`, `Engine`) carries the version
/// only, so build such a library with -fvisibility=hidden and export its own functions.
#pragma once

#include <string>
#include <string_view>

#include <jet/core/macros.hpp>

/// cuda/arch.cuh is the one place outside core/macros.hpp that defines macros: the list is known to nvcc alone.
/// nvcc defines __CUDA_ARCH_LIST__ as comma-separated numbers, such as 800,900.
#define JET_CUDA_PASTE_1(a) sm_##a
#define JET_CUDA_PASTE_2(a, b) sm_##a##_##b
#define JET_CUDA_PASTE_3(a, b, c) sm_##a##_##b##_##c
#define JET_CUDA_PASTE_4(a, b, c, d) sm_##a##_##b##_##c##_##d
#define JET_CUDA_PASTE_5(a, b, c, d, e) sm_##a##_##b##_##c##_##d##_##e
#define JET_CUDA_PASTE_6(a, b, c, d, e, f) sm_##a##_##b##_##c##_##d##_##e##_##f
#define JET_CUDA_PASTE_7(a, b, c, d, e, f, g) sm_##a##_##b##_##c##_##d##_##e##_##f##_##g
#define JET_CUDA_PASTE_8(a, b, c, d, e, f, g, h) sm_##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h
#define JET_CUDA_SELECT(a, b, c, d, e, f, g, h, name, ...) name
#define JET_CUDA_TAG_OF(...)                                                                           \
  JET_CUDA_SELECT(__VA_ARGS__, JET_CUDA_PASTE_8, JET_CUDA_PASTE_7, JET_CUDA_PASTE_6, JET_CUDA_PASTE_5, \
                  JET_CUDA_PASTE_4, JET_CUDA_PASTE_3, JET_CUDA_PASTE_2, JET_CUDA_PASTE_1,              \
                  not_more_than_8_architectures)                                                       \
  (__VA_ARGS__)
#define JET_CUDA_TEXT_OF(...) #__VA_ARGS__
#define JET_CUDA_TEXT(...) JET_CUDA_TEXT_OF(__VA_ARGS__)

/// Opens jet::cuda with the inline namespace of the architecture list. JET_CUDA_NAMESPACE_END closes it.
#define JET_CUDA_NAMESPACE_BEGIN \
  JET_NAMESPACE_BEGIN            \
  namespace cuda {               \
  inline namespace JET_CUDA_TAG_OF(__CUDA_ARCH_LIST__) __attribute__((visibility("hidden"))) {
#define JET_CUDA_NAMESPACE_END \
  }                            \
  }                            \
  JET_NAMESPACE_END

JET_CUDA_NAMESPACE_BEGIN

/// What this translation unit is built for, as nvcc says it: "800,900" is sm_80 and sm_90 (or sm_90a, or their
/// PTX).
inline constexpr std::string_view architecture_list = JET_CUDA_TEXT(__CUDA_ARCH_LIST__);

/// The same for people: "sm_80, sm_90".
inline std::string architectures() {
  std::string text;
  std::string_view rest = architecture_list;
  while (!rest.empty()) {
    std::string_view const number = rest.substr(0, rest.find(','));
    rest.remove_prefix(number.size() == rest.size() ? number.size() : number.size() + 1);
    text += text.empty() ? "sm_" : ", sm_";
    text += number.substr(0, number.size() - 1);  // the last digit is always 0
  }
  return text;
}

JET_CUDA_NAMESPACE_END
