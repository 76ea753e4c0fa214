// iou_pairs on CUDA: the IoU family, every pair or row by row. A thread owns a column in kRows rows of the output, or,
// aligned, one pair. CIoU's angles are measured beforehand, once a box.
#include "iou_pairs.cuh"

namespace tinyssd {
namespace {

constexpr int kThreads = 128, kRows = 8;

template <IouKind kKind, class T>
__global__ void __launch_bounds__(kThreads) iou_pairs_kernel(
    const MeasuredBoxes<T> boxes1,  // [..., N]
    const MeasuredBoxes<T> boxes2,  // [..., M]
    const Broadcast batch, const IouEps<T> eps, int64_t rows, int64_t columns, unsigned row_tiles,
    unsigned column_tiles,
    T* __restrict__ out) {  // [..., N, M]
  const int64_t column = int64_t{blockIdx.x % column_tiles} * kThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t first = int64_t{blockIdx.x / column_tiles % row_tiles} * kRows;
  const int64_t matrix = blockIdx.x / column_tiles / row_tiles;
  const Broadcast::Sources sources = batch.sources(matrix);
  const Measured<T> own = boxes2.template get<kKind>(sources.second * columns + column);
  const int64_t last = smaller(first + kRows, rows);
  constexpr int kAtOnce = sizeof(T) == 4 ? 2 : 1;  // two rows of doubles would not fit the registers
#pragma unroll kAtOnce
  for (int64_t row = first; row < last; ++row) {
    const Measured<T> other = boxes1.template get<kKind>(sources.first * rows + row);
    out[(matrix * rows + row) * columns + column] = iou_value<kKind>(other, own, eps);
  }
}

template <IouKind kKind, class T>
__global__ void __launch_bounds__(kThreads) iou_pairs_aligned_kernel(
    const MeasuredBoxes<T> boxes1,  // [N]
    const MeasuredBoxes<T> boxes2,  // [N]
    const IouEps<T> eps, int64_t size,
    T* __restrict__ out) {  // [N]
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= size) return;
  out[i] = iou_value<kKind>(boxes1.template get<kKind>(i), boxes2.template get<kKind>(i), eps);
}

Tensor iou_pairs(const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps, double eps) {
  const ScalarType dtype = check_iou_pairs(boxes1, boxes2, kind, aligned, union_eps, eps);
  const DeviceScope scope(boxes1);
  const Tensor b1 = boxes_as(boxes1, dtype), b2 = boxes_as(boxes2, dtype);
  const Broadcast batch = broadcast(boxes1, boxes2, aligned ? 1 : 2);
  const int64_t rows = aligned ? 1 : boxes1.size(boxes1.dim() - 2);
  const int64_t columns = aligned ? 1 : boxes2.size(boxes2.dim() - 2);
  const Tensor out = new_tensor(b1, aligned ? leading_shape(batch) : matrix_shape(batch, rows, columns), dtype);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const IouEps<T> added = {static_cast<T>(union_eps), static_cast<T>(eps)};
    with_kind(kind, [&](auto constant) {
      constexpr IouKind kKind = decltype(constant)::value;
      Scratch scratch;
      const auto [ones, twos] = measured<kKind, T>(scope, scratch, b1, b2);
      if (aligned) {
        const int64_t size = out.numel();
        scope.launch(
            iou_pairs_aligned_kernel<kKind, T>, ceil_div(size, kThreads), kThreads, 0, ones, twos, added, size,
            out.mutable_data_ptr<T>());
        return;
      }
      const int64_t row_tiles = ceil_div(rows, kRows), column_tiles = ceil_div(columns, kThreads);
      scope.launch(
          iou_pairs_kernel<kKind, T>, batch.count * row_tiles * column_tiles, kThreads, 0, ones, twos, batch, added,
          rows, columns, row_tiles, column_tiles, out.mutable_data_ptr<T>());
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("iou_pairs", TORCH_BOX(&iou_pairs)); }

}  // namespace tinyssd
