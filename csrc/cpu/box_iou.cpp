// box_iou on the CPU; its gradient is iou_pairs_backward. A thread owns rows of the output; a row is one box of boxes1 against all of
// boxes2, which lie as five arrays.
#include "../broadcast.h"
#include "../checks.h"
#include "load.h"
#include "memory.h"
#include "parallel.h"
#include "simd.h"

#include <vector>

namespace tinyssd {
namespace {

constexpr int64_t kTile = 512;  // boxes2 that stay in the nearest cache while rows pass

struct IouRow {
  template <class T>
  TINYSSD_INLINE static void run(Box<T> box, BoxArrays<T> boxes, int64_t size, T* out) {
    const T box_area = area(box);
    for (int64_t i = 0; i < size; ++i) out[i] = boxes.iou_with(i, box, box_area);
  }
};

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou(boxes1, boxes2);
  const Broadcast batch = broadcast(boxes1, boxes2);
  const int64_t rows = boxes1.size(boxes1.dim() - 2), columns = boxes2.size(boxes2.dim() - 2);
  const Tensor b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype);
  const Tensor out = new_tensor(b1, matrix_shape(batch, rows, columns), dtype);
  if (batch.count * rows * columns == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* data1 = b1.const_data_ptr<T>();
    const T* data2 = b2.const_data_ptr<T>();
    T* out_data = out.mutable_data_ptr<T>();
    advise_huge_pages(out_data, out.numel() * static_cast<int64_t>(sizeof(T)));
    parallel_parts(batch.count * rows, columns, [&](int64_t begin, int64_t end) {
      Pace pace;
      std::vector<T> memory(BoxArrays<T>::kArrays * columns);
      const auto arrays = BoxArrays<T>::over(memory.data(), columns);
      for (int64_t b = begin / rows; b * rows < end; ++b) {
        const auto [source1, source2] = batch.sources(b);
        for (int64_t j = 0; j < columns; ++j) {
          const Box<T> box = load_box(data2 + source2 * columns * 4, j);
          arrays.set(j, box, area(box));
        }
        const int64_t first = larger(begin, b * rows), last = smaller(end, (b + 1) * rows);
        for (int64_t start = 0; start < columns; start += kTile) {
          const int64_t size = smaller(kTile, columns - start);
          for (int64_t row = first; row < last; ++row) {
            const Box<T> box = load_box(data1 + source1 * rows * 4, row - b * rows);
            run_simd<IouRow>(box, arrays + start, size, out_data + row * columns + start);
            pace.add(kFreshCost * size);
          }
        }
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("box_iou", TORCH_BOX(&box_iou)); }

}  // namespace tinyssd
