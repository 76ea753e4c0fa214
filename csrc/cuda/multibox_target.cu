// multibox_target on CUDA: the assignment of assign.cuh, whose writes are the encoded targets.
#include "assign.cuh"

namespace tinyssd {
namespace {

template <class T>
struct WriteTarget {
  Box<T>* offsets;   // [B, A]
  Box<T>* mask;      // [B, A]
  int64_t* classes;  // [B, A]

  __device__ void matched(
      int64_t slot, const Box<T>& anchor, const GroundTruth<T>& gts, int64_t gt, int64_t /*in the image*/) const {
    store_box(offsets + slot, encode(anchor, gts.box(gt)));
    store_box(mask + slot, Box<T>{1, 1, 1, 1});
    classes[slot] = class_of_label(gts.class_id(gt));
  }
  __device__ void background(int64_t slot) const {
    store_box(offsets + slot, Box<T>{0, 0, 0, 0});
    store_box(mask + slot, Box<T>{0, 0, 0, 0});
    classes[slot] = 0;
  }
};

std::tuple<Tensor, Tensor, Tensor> multibox_target(const Tensor& anchors, const Tensor& labels, double iou_threshold) {
  const ScalarType dtype = check_multibox_target(anchors, labels, iou_threshold);
  const DeviceScope scope(anchors);
  const int64_t num_images = labels.size(0), num_gt = labels.size(1), num_anchors = anchors.size(anchors.dim() - 2);
  const Tensor a = boxes_as(anchors, dtype), rows = contiguous_as(labels, dtype);
  const Tensor offsets = new_tensor(a, {num_images, 4 * num_anchors}, dtype);
  const Tensor mask = new_tensor(a, {num_images, 4 * num_anchors}, dtype);
  const Tensor classes = new_tensor(a, {num_images, num_anchors}, ScalarType::Long);
  if (classes.numel() == 0) return {offsets, mask, classes};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GroundTruth<T> gts = {rows.const_data_ptr<T>(), 5, nullptr, num_gt};
    const WriteTarget<T> write = {
        mutable_box_data<T>(offsets), mutable_box_data<T>(mask), classes.mutable_data_ptr<int64_t>()};
    assign(scope, a, num_anchors, gts, num_images, iou_threshold, write);
  });
  return {offsets, mask, classes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("multibox_target", TORCH_BOX(&multibox_target)); }

}  // namespace tinyssd
