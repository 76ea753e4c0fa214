// iou_pairs on the CPU: the IoU family, every pair or row by row. A thread owns rows of the output; the boxes lie as
// arrays, so that a row is one SIMD loop.
#include "../broadcast.h"
#include "../checks.h"
#include "measured.h"
#include "memory.h"
#include "parallel.h"

#include <vector>

namespace tinyssd {
namespace {

constexpr int64_t kTile = 256;  // boxes2 that stay in the nearest cache while rows pass

template <IouKind kKind>
struct FamilyRow {
  template <class T>
  TINYSSD_INLINE static void run(Measured<T> one, MeasuredArrays<T> others, int64_t size, IouEps<T> eps, T* out) {
    for (int64_t i = 0; i < size; ++i) out[i] = iou_value<kKind>(one, others.get(i), eps);
  }
};

template <IouKind kKind>
struct FamilyAligned {
  template <class T>
  TINYSSD_INLINE static void run(
      MeasuredArrays<T> ones, MeasuredArrays<T> others, int64_t size, IouEps<T> eps, T* out) {
    for (int64_t i = 0; i < size; ++i) out[i] = iou_value<kKind>(ones.get(i), others.get(i), eps);
  }
};

template <IouKind kKind, class T>
void aligned_values(const T* boxes1, const T* boxes2, int64_t size, IouEps<T> eps, T* out) {
  parallel(size, 10, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(2 * MeasuredArrays<T>::kArrays * kTile);
    const auto ones = MeasuredArrays<T>::over(memory.data(), kTile);
    const auto others = MeasuredArrays<T>::over(memory.data() + memory.size() / 2, kTile);
    for (int64_t start = begin; start < end; start += kTile) {
      const int64_t count = smaller(kTile, end - start);
      ones.template fill<kKind>(boxes1 + 4 * start, count);
      others.template fill<kKind>(boxes2 + 4 * start, count);
      run_simd<FamilyAligned<kKind>>(ones, others, count, eps, out + start);
    }
  });
}

template <IouKind kKind, class T>
void pair_values(
    const T* boxes1,  // [..., N, 4]
    const T* boxes2,  // [..., M, 4]
    const Broadcast& batch, int64_t rows, int64_t columns, IouEps<T> eps, T* out) {
  parallel_parts(batch.count * rows, columns, [&](int64_t begin, int64_t end) {
    Pace pace;
    std::vector<T> memory(MeasuredArrays<T>::kArrays * columns);
    const auto others = MeasuredArrays<T>::over(memory.data(), columns);
    for (int64_t b = begin / rows; b * rows < end; ++b) {
      const auto [source1, source2] = batch.sources(b);
      others.template fill<kKind>(boxes2 + source2 * columns * 4, columns);
      const int64_t first = larger(begin, b * rows), last = smaller(end, (b + 1) * rows);
      for (int64_t start = 0; start < columns; start += kTile) {
        for (int64_t row = first; row < last; ++row) {
          const auto one = measure<kKind>(load_box(boxes1 + source1 * rows * 4, row - b * rows));
          T* target = out + row * columns + start;
          run_simd<FamilyRow<kKind>>(one, others + start, smaller(kTile, columns - start), eps, target);
          pace.add(kFreshCost * kTile);
        }
      }
    }
  });
}

Tensor iou_pairs(const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps, double eps) {
  const ScalarType dtype = check_iou_pairs(boxes1, boxes2, kind, aligned, union_eps, eps);
  const Tensor b1 = contiguous_as(boxes1, dtype), b2 = contiguous_as(boxes2, dtype);
  const Broadcast batch = broadcast(boxes1, boxes2, aligned ? 1 : 2);
  const int64_t rows = aligned ? 1 : boxes1.size(boxes1.dim() - 2);
  const int64_t columns = aligned ? 1 : boxes2.size(boxes2.dim() - 2);
  const Tensor out = new_tensor(b1, aligned ? leading_shape(batch) : matrix_shape(batch, rows, columns), dtype);
  if (batch.count * rows * columns == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* data1 = b1.const_data_ptr<T>();
    const T* data2 = b2.const_data_ptr<T>();
    T* out_data = out.mutable_data_ptr<T>();
    const IouEps<T> added = {static_cast<T>(union_eps), static_cast<T>(eps)};
    advise_huge_pages(out_data, out.numel() * static_cast<int64_t>(sizeof(T)));
    with_kind(kind, [&](auto constant) {
      constexpr IouKind kKind = decltype(constant)::value;
      aligned ? aligned_values<kKind>(data1, data2, batch.count, added, out_data)
              : pair_values<kKind>(data1, data2, batch, rows, columns, added, out_data);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("iou_pairs", TORCH_BOX(&iou_pairs)); }

}  // namespace tinyssd
