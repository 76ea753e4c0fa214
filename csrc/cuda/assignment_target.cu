// assignment_target on CUDA: a thread for each anchor of each image writes what the assignment tells it to learn.
#include "assigners.cuh"

namespace tinyssd {
namespace {

template <class T>
__global__ void __launch_bounds__(kResolveThreads) assignment_target_kernel(
    int64_t size, int64_t num_anchors, int64_t num_gt,
    const int64_t* __restrict__ assigned,  // [B, A]
    const int64_t* __restrict__ labels,    // [B, G]
    const Box<T>* __restrict__ gt_boxes,   // [B, G]
    const Box<T>* __restrict__ anchors,    // [A], or nullptr: the boxes themselves are the targets
    Box<T>* __restrict__ targets,          // [B, A]
    Box<T>* __restrict__ mask,             // [B, A]
    int64_t* __restrict__ classes) {       // [B, A]
  const int64_t slot = blockIdx.x * int64_t{kResolveThreads} + threadIdx.x;
  if (slot >= size) return;
  const int64_t g = assigned[slot];
  Box<T> target = {0, 0, 0, 0};
  const bool matched = is_index(g, num_gt);
  if (matched) {
    const int64_t gt = slot / num_anchors * num_gt + g;
    const Box<T> box = load_box(gt_boxes + gt);
    target = anchors != nullptr ? encode(load_box(anchors + slot % num_anchors), box) : box;
    classes[slot] = labels[gt] + 1;
  } else {
    classes[slot] = class_without_box(g);
  }
  const T one = matched ? T(1) : T(0);
  store_box(targets + slot, target);
  store_box(mask + slot, Box<T>{one, one, one, one});
}

std::tuple<Tensor, Tensor, Tensor> assignment_target(
    const Tensor& assigned, const Tensor& gt_labels, const Tensor& gt_boxes, const std::optional<Tensor>& anchors) {
  const ScalarType dtype = check_assignment_target(assigned, gt_labels, gt_boxes, anchors);
  const DeviceScope scope(gt_boxes);
  const int64_t num_images = assigned.size(0), num_anchors = assigned.size(1);
  const Tensor rows = contiguous_as(assigned, ScalarType::Long), gt = boxes_as(gt_boxes, dtype);
  const Tensor labels = contiguous_as(gt_labels, ScalarType::Long);
  const std::optional<Tensor> a = anchors ? std::optional(boxes_as(*anchors, dtype)) : std::nullopt;
  const Tensor targets = new_tensor(gt, {num_images, 4 * num_anchors}, dtype);
  const Tensor mask = new_tensor(gt, {num_images, 4 * num_anchors}, dtype);
  const Tensor classes = new_tensor(gt, {num_images, num_anchors}, ScalarType::Long);
  if (classes.numel() == 0) return {targets, mask, classes};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    scope.launch(
        assignment_target_kernel<T>, ceil_div(classes.numel(), kResolveThreads), kResolveThreads, 0, classes.numel(),
        num_anchors, gt.size(1), rows.const_data_ptr<int64_t>(), labels.const_data_ptr<int64_t>(), box_data<T>(gt),
        a ? box_data<T>(*a) : nullptr, mutable_box_data<T>(targets), mutable_box_data<T>(mask),
        classes.mutable_data_ptr<int64_t>());
  });
  return {targets, mask, classes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assignment_target", TORCH_BOX(&assignment_target)); }

}  // namespace tinyssd
