// box_iou and its gradient on the CPU. A thread owns rows of the output; a row is one box of boxes1 against all of
// boxes2, which lie as five arrays. At a tie of two edges each gets half of the gradient, as torch.maximum does.
#include "../checks.h"
#include "memory.h"
#include "parallel.h"
#include "simd.h"

#include <limits>
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

// The leading sizes of both inputs, broadcast.
struct Batch {
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides1, strides2;  // in matrices; 0 where an input is repeated
  int64_t count = 1;

  // Which matrix of each input belongs to matrix b of the output.
  std::pair<int64_t, int64_t> sources(int64_t b) const {
    int64_t source1 = 0, source2 = 0;
    for (size_t d = sizes.size(); d-- > 0;) {
      source1 += b % sizes[d] * strides1[d];
      source2 += b % sizes[d] * strides2[d];
      b /= sizes[d];
    }
    return {source1, source2};
  }
};

std::vector<int64_t> leading_strides(const Tensor& boxes, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 0);
  int64_t stride = 1;
  const int64_t lead = boxes.dim() - 2;
  for (int64_t d = lead - 1; d >= 0; --d) {
    if (boxes.size(d) != 1) strides[sizes.size() - lead + d] = stride;
    stride *= boxes.size(d);
  }
  return strides;
}

std::string leading_string(const Tensor& boxes) {
  std::string text = "[";
  for (int64_t d = 0; d + 2 < boxes.dim(); ++d) text += (d > 0 ? ", " : "") + std::to_string(boxes.size(d));
  return text + "]";
}

Batch broadcast(const Tensor& boxes1, const Tensor& boxes2) {
  const int64_t lead1 = boxes1.dim() - 2, lead2 = boxes2.dim() - 2, lead = larger(lead1, lead2);
  Batch batch;
  for (int64_t d = 0; d < lead; ++d) {
    const int64_t d1 = d - (lead - lead1), d2 = d - (lead - lead2);
    const int64_t size1 = d1 < 0 ? 1 : boxes1.size(d1), size2 = d2 < 0 ? 1 : boxes2.size(d2);
    expect(
        size1 == size2 || size1 == 1 || size2 == 1, "boxes1, boxes2: expected leading sizes that broadcast, got ",
        leading_string(boxes1), " and ", leading_string(boxes2));
    batch.sizes.push_back(size1 == 1 ? size2 : size1);
    batch.count *= batch.sizes.back();
  }
  batch.strides1 = leading_strides(boxes1, batch.sizes);
  batch.strides2 = leading_strides(boxes2, batch.sizes);
  return batch;
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou(boxes1, boxes2);
  const Batch batch = broadcast(boxes1, boxes2);
  const int64_t rows = boxes1.size(boxes1.dim() - 2), columns = boxes2.size(boxes2.dim() - 2);
  const Tensor b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype);
  std::vector<int64_t> shape = batch.sizes;
  shape.insert(shape.end(), {rows, columns});
  const Tensor out = torch::stable::new_empty(b1, shape, dtype);
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

// How much of an edge's gradient this box gets: all if it bounds the intersection, half at a tie.
template <class T>
T edge_share(bool bounds, bool tie) {
  return bounds ? T(1) : tie ? T(0.5) : T(0);
}

// Adds grad * d iou(a, b) / d a.
template <class T>
void add_gradient(const Box<T>& a, const Box<T>& b, T grad, Box<T>* sum) {
  const T raw_w = smaller(a.x2, b.x2) - larger(a.x1, b.x1), raw_h = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  const T w = larger(raw_w, T(0)), h = larger(raw_h, T(0));
  const T inter = w * h, united = area(a) + area(b) - inter;
  // Elsewhere the IoU is the constant 0: no union, or one that is infinite or NaN.
  if (!(united > T(0) && united < std::numeric_limits<T>::infinity())) return;
  const T by_inter = grad * (T(1) + inter / united) / united, by_area = -grad * (inter / united) / united;
  const T by_w = raw_w >= T(0) ? by_inter * h : T(0), by_h = raw_h >= T(0) ? by_inter * w : T(0);
  const T side_w = a.x2 - a.x1, side_h = a.y2 - a.y1;
  sum->x1 -= by_w * edge_share<T>(a.x1 > b.x1, a.x1 == b.x1) + by_area * side_h;
  sum->y1 -= by_h * edge_share<T>(a.y1 > b.y1, a.y1 == b.y1) + by_area * side_w;
  sum->x2 += by_w * edge_share<T>(a.x2 < b.x2, a.x2 == b.x2) + by_area * side_h;
  sum->y2 += by_h * edge_share<T>(a.y2 < b.y2, a.y2 == b.y2) + by_area * side_w;
}

std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou_backward(grad, boxes1, boxes2);
  const int64_t num_batches = boxes1.size(0), rows = boxes1.size(1), columns = boxes2.size(1);
  const Tensor g = contiguous_as(grad, dtype), b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype);
  const Tensor grad1 = torch::stable::new_empty(b1, {num_batches, rows, 4}, dtype);
  const Tensor grad2 = torch::stable::new_empty(b2, {num_batches, columns, 4}, dtype);
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
            add_gradient(load_box(own, i), load_box(other, batch * other_size + j), pairs[j * other_stride], &sum);
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
