// The gradient of the IoU family on the CPU. A thread owns boxes; the gradient of one is a SIMD loop over the boxes of
// the other side, in kGradientLanes sums (see ../iou.h), once for boxes1 and once, the other way round, for boxes2.
#include "../checks.h"
#include "measured.h"
#include "parallel.h"

#include <vector>

namespace tinyssd {
namespace {

template <IouKind kKind>
struct SlopeSums {
  // sums[4][kGradientLanes] += grad * slopes of `own` against each of the others.
  template <class T>
  TINYSSD_INLINE static void run(
      Measured<T> own, MeasuredArrays<T> others, const T* grad, int64_t size, IouEps<T> eps, T* sums) {
    for (int64_t start = 0; start < size; start += kGradientLanes) {
      const int64_t lanes = size - start < kGradientLanes ? size - start : kGradientLanes;
      for (int64_t i = 0; i < lanes; ++i) {
        const Box<T> slopes = iou_slopes<kKind>(own, others.get(start + i), eps);
        const T factor = grad[start + i];
        sums[i] += factor * slopes.x1;
        sums[kGradientLanes + i] += factor * slopes.y1;
        sums[2 * kGradientLanes + i] += factor * slopes.x2;
        sums[3 * kGradientLanes + i] += factor * slopes.y2;
      }
    }
  }
};

template <class T>
T fold(T* sums) {
  for (int half = kGradientLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

// The gradients of `own`, each summed over the others of its batch.
template <IouKind kKind, class T>
void sum_slopes(
    const T* grad,    // [B, own, others]
    const T* own,     // [B, own, 4]
    const T* others,  // [B, others, 4]
    int64_t num_batches, int64_t own_size, int64_t other_size, IouEps<T> eps,
    T* out) {  // [B, own, 4]
  parallel_parts(num_batches * own_size, 5 * other_size, [=](int64_t begin, int64_t end) {
    Pace pace;
    std::vector<T> memory(MeasuredArrays<T>::kArrays * other_size);
    const auto arrays = MeasuredArrays<T>::over(memory.data(), other_size);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / own_size;
      if (i == begin || i % own_size == 0) {
        arrays.template fill<kKind>(others + batch * other_size * 4, other_size);
      }
      T sums[4][kGradientLanes] = {};
      run_simd<SlopeSums<kKind>>(
          measure<kKind>(load_box(own, i)), arrays, grad + i * other_size, other_size, eps, &sums[0][0]);
      for (int k = 0; k < 4; ++k) out[4 * i + k] = fold(sums[k]);
      pace.add(5 * other_size);
    }
  });
}

template <IouKind kKind, class T>
void aligned_slopes(const T* grad, const T* boxes1, const T* boxes2, int64_t size, IouEps<T> eps, T* grad1, T* grad2) {
  parallel(size, 30, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto one = measure<kKind>(load_box(boxes1, i)), two = measure<kKind>(load_box(boxes2, i));
      const Box<T> slopes1 = iou_slopes<kKind>(one, two, eps), slopes2 = iou_slopes<kKind>(two, one, eps);
      const T g = grad[i];
      const T products[8] = {g * slopes1.x1, g * slopes1.y1, g * slopes1.x2, g * slopes1.y2,
                             g * slopes2.x1, g * slopes2.y1, g * slopes2.x2, g * slopes2.y2};
      memcpy(grad1 + 4 * i, products, 4 * sizeof(T));
      memcpy(grad2 + 4 * i, products + 4, 4 * sizeof(T));
    }
  });
}

std::tuple<Tensor, Tensor> iou_pairs_backward(
    const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps,
    double eps) {
  const ScalarType dtype = check_iou_pairs_backward(grad, boxes1, boxes2, kind, aligned, union_eps, eps);
  const Tensor b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype), g = contiguous_as(grad, dtype);
  const Tensor grad1 = torch::stable::empty_like(b1), grad2 = torch::stable::empty_like(b2);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const IouEps<T> added = {static_cast<T>(union_eps), static_cast<T>(eps)};
    const T* data1 = b1.const_data_ptr<T>();
    const T* data2 = b2.const_data_ptr<T>();
    T* out1 = grad1.mutable_data_ptr<T>();
    T* out2 = grad2.mutable_data_ptr<T>();
    with_kind(kind, [&](auto constant) {
      constexpr IouKind kKind = decltype(constant)::value;
      if (aligned) {
        aligned_slopes<kKind>(g.const_data_ptr<T>(), data1, data2, b1.size(0), added, out1, out2);
        return;
      }
      const int64_t batches = b1.size(0), rows = b1.size(1), columns = b2.size(1);
      sum_slopes<kKind>(g.const_data_ptr<T>(), data1, data2, batches, rows, columns, added, out1);
      const Tensor turned = torch::stable::contiguous(torch::stable::transpose(g, 1, 2));
      sum_slopes<kKind>(turned.const_data_ptr<T>(), data2, data1, batches, columns, rows, added, out2);
    });
  });
  return {grad1, grad2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("iou_pairs_backward", TORCH_BOX(&iou_pairs_backward)); }

}  // namespace tinyssd
