// The SIMD path: found once, forced by TINYSSD_OPS_SIMD.
#include "simd.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace tinyssd {
namespace {

SimdPath parse(const std::string& name) {
  std::string known;
  for (const SimdPath path : simd_paths()) {
    if (name == simd_path_name(path)) return path;
    known += (known.empty() ? "" : ", ") + std::string(simd_path_name(path));
  }
  throw std::invalid_argument("TINYSSD_OPS_SIMD: this CPU can run " + known + ", got " + name);
}

std::atomic<SimdPath>& current() {
  static std::atomic<SimdPath> path = [] {
    const char* forced = std::getenv("TINYSSD_OPS_SIMD");
    return forced != nullptr && *forced != '\0' ? parse(forced) : simd_paths().back();
  }();
  return path;
}

}  // namespace

SimdPath simd_path() { return current().load(std::memory_order_relaxed); }

const char* simd_path_name(SimdPath path) {
  switch (path) {
    case SimdPath::kAvx512: return "avx512";
    case SimdPath::kAvx2: return "avx2";
    case SimdPath::kBaseline: return "baseline";
  }
  return "unknown";
}

std::vector<SimdPath> simd_paths() {
  std::vector<SimdPath> paths = {SimdPath::kBaseline};
#if TINYSSD_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) paths.push_back(SimdPath::kAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    paths.push_back(SimdPath::kAvx512);
  }
#endif
  return paths;
}

void set_simd_path(const std::string& name) { current().store(parse(name)); }

}  // namespace tinyssd
