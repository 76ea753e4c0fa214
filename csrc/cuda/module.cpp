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

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  module.doc() = "CUDA kernels of tinyssd_ops";
  module.def("build_info", &build_info, "How this library was built, and the architectures that it holds code for.");
}
