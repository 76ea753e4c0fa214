// multibox_target on the CPU: assigns (assign.cpp) and encodes the matched anchors. Threads own images, or parts of a
// single one.
#include "../checks.h"
#include "assign.h"
#include "parallel.h"

#include <algorithm>
#include <memory>

namespace tinyssd {
namespace {

// The rows of one image's outputs.
template <class T>
struct Targets {
  Box<T>* offsets;   // [A]
  Box<T>* mask;      // [A]
  int64_t* classes;  // [A]
};

template <class T>
void target_image(
    const AnchorArrays<T>& arrays, const Box<T>* anchors, const T* labels /* [G, 5] */, int64_t num_gt, T iou_threshold,
    const Targets<T>& out) {
  std::vector<Box<T>> gt_boxes(num_gt);
  const std::unique_ptr<bool[]> valid(new bool[num_gt]);
  for (int64_t g = 0; g < num_gt; ++g) {
    const T* label = labels + 5 * g;
    gt_boxes[g] = {label[1], label[2], label[3], label[4]};
    valid[g] = label[0] >= T(0);
  }
  int64_t* assigned = out.classes;  // the box of each anchor, until its class replaces it
  assign(arrays, gt_boxes.data(), valid.get(), num_gt, iou_threshold, assigned);
  parallel(arrays.size(), 5, [&](int64_t begin, int64_t end) {
    std::fill(out.offsets + begin, out.offsets + end, Box<T>{0, 0, 0, 0});
    std::fill(out.mask + begin, out.mask + end, Box<T>{0, 0, 0, 0});
    for (int64_t anchor = begin; anchor < end; ++anchor) {
      const int64_t g = assigned[anchor];
      if (g < 0) {
        assigned[anchor] = 0;
        continue;
      }
      out.offsets[anchor] = encode(anchors[anchor], gt_boxes[g]);
      out.mask[anchor] = {1, 1, 1, 1};
      assigned[anchor] = class_of_label(labels[5 * g]);
    }
  });
}

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
    auto* offset_data = mutable_box_data<T>(offsets);
    auto* mask_data = mutable_box_data<T>(mask);
    int64_t* class_data = classes.mutable_data_ptr<int64_t>();
    const AnchorArrays<T> arrays(a.const_data_ptr<T>(), num_anchors);
    parallel(num_images, num_anchors * (num_gt + 10), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Targets<T> out = {
            offset_data + i * num_anchors, mask_data + i * num_anchors, class_data + i * num_anchors};
        target_image(arrays, anchor_boxes, label_data + i * num_gt * 5, num_gt, static_cast<T>(iou_threshold), out);
      }
    });
  });
  return {offsets, mask, classes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("multibox_target", TORCH_BOX(&multibox_target)); }

}  // namespace tinyssd
