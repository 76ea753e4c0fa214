// multibox_target on the CPU: a thread owns images, assigns (assign.cpp) and encodes the matched anchors at once.
#include "../checks.h"
#include "assign.h"
#include "parallel.h"

#include <algorithm>
#include <memory>

namespace tinyssd {
namespace {

std::tuple<Tensor, Tensor, Tensor> multibox_target(const Tensor& anchors, const Tensor& labels, double iou_threshold) {
  const ScalarType dtype = check_multibox_target(anchors, labels, iou_threshold);
  const int64_t num_images = labels.size(0), num_gt = labels.size(1), num_anchors = anchors.size(anchors.dim() - 2);
  const Tensor a = contiguous_as(anchors, dtype), rows = contiguous_as(labels, dtype);
  const Tensor offsets = new_tensor(a, {num_images, 4 * num_anchors}, dtype);
  const Tensor mask = new_tensor(a, {num_images, 4 * num_anchors}, dtype);
  const Tensor classes = new_tensor(a, {num_images, num_anchors}, ScalarType::Long);
  if (classes.numel() == 0) return {offsets, mask, classes};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* anchor_boxes = box_data<T>(a);
    const T* label_data = rows.const_data_ptr<T>();
    T* offset_data = offsets.mutable_data_ptr<T>();
    T* mask_data = mask.mutable_data_ptr<T>();
    int64_t* class_data = classes.mutable_data_ptr<int64_t>();
    const AnchorArrays<T> arrays(a.const_data_ptr<T>(), num_anchors);
    parallel(num_images, num_anchors * (num_gt + 10), [&](int64_t begin, int64_t end) {
      std::vector<Box<T>> gt_boxes(num_gt);
      const std::unique_ptr<bool[]> valid(new bool[num_gt]);
      for (int64_t i = begin; i < end; ++i) {
        const T* label = label_data + i * num_gt * 5;  // [G, 5]
        for (int64_t g = 0; g < num_gt; ++g) {
          gt_boxes[g] = {label[5 * g + 1], label[5 * g + 2], label[5 * g + 3], label[5 * g + 4]};
          valid[g] = label[5 * g] >= T(0);
        }
        int64_t* assigned = class_data + i * num_anchors;  // the box of each anchor, until its class replaces it
        assign(arrays, gt_boxes.data(), valid.get(), num_gt, static_cast<T>(iou_threshold), assigned);
        auto* offset = reinterpret_cast<Box<T>*>(offset_data + i * num_anchors * 4);
        auto* matched = reinterpret_cast<Box<T>*>(mask_data + i * num_anchors * 4);
        std::fill(offset, offset + num_anchors, Box<T>{0, 0, 0, 0});
        std::fill(matched, matched + num_anchors, Box<T>{0, 0, 0, 0});
        for (int64_t anchor = 0; anchor < num_anchors; ++anchor) {
          const int64_t g = assigned[anchor];
          if (g < 0) {
            assigned[anchor] = 0;
            continue;
          }
          offset[anchor] = encode(anchor_boxes[anchor], gt_boxes[g]);
          matched[anchor] = {1, 1, 1, 1};
          assigned[anchor] = class_of_label(label[5 * g]);
        }
      }
    });
  });
  return {offsets, mask, classes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("multibox_target", TORCH_BOX(&multibox_target)); }

}  // namespace tinyssd
