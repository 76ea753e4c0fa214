// What both Python modules say of how they were built.
#pragma once

#include <pybind11/pybind11.h>

namespace tinyssd {

inline pybind11::dict build_facts() {
  pybind11::dict info;
  info["version"] = TINYSSD_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["torch_abi_target"] = TINYSSD_TORCH_TARGET;
  return info;
}

}  // namespace tinyssd
