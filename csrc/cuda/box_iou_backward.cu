// The gradient of box_iou on CUDA, which is bound by reading grad: once, for both sums. A warp owns a tile of up to 128
// rows and columns, 32 by 32 at a time. First all pairs are looked at, a lane a column: few of them overlap. Then each
// lane adds up the pairs of its column that do, and those of its row. The sums of a tile go to scratch memory, and a
// second kernel adds those up. All sums are in a fixed order, so the result does not change from run to run.
#include "launch.cuh"

namespace tinyssd {
namespace {

constexpr int kWarps = 4, kReduceThreads = 128;
constexpr int kAtOnce = 8;            // loads in flight
constexpr int kMostGroups = 4;        // a tile has up to 4 * 32 rows and columns
constexpr int64_t kManyTiles = 1024;  // enough for all multiprocessors: fewer are made smaller
// Far from an overflow: a gradient this many times the union is left to the exact path.
constexpr double kLargestRatio = 1e20;

template <class T>
__device__ Box<T> plus(const Box<T>& a, const Box<T>& b) {
  return {a.x1 + b.x1, a.y1 + b.y1, a.x2 + b.x2, a.y2 + b.y2};
}

// What a gradient stays below so that add_iou_gradient has nothing but zeros to add if the boxes are apart: what is then
// multiplied by 0 is finite. Limits of two boxes add up; below a NaN is nothing.
template <class T>
__device__ T gradient_limit(const Box<T>& box) {
  return T(kLargestRatio) * area(box);
}

template <class T>
__device__ bool adds_nothing(const Box<T>& a, const Box<T>& b, T grad, T limit) {
  TINYSSD_COUNT_PAIR();
  const T width = smaller(a.x2, b.x2) - larger(a.x1, b.x1), height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  return (smaller(width, height) < T(0)) & (std::fabs(grad) < limit);
}

template <class T>
struct Pairs {
  const T* grad;         // [B, N, M]
  const Box<T>* boxes1;  // [B, N]
  const Box<T>* boxes2;  // [B, M]
  int64_t num_batches, rows, columns;
};

// What a warp shares: 32 rows for all lanes, and the sums of its columns, each touched by one lane alone.
template <class T>
struct WarpShared {
  Box<T> rows[kWarp];
  T row_limits[kWarp];
  Box<T> column_sums[kMostGroups][kWarp];
};

TINYSSD_INLINE unsigned low_bits(int count) { return count >= kWarp ? kAllLanes : (1u << count) - 1; }

// Of a matrix of bits, a row a lane: its columns. Blocks off the diagonal are exchanged, ever smaller ones.
__device__ __forceinline__ unsigned transposed(unsigned bits) {
  unsigned low = 0x0000ffffu;
  TINYSSD_UNROLL
  for (int side = kWarp / 2; side > 0; side /= 2) {
    const unsigned other = __shfl_xor_sync(kAllLanes, bits, side);
    const bool lower_half = (threadIdx.x & side) != 0;
    bits = lower_half ? (bits & ~low) | (other >> side & low) : (bits & low) | (other & low) << side;
    low ^= low << side / 2;
  }
  return bits;
}

// 32 boxes of each list and the gradients between them, as a warp sees them; the rows lie in shared memory.
template <class T>
struct Square {
  const T* grad;               // [height, width], `stride` apart
  const Box<T>* column_boxes;  // [width]
  int64_t stride;
  int height, width;  // 1 to 32

  // The rows whose pair with this lane's column counts, a bit each.
  __device__ unsigned look(const WarpShared<T>& shared, const Box<T>& column_box, T limit) const {
    unsigned counts = 0;
    const T* next = grad + smaller(static_cast<int>(threadIdx.x), width - 1);
    for (int first = 0; first < height; first += kAtOnce, next += kAtOnce * stride) {
      T values[kAtOnce];
      if (first + kAtOnce <= height) {
        TINYSSD_UNROLL
        for (int i = 0; i < kAtOnce; ++i) values[i] = next[i * stride];
      } else {
        for (int i = 0; i < kAtOnce; ++i) values[i] = first + i < height ? next[i * stride] : T(0);
      }
      unsigned found = 0;
      TINYSSD_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int r = first + i;
        const bool nothing =
            adds_nothing(column_box, load_box(shared.rows + r), values[i], limit + shared.row_limits[r]);
        found |= static_cast<unsigned>(!nothing) << i;
      }
      counts |= found << first;
    }
    return counts & low_bits(height);
  }

