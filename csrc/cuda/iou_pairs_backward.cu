// The gradient of the IoU family on CUDA. The gradient of boxes1: a warp owns a box, its lanes share the boxes of the
// other side. That of boxes2: a block owns 32 boxes, one a lane, so that a warp reads neighbours in a row; its warps share
// the rows. Both add up in kGradientLanes sums, then by halves (see ../iou.h). A lane first notes as bits which of its next
// 32 pairs can change a sum, then adds those: of IoU few do. Aligned: a thread owns a pair.
#include "iou_pairs.cuh"

namespace tinyssd {
namespace {

constexpr int kWarps = 8, kThreads = 128;
static_assert(kGradientLanes == kWarp && kWarp % kWarps == 0);

template <class T>
__device__ __forceinline__ Box<T> plus(const Box<T>& a, const Box<T>& b) {
  return {a.x1 + b.x1, a.y1 + b.y1, a.x2 + b.x2, a.y2 + b.y2};
}

template <class T>
__device__ __forceinline__ Box<T> times(T factor, const Box<T>& a) {
  return {factor * a.x1, factor * a.y1, factor * a.x2, factor * a.y2};
}

// Whether a pair's term can change a sum. Boxes that lie apart have IoU slopes of +0 or -0, and sums, which begin as +0,
// are never -0; but 0 times a gradient that is not finite is NaN.
template <IouKind kKind, class T>
__device__ __forceinline__ bool counts(const T* grad, const Box<T>& a, const Box<T>* others) {
  if constexpr (kKind != IouKind::kIou) return true;
  const Box<T> b = load_box(others);
  const bool apart =
      (smaller(a.x2, b.x2) - larger(a.x1, b.x1) < T(0)) | (smaller(a.y2, b.y2) - larger(a.y1, b.y1) < T(0));
  return !apart | !is_finite(*grad);
}

// The bits of kAtOnce pairs, `step` apart, of `left` that there are.
constexpr int kAtOnce = 32;
template <IouKind kKind, class T>
__device__ __forceinline__ unsigned pairs_that_count(
    const T* grad, int64_t grad_step, const Box<T>& own, const Box<T>* others, int64_t step, int64_t left) {
  unsigned bits = 0;
#pragma unroll 8
  for (int k = 0; k < kAtOnce; ++k) {
    if (k * step >= left) break;
    bits |= static_cast<unsigned>(counts<kKind>(grad + k * grad_step, own, others + k * step)) << k;
  }
  return bits;
}

template <IouKind kKind, class T>
__global__ void __launch_bounds__(kWarp* kWarps, 2) iou_pairs_backward_rows_kernel(
    const T* __restrict__ grad,     // [B, N, M]
    const MeasuredBoxes<T> boxes1,  // [B, N]
    const MeasuredBoxes<T> boxes2,  // [B, M]
    const IouEps<T> eps, int64_t num_batches, int64_t rows, int64_t columns,
    Box<T>* __restrict__ grad1) {  // [B, N]
  const int64_t i = blockIdx.x * int64_t{kWarps} + threadIdx.y;
  if (i >= num_batches * rows) return;
  const Measured<T> own = boxes1.template get<kKind>(i);
  const int64_t others = i / rows * columns;
  Box<T> sum = {0, 0, 0, 0};
  for (int64_t first = threadIdx.x; first < columns; first += kWarp * kAtOnce) {
    const T* factors = grad + i * columns + first;
    unsigned bits =
        pairs_that_count<kKind>(factors, kWarp, own.box, boxes2.boxes + others + first, kWarp, columns - first);
    for (; bits != 0; bits &= bits - 1) {
      const int j = (__ffs(static_cast<int>(bits)) - 1) * kWarp;
      const Box<T> slopes = iou_slopes<kKind>(own, boxes2.template get<kKind>(others + first + j), eps);
      sum = plus(sum, times(factors[j], slopes));
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum = plus(
        sum, {__shfl_xor_sync(kAllLanes, sum.x1, step), __shfl_xor_sync(kAllLanes, sum.y1, step),
              __shfl_xor_sync(kAllLanes, sum.x2, step), __shfl_xor_sync(kAllLanes, sum.y2, step)});
  }
  if (threadIdx.x == 0) store_box(grad1 + i, sum);
}

template <class T>
struct ColumnSums {
  Box<T> parts[kWarps][kWarp];
};

template <IouKind kKind, class T>
__global__ void __launch_bounds__(kWarp* kWarps, 2) iou_pairs_backward_columns_kernel(
    const T* __restrict__ grad,     // [B, N, M]
    const MeasuredBoxes<T> boxes1,  // [B, N]
    const MeasuredBoxes<T> boxes2,  // [B, M]
    const IouEps<T> eps, int64_t rows, int64_t columns, int64_t column_tiles,
    Box<T>* __restrict__ grad2) {  // [B, M]
  // A warp holds the sums of the rows that are its own number modulo kWarps: these, of the 32.
  constexpr int kEach = kGradientLanes / kWarps;
  auto& shared = shared_memory<ColumnSums<T>>();
  const int64_t batch = blockIdx.x / column_tiles, column = blockIdx.x % column_tiles * kWarp + threadIdx.x;
  Box<T> sums[kEach] = {};
  if (column < columns) {
    const Measured<T> own = boxes2.template get<kKind>(batch * columns + column);
    for (int64_t first = threadIdx.y; first < rows; first += kWarps * kAtOnce) {
      const int64_t i = batch * rows + first;
      const T* factors = grad + i * columns + column;
      unsigned bits =
          pairs_that_count<kKind>(factors, kWarps * columns, own.box, boxes1.boxes + i, kWarps, rows - first);
      for (; bits != 0; bits &= bits - 1) {
        const int place = __ffs(static_cast<int>(bits)) - 1;
        const Box<T> slopes = iou_slopes<kKind>(own, boxes1.template get<kKind>(i + place * kWarps), eps);
        const Box<T> term = times(factors[place * kWarps * columns], slopes);
#pragma unroll
        for (int k = 0; k < kEach; ++k) {
          const Box<T> next = plus(sums[k], term);
          sums[k] = place % kEach == k ? next : sums[k];
        }
      }
    }
  }
#pragma unroll
  for (int half = kEach / 2; half > 0; half /= 2) {
#pragma unroll
    for (int k = 0; k < half; ++k) sums[k] = plus(sums[k], sums[k + half]);
  }
  shared.parts[threadIdx.y][threadIdx.x] = sums[0];
  for (unsigned half = kWarps / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half) continue;
    auto& own = shared.parts[threadIdx.y][threadIdx.x];
    own = plus(own, shared.parts[threadIdx.y + half][threadIdx.x]);
  }
  if (threadIdx.y > 0 || column >= columns) return;
  store_box(grad2 + batch * columns + column, shared.parts[0][threadIdx.x]);
}

template <IouKind kKind, class T>
__global__ void __launch_bounds__(kThreads) iou_pairs_backward_aligned_kernel(
    const T* __restrict__ grad,     // [N]
    const MeasuredBoxes<T> boxes1,  // [N]
    const MeasuredBoxes<T> boxes2,  // [N]
    const IouEps<T> eps, int64_t size,
    Box<T>* __restrict__ grad1,    // [N]
    Box<T>* __restrict__ grad2) {  // [N]
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= size) return;
  const Measured<T> one = boxes1.template get<kKind>(i), two = boxes2.template get<kKind>(i);
  store_box(grad1 + i, times(grad[i], iou_slopes<kKind>(one, two, eps)));
  store_box(grad2 + i, times(grad[i], iou_slopes<kKind>(two, one, eps)));
}

template <IouKind kKind, class T>
void launch_backward(
    const DeviceScope& scope, const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, bool aligned,
    const IouEps<T>& eps, const Tensor& grad1, const Tensor& grad2) {
  Scratch scratch;
  const auto [ones, twos] = measured<kKind, T>(scope, scratch, boxes1, boxes2);
  const T* g = grad.const_data_ptr<T>();
  Box<T>* out1 = mutable_box_data<T>(grad1);
  Box<T>* out2 = mutable_box_data<T>(grad2);
  if (aligned) {
    const int64_t size = grad.numel();
    if (size == 0) return;
    scope.launch(
        iou_pairs_backward_aligned_kernel<kKind, T>, ceil_div(size, kThreads), kThreads, 0, g, ones, twos, eps, size,
        out1, out2);
    return;
  }
  const int64_t batches = boxes1.size(0), rows = boxes1.size(1), columns = boxes2.size(1);
  const dim3 threads(kWarp, kWarps);
  if (batches * rows > 0) {
    scope.launch(
        iou_pairs_backward_rows_kernel<kKind, T>, ceil_div(batches * rows, kWarps), threads, 0, g, ones, twos, eps,
        batches, rows, columns, out1);
  }
  if (batches * columns > 0) {
    const int64_t column_tiles = ceil_div(columns, kWarp);
    scope.launch(
        iou_pairs_backward_columns_kernel<kKind, T>, batches * column_tiles, threads, sizeof(ColumnSums<T>), g, ones,
        twos, eps, rows, columns, column_tiles, out2);
  }
}

std::tuple<Tensor, Tensor> iou_pairs_backward(
    const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps,
    double eps) {
  const ScalarType dtype = check_iou_pairs_backward(grad, boxes1, boxes2, kind, aligned, union_eps, eps);
  const DeviceScope scope(boxes1);
  const Tensor b1 = boxes_as(boxes1, dtype), b2 = boxes_as(boxes2, dtype), g = contiguous_as(grad, dtype);
  const Tensor grad1 = torch::stable::empty_like(b1), grad2 = torch::stable::empty_like(b2);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const IouEps<T> added = {static_cast<T>(union_eps), static_cast<T>(eps)};
    with_kind(kind, [&](auto constant) {
      launch_backward<decltype(constant)::value, T>(scope, g, b1, b2, aligned, added, grad1, grad2);
    });
  });
  return {grad1, grad2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("iou_pairs_backward", TORCH_BOX(&iou_pairs_backward)); }

}  // namespace tinyssd
