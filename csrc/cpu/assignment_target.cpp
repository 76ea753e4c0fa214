// assignment_target on the CPU: what an assignment tells each anchor to learn, in one pass over the anchors of all
// images, which the threads share.
#include "../assigners.h"
#include "parallel.h"

#include <algorithm>

namespace tinyssd {
namespace {

template <class T>
struct Call {
  const int64_t* assigned;  // [B, A]
  const int64_t* labels;    // [B, G]
  const Box<T>* gt_boxes;   // [B, G]
  const Box<T>* anchors;    // [A], or nullptr: the boxes themselves are the targets
  int64_t num_anchors, num_gt;
  Box<T>* targets;   // [B, A]
  Box<T>* mask;      // [B, A]
  int64_t* classes;  // [B, A]
};

template <class T>
void write_targets(const Call<T>& call, int64_t begin, int64_t end) {
  std::fill(call.targets + begin, call.targets + end, Box<T>{0, 0, 0, 0});
  std::fill(call.mask + begin, call.mask + end, Box<T>{0, 0, 0, 0});
  for (int64_t slot = begin; slot < end; ++slot) {
    const int64_t g = call.assigned[slot];
    if (!is_index(g, call.num_gt)) {
      call.classes[slot] = class_without_box(g);
      continue;
    }
    const int64_t gt = slot / call.num_anchors * call.num_gt + g;
    const Box<T> box = call.gt_boxes[gt];
    call.targets[slot] = call.anchors != nullptr ? encode(call.anchors[slot % call.num_anchors], box) : box;
    call.mask[slot] = {1, 1, 1, 1};
    call.classes[slot] = call.labels[gt] + 1;
  }
}

std::tuple<Tensor, Tensor, Tensor> assignment_target(
    const Tensor& assigned, const Tensor& gt_labels, const Tensor& gt_boxes, const std::optional<Tensor>& anchors) {
  const ScalarType dtype = check_assignment_target(assigned, gt_labels, gt_boxes, anchors);
  const int64_t num_images = assigned.size(0), num_anchors = assigned.size(1);
  const Tensor rows = contiguous_as(assigned, ScalarType::Long), gt = contiguous_as(gt_boxes, dtype);
  const Tensor labels = contiguous_as(gt_labels, ScalarType::Long);
  const std::optional<Tensor> a = contiguous_as(anchors, dtype);
  const Tensor targets = new_tensor(gt, {num_images, 4 * num_anchors}, dtype);
  const Tensor mask = new_tensor(gt, {num_images, 4 * num_anchors}, dtype);
  const Tensor classes = new_tensor(gt, {num_images, num_anchors}, ScalarType::Long);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Call<T> call = {
        rows.const_data_ptr<int64_t>(),
        labels.const_data_ptr<int64_t>(),
        box_data<T>(gt),
        a ? box_data<T>(*a) : nullptr,
        num_anchors,
        gt.size(1),
        mutable_box_data<T>(targets),
        mutable_box_data<T>(mask),
        classes.mutable_data_ptr<int64_t>()};
    parallel(num_images * num_anchors, 5, [&](int64_t begin, int64_t end) { write_targets(call, begin, end); });
  });
  return {targets, mask, classes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assignment_target", TORCH_BOX(&assignment_target)); }

}  // namespace tinyssd