  // Adds the gradients of this lane's row and column.
  __device__ void add(const WarpShared<T>& shared, Box<T>* row_sum, Box<T>* column_sum) const {
    const int lane = threadIdx.x;
    const Box<T> column_box = lane < width ? load_box(column_boxes + lane) : Box<T>{0, 0, 0, 0};
    const unsigned in_column = look(shared, column_box, gradient_limit(column_box));
    const unsigned in_row = transposed(in_column);
    if (lane < width) {
      for (unsigned left = in_column; left != 0; left &= left - 1) {
        const int r = __ffs(static_cast<int>(left)) - 1;
        add_iou_gradient(column_box, load_box(shared.rows + r), grad[r * stride + lane], column_sum);
      }
    }
    if (lane < height) {
      const Box<T> row_box = load_box(shared.rows + lane);
      for (unsigned left = in_row & low_bits(width); left != 0; left &= left - 1) {
        const int c = __ffs(static_cast<int>(left)) - 1;
        add_iou_gradient(row_box, load_box(column_boxes + c), grad[lane * stride + c], row_sum);
      }
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kWarp* kWarps) box_iou_backward_kernel(
    const Pairs<T> pairs, int groups, int64_t row_tiles, int64_t column_tiles,
    Box<T>* __restrict__ row_parts,       // [column_tiles, B, N]
    Box<T>* __restrict__ column_parts) {  // [row_tiles, B, M]
  auto& shared = shared_memory<WarpShared<T>[kWarps]>()[threadIdx.y];
  const int lane = threadIdx.x;
  const int64_t tile = blockIdx.x * int64_t{kWarps} + threadIdx.y;
  const int64_t column_tile = tile % column_tiles, row_tile = tile / column_tiles % row_tiles;
  const int64_t batch = tile / column_tiles / row_tiles;
  if (batch >= pairs.num_batches) return;
  const int64_t first_row = row_tile * groups * kWarp, first_column = column_tile * groups * kWarp;
  for (int c = 0; c < groups; ++c) store_box(&shared.column_sums[c][lane], Box<T>{0, 0, 0, 0});
  for (int r = 0; r < groups; ++r) {
    const int64_t row = first_row + r * kWarp;
    const int height = static_cast<int>(smaller(pairs.rows - row, int64_t{kWarp}));
    if (height <= 0) break;
    const int64_t row_index = batch * pairs.rows + row;
    const Box<T> own = lane < height ? load_box(pairs.boxes1 + row_index + lane) : Box<T>{0, 0, 0, 0};
    __syncwarp(kAllLanes);  // the rows before have been read
    store_box(shared.rows + lane, own);
    shared.row_limits[lane] = gradient_limit(own);
    __syncwarp(kAllLanes);
    Box<T> row_sum = {0, 0, 0, 0};
    for (int c = 0; c < groups; ++c) {
      const int64_t column = first_column + c * kWarp;
      const int width = static_cast<int>(smaller(pairs.columns - column, int64_t{kWarp}));
      if (width <= 0) break;
      const Square<T> square = {
          pairs.grad + row_index * pairs.columns + column, pairs.boxes2 + batch * pairs.columns + column, pairs.columns,
          height, width};
      Box<T> column_sum = load_box(&shared.column_sums[c][lane]);
      square.add(shared, &row_sum, &column_sum);
      store_box(&shared.column_sums[c][lane], column_sum);
    }
    if (lane < height)
      store_box(row_parts + (column_tile * pairs.num_batches) * pairs.rows + row_index + lane, row_sum);
  }
  for (int c = 0; c < groups; ++c) {
    const int64_t column = first_column + c * kWarp + lane;
    if (column >= pairs.columns) break;
    Box<T>* target = column_parts + (row_tile * pairs.num_batches + batch) * pairs.columns + column;
    store_box(target, load_box(&shared.column_sums[c][lane]));
  }
}

// A thread owns a box of either list.
template <class T>
__global__ void __launch_bounds__(kReduceThreads) box_iou_backward_reduce_kernel(
    const Box<T>* __restrict__ row_parts,     // [column_tiles, B, N]
    const Box<T>* __restrict__ column_parts,  // [row_tiles, B, M]
    int64_t all_rows, int64_t all_columns, int64_t row_tiles, int64_t column_tiles,
    Box<T>* __restrict__ grad1,    // [B, N]
    Box<T>* __restrict__ grad2) {  // [B, M]
  const int64_t i = blockIdx.x * int64_t{kReduceThreads} + threadIdx.x;
  if (i >= all_rows + all_columns) return;
  const bool is_row = i < all_rows;
  const Box<T>* part = is_row ? row_parts + i : column_parts + (i - all_rows);
  const int64_t count = is_row ? column_tiles : row_tiles, step = is_row ? all_rows : all_columns;
  Box<T> sum = {0, 0, 0, 0};
  int64_t t = 0;
  for (; t + kAtOnce <= count; t += kAtOnce) {
    Box<T> parts[kAtOnce];
    TINYSSD_UNROLL
    for (int k = 0; k < kAtOnce; ++k) parts[k] = load_box(part + (t + k) * step);
    TINYSSD_UNROLL
    for (int k = 0; k < kAtOnce; ++k) sum = plus(sum, parts[k]);
  }
  for (; t < count; ++t) sum = plus(sum, load_box(part + t * step));
  store_box(is_row ? grad1 + i : grad2 + (i - all_rows), sum);
}

template <class T>
void launch_box_iou_backward(
    const DeviceScope& scope, const Pairs<T>& pairs, const Tensor& like, Box<T>* grad1, Box<T>* grad2) {
  const auto tiles = [&](int64_t size, int groups) { return ceil_div(size, int64_t{groups} * kWarp); };
  const int64_t large_tiles = pairs.num_batches * tiles(pairs.rows, kMostGroups) * tiles(pairs.columns, kMostGroups);
  const int groups = large_tiles >= kManyTiles ? kMostGroups : 1;
  const int64_t row_tiles = tiles(pairs.rows, groups), column_tiles = tiles(pairs.columns, groups);
  const int64_t all_rows = pairs.num_batches * pairs.rows, all_columns = pairs.num_batches * pairs.columns;
  Scratch scratch;
  const auto row_parts = scratch.add<Box<T>>(column_tiles * all_rows);
  const auto column_parts = scratch.add<Box<T>>(row_tiles * all_columns);
  scratch.allocate(like);
  const int64_t all_tiles = pairs.num_batches * row_tiles * column_tiles;
  if (all_tiles > 0) {
    scope.launch(
        box_iou_backward_kernel<T>, ceil_div(all_tiles, kWarps), dim3(kWarp, kWarps), sizeof(WarpShared<T>[kWarps]),
        pairs, groups, row_tiles, column_tiles, scratch.get(row_parts), scratch.get(column_parts));
  }
  // Without pairs the sums are empty: zeros.
  scope.launch(
      box_iou_backward_reduce_kernel<T>, ceil_div(all_rows + all_columns, kReduceThreads), kReduceThreads, 0,
      scratch.get(row_parts), scratch.get(column_parts), all_rows, all_columns, row_tiles, column_tiles, grad1, grad2);
}

std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  const ScalarType dtype = check_box_iou_backward(grad, boxes1, boxes2);
  const DeviceScope scope(boxes1);
  const int64_t num_batches = boxes1.size(0), rows = boxes1.size(1), columns = boxes2.size(1);
  const Tensor g = contiguous_as(grad, dtype), b1 = boxes_as(boxes1, dtype), b2 = boxes_as(boxes2, dtype);
  const Tensor grad1 = new_tensor(b1, {num_batches, rows, 4}, dtype);
  const Tensor grad2 = new_tensor(b2, {num_batches, columns, 4}, dtype);
  if (grad1.numel() + grad2.numel() == 0) return {grad1, grad2};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Pairs<T> pairs = {g.const_data_ptr<T>(), box_data<T>(b1), box_data<T>(b2), num_batches, rows, columns};
    launch_box_iou_backward(scope, pairs, b1, mutable_box_data<T>(grad1), mutable_box_data<T>(grad2));
  });
  return {grad1, grad2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("box_iou_backward", TORCH_BOX(&box_iou_backward)); }

}  // namespace tinyssd
