// assign_anchors on CUDA. See assign.cuh for what threads own and how ties break.
#include "assign.cuh"

namespace tinyssd {
namespace {

template <class T>
struct WriteIndex {
  int64_t* assigned;  // [B, A]

  __device__ void matched(int64_t slot, const Box<T>&, const GroundTruth<T>&, int64_t, int64_t gt) const {
    assigned[slot] = gt;
  }
  __device__ void background(int64_t slot) const { assigned[slot] = -1; }
};

Tensor assign_anchors(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, double iou_threshold) {
  const ScalarType dtype = check_assign_anchors(anchors, gt_boxes, gt_valid, iou_threshold);
  const DeviceScope scope(anchors);
  const bool single = gt_boxes.dim() == 2;
  const int64_t num_images = single ? 1 : gt_boxes.size(0), num_gt = gt_boxes.size(gt_boxes.dim() - 2);
  const int64_t num_anchors = anchors.size(0);
  const Tensor a = boxes_as(anchors, dtype), gt = contiguous_as(gt_boxes, dtype);
  const std::optional<Tensor> valid = contiguous_as(gt_valid, ScalarType::Bool);
  const Tensor out = single ? new_tensor(a, {num_anchors}, ScalarType::Long)
                            : new_tensor(a, {num_images, num_anchors}, ScalarType::Long);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GroundTruth<T> gts = {gt.const_data_ptr<T>(), 4, valid ? valid->const_data_ptr<bool>() : nullptr, num_gt};
    const WriteIndex<T> write = {out.mutable_data_ptr<int64_t>()};
    assign(scope, a, num_anchors, gts, num_images, iou_threshold, write);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assign_anchors", TORCH_BOX(&assign_anchors)); }

}  // namespace tinyssd
