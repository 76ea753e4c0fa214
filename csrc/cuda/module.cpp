// The Python module `_C_cuda`: importing it registers the CUDA kernels of the ops that `_C` defines.
#include "../build_info.h"

#include <cuda_runtime_api.h>

namespace {

pybind11::dict build_info() {
  pybind11::dict info = tinyssd::build_facts();
  info["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  info["cuda_architectures"] = TINYSSD_CUDA_ARCHITECTURES;
  return info;
}

int runtime_version() { return CUDART_VERSION; }

// 0 where there is no driver.
int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  module.doc() = "CUDA kernels of tinyssd_ops";
  module.def("build_info", &build_info, "How this library was built, and the architectures that it holds code for.");
  module.def(
      "runtime_version", &runtime_version, "The CUDA version of the runtime within, as 1000 * major + 10 * minor.");
  module.def("driver_version", &driver_version, "The newest CUDA version that the driver supports, in the same form.");
}
