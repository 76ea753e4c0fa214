// box_iou and its gradient on the CPU. A thread owns rows of the output; a row is one box of boxes1 against all of
// boxes2, which lie as five arrays.
#include "../broadcast.h"
#include "../checks.h"
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

template <class T>
Box<T> load_box(const T* boxes, int64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

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
    parallel(batch.count * rows, columns, [&](int64_t begin, int64_t end) {
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
          }
        }
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou_backward(grad, boxes1, boxes2);
  const int64_t num_batches = boxes1.size(0), rows = boxes1.size(1), columns = boxes2.size(1);
  const Tensor g = contiguous_as(grad, dtype), b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype);
  const Tensor grad1 = new_tensor(b1, {num_batches, rows, 4}, dtype);
  const Tensor grad2 = new_tensor(b2, {num_batches, columns, 4}, dtype);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* grad_data = g.const_data_ptr<T>();
    // The gradient of each box of `own`, summed over the boxes of `other`.
    const auto sum_over = [&](const T* own, int64_t own_size, int64_t own_stride, const T* other, int64_t other_size,
                              int64_t other_stride, T* out) {
      parallel(num_batches * own_size, 10 * other_size, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t batch = i / own_size;
          const T* pairs = grad_data + batch * rows * columns + i % own_size * own_stride;
          Box<T> sum = {0, 0, 0, 0};
          for (int64_t j = 0; j < other_size; ++j) {
            add_iou_gradient(load_box(own, i), load_box(other, batch * other_size + j), pairs[j * other_stride], &sum);
          }
          memcpy(out + 4 * i, &sum, sizeof(sum));
        }
      });
    };
    const T* data1 = b1.const_data_ptr<T>();
    const T* data2 = b2.const_data_ptr<T>();
    sum_over(data1, rows, columns, data2, columns, 1, grad1.mutable_data_ptr<T>());
    sum_over(data2, columns, 1, data1, rows, columns, grad2.mutable_data_ptr<T>());
  });
  return {grad1, grad2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("box_iou_backward", TORCH_BOX(&box_iou_backward));
}

}  // namespace tinyssd
