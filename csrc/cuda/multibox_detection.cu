// multibox_detection on CUDA: decode (decode.cuh), suppress (suppress.cuh), then rows: a block owns an image and finds
// where each anchor's row goes: kept ones by rank, then suppressed ones by index, then background by index.
#include "decode.cuh"

#include <cub/block/block_scan.cuh>

namespace tinyssd {
namespace {

constexpr int kRowThreads = 1024;
constexpr int kNotKept = -1;

using RowScan = cub::BlockScan<int, kRowThreads, cub::BLOCK_SCAN_WARP_SCANS>;

template <class T>
__global__ void __launch_bounds__(kRowThreads) multibox_detection_rows_kernel(
    const Decoded<T> decoded, int64_t num_anchors, T pos_threshold,
    const int64_t* __restrict__ keep,    // [B, A]
    const int64_t* __restrict__ counts,  // [B]
    int* __restrict__ row_of,            // [B, A], filled with kNotKept
    Row<T>* __restrict__ rows) {         // [B, A]
  auto& shared = shared_memory<RowScan::TempStorage>();
  const int64_t first = blockIdx.x * num_anchors;
  const int64_t kept = counts[blockIdx.x];
  for (int64_t k = threadIdx.x; k < kept; k += kRowThreads) row_of[first + keep[first + k]] = static_cast<int>(k);
  int64_t objects = 0;  // counted over the whole image, so row_of is complete after it
  for (int64_t base = 0; base < num_anchors; base += kRowThreads) {
    const int64_t anchor = base + threadIdx.x;
    objects += __syncthreads_count(anchor < num_anchors && decoded.classes[first + anchor] > 0);
  }
  int64_t next_suppressed = kept, next_background = objects;
  for (int64_t base = 0; base < num_anchors; base += kRowThreads) {
    const int64_t anchor = base + threadIdx.x, i = first + anchor;
    const bool exists = anchor < num_anchors;
    const int class_id = exists ? decoded.classes[i] : 0;
    const int row = exists ? row_of[i] : kNotKept;
    const int suppressed = exists && class_id > 0 && row == kNotKept, background = exists && class_id == 0;
    int before, all;
    RowScan(shared).ExclusiveSum(suppressed, before, all);
    __syncthreads();
    int background_before, all_background;
    RowScan(shared).ExclusiveSum(background, background_before, all_background);
    __syncthreads();
    if (exists) {
      const int64_t target = row != kNotKept   ? row
                             : suppressed != 0 ? next_suppressed + before
                                               : next_background + background_before;
      const Row<T> result = detection_row(
          row != kNotKept ? class_id : 0, decoded.confidence[i], pos_threshold, load_box(decoded.boxes + i));
      rows[first + target] = result;
    }
    next_suppressed += all;
    next_background += all_background;
  }
}

Tensor multibox_detection(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double pos_threshold) {
  const ScalarType dtype = check_multibox_detection(cls_probs, offset_preds, anchors, nms_threshold, pos_threshold);
  const DeviceScope scope(cls_probs);
  const int64_t num_images = cls_probs.size(0), num_classes = cls_probs.size(1), num_anchors = cls_probs.size(2);
  const Tensor p = contiguous_as(cls_probs, dtype), d = boxes_as(offset_preds, dtype), a = boxes_as(anchors, dtype);
  const Tensor out = new_tensor(p, {num_images, num_anchors, 6}, dtype);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t total = num_images * num_anchors;
    Scratch scratch;
    const auto boxes = scratch.add<Box<T>>(total);
    const auto keys = scratch.add<RankKey<T>>(total);
    const auto classes = scratch.add<int>(total), row_of = scratch.add<int>(total);
    const auto confidence = scratch.add<T>(total);
    const auto keep = scratch.add<int64_t>(total), counts = scratch.add<int64_t>(num_images);
    scratch.allocate(p);
    const Decoded<T> decoded = {scratch.get(boxes), scratch.get(keys), scratch.get(classes), scratch.get(confidence)};
    scope.launch(
        decode_best_kernel<T>, ceil_div(total, kDecodeThreads), kDecodeThreads, 0, p.const_data_ptr<T>(),
        box_data<T>(d), box_data<T>(a), num_images, static_cast<int>(num_classes), num_anchors, 0, false, T(0),
        decoded);
    const Candidates<T> in = {decoded.boxes, num_anchors, 1, decoded.keys};
    suppress(scope, p, in, num_images, nms_threshold, num_anchors, false, scratch.get(keep), scratch.get(counts));
    scope.fill_bytes(scratch.get(row_of), kNotKept, total * sizeof(int));
    scope.launch(
        multibox_detection_rows_kernel<T>, num_images, kRowThreads, sizeof(RowScan::TempStorage), decoded, num_anchors,
        static_cast<T>(pos_threshold), scratch.get(keep), scratch.get(counts), scratch.get(row_of),
        reinterpret_cast<Row<T>*>(out.mutable_data_ptr<T>()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("multibox_detection", TORCH_BOX(&multibox_detection)); }

}  // namespace tinyssd
