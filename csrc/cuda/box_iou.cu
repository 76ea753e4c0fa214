// box_iou on CUDA, which is bound by writing its output. A thread owns kVector columns, whose boxes stay in registers,
// in kRows rows. Where rows are aligned to 16 bytes the columns are neighbours and are written at once; elsewhere they
// are blockDim.x apart, so that a warp still writes neighbours. A block of (x, y) threads covers x * kVector columns and
// y * kRows rows; narrow outputs get narrow, high blocks.
#include "../broadcast.h"
#include "ordinary.cuh"

namespace tinyssd {
namespace {

constexpr int kThreads = 128, kRows = 16;
template <class T>
constexpr int kVector = 16 / sizeof(T);

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) box_iou_kernel(
    const Box<T>* __restrict__ boxes1,  // [..., N]
    const Box<T>* __restrict__ boxes2,  // [..., M]
    const Broadcast batch, int64_t rows, int64_t columns, unsigned row_tiles, unsigned column_tiles,
    T* __restrict__ out) {  // [..., N, M]
  const unsigned column_tile = blockIdx.x % column_tiles, row_tile = blockIdx.x / column_tiles % row_tiles;
  const int64_t matrix = blockIdx.x / column_tiles / row_tiles;
  const Broadcast::Sources sources = batch.sources(matrix);
  const Box<T>* rows_boxes = boxes1 + sources.first * rows;
  const int64_t tile_column = int64_t{column_tile} * blockDim.x * kVector<T>;
  const int64_t column = tile_column + threadIdx.x * int64_t{kAligned ? kVector<T> : 1};
  const int64_t stride = kAligned ? 1 : blockDim.x;
  bool there[kVector<T>], odd = false;
  Box<T> own[kVector<T>];
  T areas[kVector<T>];
  for (int i = 0; i < kVector<T>; ++i) {
    there[i] = column + i * stride < columns;
    own[i] = there[i] ? load_box(boxes2 + sources.second * columns + column + i * stride) : Box<T>{0, 0, 1, 1};
    areas[i] = area(own[i]);
    odd |= !is_ordinary(own[i]);
  }
  const int64_t tile_row = int64_t{row_tile} * kRows * blockDim.y;
  const int tile_rows = static_cast<int>(smaller(rows - tile_row, int64_t{kRows} * blockDim.y));
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < tile_rows; i += kThreads) {
    odd |= !is_ordinary(load_box(rows_boxes + tile_row + i));
  }
  const auto fill = [&](const auto& pair_iou) {
    // Pointers that step: with an index for each row the compiler splits the store.
    const Box<T>* source = rows_boxes + tile_row + threadIdx.y;
    T* target = out + (matrix * rows + tile_row + threadIdx.y) * columns + column;
#pragma unroll 2
    for (int r = threadIdx.y; r < tile_rows; r += blockDim.y, source += blockDim.y, target += blockDim.y * columns) {
      const Box<T> box = load_box(source);
      const T box_area = area(box);
      Pack<T, kVector<T>> pack;
      for (int i = 0; i < kVector<T>; ++i) pack.values[i] = pair_iou(box, box_area, own[i], areas[i]);
      if constexpr (kAligned) {
        if (there[0]) *reinterpret_cast<Pack<T, kVector<T>>*>(target) = pack;
      } else {
        for (int i = 0; i < kVector<T>; ++i) {
          if (there[i]) target[i * stride] = pack.values[i];
        }
      }
    }
  };
  if (__syncthreads_or(odd)) {
    fill([](const Box<T>& a, T area_a, const Box<T>& b, T area_b) { return iou(a, area_a, b, area_b); });
  } else {
    fill([](const Box<T>& a, T area_a, const Box<T>& b, T area_b) { return ordinary_iou(a, area_a, b, area_b); });
  }
}

template <class T, bool kAligned>
void launch_box_iou(
    const DeviceScope& scope, const Tensor& boxes1, const Tensor& boxes2, const Broadcast& batch, const Tensor& out) {
  const int64_t rows = boxes1.size(boxes1.dim() - 2), columns = boxes2.size(boxes2.dim() - 2);
  unsigned wide = kThreads;
  while (wide > 1 && static_cast<int64_t>(wide / 2) * kVector<T> >= columns) wide /= 2;
  const dim3 threads(wide, kThreads / wide);
  const int64_t row_tiles = ceil_div(rows, int64_t{kRows} * threads.y);
  const int64_t column_tiles = ceil_div(columns, int64_t{kVector<T>} * threads.x);
  scope.launch(
      box_iou_kernel<T, kAligned>, batch.count * row_tiles * column_tiles, threads, 0, box_data<T>(boxes1),
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
    if (columns % kVector<T> == 0) {
      launch_box_iou<T, true>(scope, b1, b2, batch, out);
    } else {
      launch_box_iou<T, false>(scope, b1, b2, batch, out);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("box_iou", TORCH_BOX(&box_iou)); }

}  // namespace tinyssd
