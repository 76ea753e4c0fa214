// The Python module `_C`: importing it registers the ops of library.cpp and the CPU kernels.
#include "build_info.h"
#include "cpu/interrupt.h"
#include "cpu/limits.h"
#include "cpu/simd.h"

#include <pybind11/stl.h>

#include <memory>

namespace {

std::vector<std::string> names(const std::vector<tinyssd::SimdPath>& paths) {
  std::vector<std::string> result;
  for (const tinyssd::SimdPath path : paths) result.emplace_back(tinyssd::simd_path_name(path));
  return result;
}

pybind11::dict build_info() {
  pybind11::dict info = tinyssd::build_facts();
  info["simd_paths"] = names(tinyssd::simd_paths());
  info["simd"] = tinyssd::simd_path_name(tinyssd::simd_path());
  return info;
}

unsigned long main_thread = 0;  // Python's, where signals are handled

// What a signal's handler raised, on its way through a kernel and torch to Python. pybind11 knows how to set errors of
// this base wherever it catches them, in torch's module too, whatever version that was built with.
class Interruption : public pybind11::builtin_exception {
 public:
  Interruption() : builtin_exception("interrupted by a signal") {}
  void set_error() const override { raised_->restore(); }

 private:
  // Takes Python's error; shared, since exceptions are copied.
  std::shared_ptr<pybind11::error_already_set> raised_ = std::make_shared<pybind11::error_already_set>();
};

// Runs the handlers of signals that have come. Torch has released the GIL for the op.
void handle_signals() {
  if (PyThread_get_thread_ident() != main_thread || Py_IsInitialized() == 0) return;
  const pybind11::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw Interruption();
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  tinyssd::simd_path();  // A wrong TINYSSD_OPS_SIMD fails here, at import.
  main_thread = pybind11::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  tinyssd::set_interrupt_hook(&handle_signals);
  module.doc() = "CPU kernels of tinyssd_ops";
  module.def("build_info", &build_info, "How this library was built, and the SIMD paths that this CPU can run.");
  module.def("set_simd_path", &tinyssd::set_simd_path, "Forces a SIMD path by name, for tests.");
  pybind11::class_<tinyssd::Limits>(module, "Limits", "The sizes at which kernels change their ways; tests set them.")
      .def_readwrite("worth_a_thread", &tinyssd::Limits::worth_a_thread)
      .def_readwrite("few_kept", &tinyssd::Limits::few_kept)
      .def_readwrite("wave", &tinyssd::Limits::wave)
      .def_readwrite("least_in_waves", &tinyssd::Limits::least_in_waves)
      .def_readwrite("grid_cells", &tinyssd::Limits::grid_cells)
      .def_readwrite("neighbours", &tinyssd::Limits::neighbours)
      .def_readwrite("soft_many", &tinyssd::Limits::soft_many);
  module.def("limits", &tinyssd::limits, pybind11::return_value_policy::reference, "The ones in use.");
  module.def(
      "work_done", [] { return tinyssd::work_done().load(); }, "Cells, blocks and tiles looked at since the start.");
}
