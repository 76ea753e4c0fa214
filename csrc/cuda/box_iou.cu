// box_iou on CUDA; its gradient is iou_pairs_backward. It is bound by writing its output: a thread owns kVector neighbouring columns,
// whose boxes stay in registers, in kRows rows, and writes 16 bytes at once where rows are aligned to that. A block of
// (x, y) threads covers x * kVector columns and y * kRows rows; narrow outputs get narrow, high blocks.
#include "../broadcast.h"
#include "launch.cuh"

namespace tinyssd {
namespace {

constexpr int kThreads = 128, kRows = 8;

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) box_iou_kernel(
    const Box<T>* __restrict__ boxes1,  // [..., N]
    const Box<T>* __restrict__ boxes2,  // [..., M]
    const Broadcast batch, int64_t rows, int64_t columns, unsigned row_tiles, unsigned column_tiles,
    T* __restrict__ out) {  // [..., N, M]
  const unsigned column_tile = blockIdx.x % column_tiles, row_tile = blockIdx.x / column_tiles % row_tiles;
  const int64_t matrix = blockIdx.x / column_tiles / row_tiles;
  const Broadcast::Sources sources = batch.sources(matrix);
  const int64_t column = (int64_t{column_tile} * blockDim.x + threadIdx.x) * kVector;
  if (column >= columns) return;
  Box<T> own[kVector];
  T areas[kVector];
  for (int i = 0; i < kVector; ++i) {
    own[i] = load_box(boxes2 + sources.second * columns + column + i);
    areas[i] = area(own[i]);
  }
  const int64_t first = int64_t{row_tile} * kRows * blockDim.y + threadIdx.y, step = blockDim.y;
  if (first >= rows) return;
  const int count = static_cast<int>(smaller(ceil_div(rows - first, step), int64_t{kRows}));
  // Pointers that step: with an index for each row the compiler splits the store.
  const Box<T>* source = boxes1 + sources.first * rows + first;
  T* target = out + (matrix * rows + first) * columns + column;
#pragma unroll 2
  for (int r = 0; r < count; ++r, source += step, target += step * columns) {
    const Box<T> box = load_box(source);
    const T box_area = area(box);
    Pack<T, kVector> pack;
    for (int i = 0; i < kVector; ++i) pack.values[i] = iou(box, box_area, own[i], areas[i]);
    *reinterpret_cast<Pack<T, kVector>*>(target) = pack;
  }
}

template <class T, int kVector>
void launch_box_iou(
    const DeviceScope& scope, const Tensor& boxes1, const Tensor& boxes2, const Broadcast& batch, const Tensor& out) {
  const int64_t rows = boxes1.size(boxes1.dim() - 2), columns = boxes2.size(boxes2.dim() - 2);
  unsigned wide = kThreads;
  while (wide > 1 && static_cast<int64_t>(wide / 2) * kVector >= columns) wide /= 2;
  const dim3 threads(wide, kThreads / wide);
  const int64_t row_tiles = ceil_div(rows, int64_t{kRows} * threads.y);
  const int64_t column_tiles = ceil_div(columns, int64_t{kVector} * threads.x);
  scope.launch(
      box_iou_kernel<T, kVector>, batch.count * row_tiles * column_tiles, threads, 0, box_data<T>(boxes1),
      box_data<T>(boxes2), batch, rows, columns, row_tiles, column_tiles, out.mutable_data_ptr<T>());
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou(boxes1, boxes2);
  const Broadcast batch = broadcast(boxes1, boxes2);
  const DeviceScope scope(boxes1);
  const int64_t rows = boxes1.size(boxes1.dim() - 2), columns = boxes2.size(boxes2.dim() - 2);
  const Tensor b1 = boxes_as(boxes1, dtype), b2 = boxes_as(boxes2, dtype);
  const Tensor out = new_tensor(b1, matrix_shape(batch, rows, columns), dtype);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kVector = 16 / sizeof(T);
    if (columns % kVector == 0) {
      launch_box_iou<T, kVector>(scope, b1, b2, batch, out);
    } else {
      launch_box_iou<T, 1>(scope, b1, b2, batch, out);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("box_iou", TORCH_BOX(&box_iou)); }

}  // namespace tinyssd
