// detect on CUDA: decode (decode.cuh), suppress (suppress.cuh), then rows: a thread owns a row of the output. A
// candidate is an (anchor, object class); its index orders equal scores by anchor, then class.
#include "decode.cuh"

namespace tinyssd {
namespace {

template <class T>
__global__ void __launch_bounds__(kDecodeThreads) detect_rows_kernel(
    const T* __restrict__ probs,  // [B, C, A]
    const Decoded<T> decoded, int64_t num_images, int64_t num_classes, int64_t num_anchors, int64_t most,
    const int64_t* __restrict__ keep,  // [B, K], padded with -1
    Row<T>* __restrict__ rows) {       // [B, K]
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= num_images * most) return;
  const int64_t image = i / most, candidate = keep[i];
  if (candidate < 0) {
    rows[i] = {T(-1), T(0), {0, 0, 0, 0}};
    return;
  }
  const bool best_only = decoded.classes != nullptr;
  const int64_t anchor = best_only ? candidate : candidate / (num_classes - 1);
  const int64_t class_id =
      best_only ? decoded.classes[image * num_anchors + anchor] : candidate % (num_classes - 1) + 1;
  const T score = probs[(image * num_classes + class_id) * num_anchors + anchor];
  rows[i] = {static_cast<T>(class_id), score, load_box(decoded.boxes + image * num_anchors + anchor)};
}

std::tuple<Tensor, Tensor> detect(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double score_threshold, int64_t max_detections, bool class_agnostic) {
  const ScalarType dtype =
      check_detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections);
  const DeviceScope scope(cls_probs);
  const int64_t num_images = cls_probs.size(0), num_classes = cls_probs.size(1), num_anchors = cls_probs.size(2);
  const Tensor p = contiguous_as(cls_probs, dtype), d = boxes_as(offset_preds, dtype), a = boxes_as(anchors, dtype);
  const Tensor out = new_tensor(p, {num_images, max_detections, 6}, dtype);
  const Tensor counts = new_tensor(p, {num_images}, ScalarType::Long);
  if (num_images == 0) return {out, counts};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool best_only = class_agnostic && num_classes > 1;
    const int64_t total = num_images * num_anchors, share = best_only ? 1 : num_classes - 1;
    Scratch scratch;
    const auto boxes = scratch.add<Box<T>>(total);
    const auto keys = scratch.add<RankKey<T>>(total * share);
    const auto classes = scratch.add<int>(best_only ? total : 0);
    const auto keep = scratch.add<int64_t>(num_images * max_detections);
    scratch.allocate(p);
    const Decoded<T> decoded = {
        scratch.get(boxes), scratch.get(keys), best_only ? scratch.get(classes) : nullptr, nullptr};
    const auto least = static_cast<T>(score_threshold);
    const int64_t blocks = ceil_div(total, kDecodeThreads);
    if (total > 0 && best_only) {
      scope.launch(
          decode_best_kernel<T>, blocks, kDecodeThreads, 0, p.const_data_ptr<T>(), box_data<T>(d), box_data<T>(a),
          num_images, num_classes, num_anchors, 1, true, least, decoded);
    } else if (total > 0) {
      scope.launch(
          decode_all_kernel<T>, blocks, kDecodeThreads, 0, p.const_data_ptr<T>(), box_data<T>(d), box_data<T>(a),
          num_images, num_classes, num_anchors, least, decoded);
    }
    const Candidates<T> in = {decoded.boxes, num_anchors * share, share, decoded.keys};
    suppress(
        scope, p, in, num_images, nms_threshold, max_detections, scratch.get(keep), counts.mutable_data_ptr<int64_t>());
    if (max_detections == 0) return;
    scope.launch(
        detect_rows_kernel<T>, ceil_div(num_images * max_detections, kDecodeThreads), kDecodeThreads, 0,
        p.const_data_ptr<T>(), decoded, num_images, num_classes, num_anchors, max_detections, scratch.get(keep),
        reinterpret_cast<Row<T>*>(out.mutable_data_ptr<T>()));
  });
  return {out, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("detect", TORCH_BOX(&detect)); }

}  // namespace tinyssd
