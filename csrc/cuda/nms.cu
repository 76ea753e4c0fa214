// nms, batched_nms, nms_padded on CUDA. See suppress.cuh for ranks and ties.
#include "suppress.cuh"

namespace tinyssd {
namespace {

template <class T>
Candidates<T> candidates(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& classes) {
  Candidates<T> in = {box_data<T>(boxes), scores.size(scores.dim() - 1), 1};
  in.scores = scores.const_data_ptr<T>();
  in.scores_stride = in.size;
  if (classes) in.classes = classes->const_data_ptr<int64_t>();
  return in;
}

// The one host sync: the number of kept boxes decides the shape of the result.
Tensor nms_one(
    const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold,
    ScalarType dtype) {
  const DeviceScope scope(boxes);
  const int64_t size = boxes.size(0);
  const Tensor b = boxes_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(idxs, ScalarType::Long);
  Tensor keep = new_tensor(b, {size}, ScalarType::Long);
  if (size == 0) return keep;
  const Tensor count = new_tensor(b, {1}, ScalarType::Long);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    suppress(
        scope, b, candidates<T>(b, s, ids), 1, iou_threshold, size, false, keep.mutable_data_ptr<int64_t>(),
        count.mutable_data_ptr<int64_t>());
  });
  return torch::stable::narrow(keep, 0, 0, scope.wait_for(count.const_data_ptr<int64_t>()));
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  const ScalarType dtype = check_nms(boxes, scores, iou_threshold);
  return nms_one(boxes, scores, std::nullopt, iou_threshold, dtype);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  const ScalarType dtype = check_batched_nms(boxes, scores, idxs, iou_threshold);
  return nms_one(boxes, scores, idxs, iou_threshold, dtype);
}

std::tuple<Tensor, Tensor> nms_padded(
    const Tensor& boxes, const Tensor& scores, double iou_threshold, const std::optional<Tensor>& class_ids,
    std::optional<double> score_threshold, std::optional<int64_t> max_output) {
  const ScalarType dtype = check_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output);
  const DeviceScope scope(boxes);
  const int64_t num_images = boxes.size(0), size = boxes.size(1), most = max_output.value_or(size);
  const Tensor b = boxes_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(class_ids, ScalarType::Long);
  const Tensor keep = new_tensor(b, {num_images, most}, ScalarType::Long);
  const Tensor counts = new_tensor(b, {num_images}, ScalarType::Long);
  scope.fill_bytes(keep.mutable_data_ptr(), -1, num_images * most * static_cast<int64_t>(sizeof(int64_t)));
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    Candidates<T> in = candidates<T>(b, s, ids);
    in.filtered = score_threshold.has_value();
    in.least = static_cast<T>(score_threshold.value_or(0));
    suppress(
        scope, b, in, num_images, iou_threshold, most, false, keep.mutable_data_ptr<int64_t>(),
        counts.mutable_data_ptr<int64_t>());
  });
  return {keep, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace tinyssd
