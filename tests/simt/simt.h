// Included before all else in every file of the library under test: registers its ops as tinyssd_simt::* (or another
// namespace), the CUDA kernels for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>

#if defined(SIMT_WATCHED)
extern "C" void simt_pair();
#define TINYSSD_COUNT_PAIR() simt_pair()
#endif

namespace simt {

constexpr const char* dispatch_key(const char* key) { return key[0] == 'C' && key[1] == 'U' ? "CPU" : key; }

}  // namespace simt

#if !defined(SIMT_NAMESPACE)
#define SIMT_NAMESPACE "tinyssd_simt"
#endif

#undef STABLE_TORCH_LIBRARY
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY(ns, m) SIMT_LIBRARY(DEF, nullptr, m, C10_UID)
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) SIMT_LIBRARY(IMPL, simt::dispatch_key(#k), m, C10_UID)
#define SIMT_LIBRARY(kind, key, m, uid) SIMT_REGISTER(kind, key, m, C10_CONCATENATE(simt_register_, uid))
#define SIMT_REGISTER(kind, key, m, function)                                                                \
  static void function(torch::stable::detail::StableLibrary&);                                               \
  static const torch::stable::detail::StableTorchLibraryInit C10_CONCATENATE(function, _now)(                \
      torch::stable::detail::StableLibrary::Kind::kind, &function, SIMT_NAMESPACE, key, __FILE__, __LINE__); \
  void function(torch::stable::detail::StableLibrary& m)
