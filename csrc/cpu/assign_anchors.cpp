// assign_anchors on the CPU: threads own images, or parts of a single one. See assign.cpp for the algorithm and ties.
#include "../checks.h"
#include "assign.h"
#include "parallel.h"

namespace tinyssd {
namespace {

Tensor assign_anchors(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, double iou_threshold) {
  const ScalarType dtype = check_assign_anchors(anchors, gt_boxes, gt_valid, iou_threshold);
  const bool single = gt_boxes.dim() == 2;
  const int64_t num_images = single ? 1 : gt_boxes.size(0), num_gt = gt_boxes.size(gt_boxes.dim() - 2);
  const int64_t num_anchors = anchors.size(0);
  const Tensor a = contiguous_as(anchors, dtype), gt = contiguous_as(gt_boxes, dtype);
  const std::optional<Tensor> valid = contiguous_as(gt_valid, ScalarType::Bool);
  const Tensor out = single ? new_tensor(a, {num_anchors}, ScalarType::Long)
                            : new_tensor(a, {num_images, num_anchors}, ScalarType::Long);
  if (out.numel() == 0) return out;
  int64_t* assigned = out.mutable_data_ptr<int64_t>();
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const AnchorArrays<T> arrays(a.const_data_ptr<T>(), num_anchors);
    const auto* boxes = box_data<T>(gt);
    const bool* flags = valid ? valid->const_data_ptr<bool>() : nullptr;
    parallel(num_images, num_anchors * (num_gt + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        assign(
            arrays, boxes + i * num_gt, flags == nullptr ? nullptr : flags + i * num_gt, num_gt,
            static_cast<T>(iou_threshold), assigned + i * num_anchors);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assign_anchors", TORCH_BOX(&assign_anchors)); }

}  // namespace tinyssd
