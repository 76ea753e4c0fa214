// multibox_detection on the CPU: a thread owns images; decodes, picks classes, suppresses (suppress.h), writes rows.
#include "../checks.h"
#include "decode.h"
#include "suppress.h"

namespace tinyssd {
namespace {

template <class T>
void multibox_detection_image(
    const T* probs,         // [C, A]
    const Box<T>* offsets,  // [A]
    const Box<T>* anchors,  // [A]
    int64_t num_classes, int64_t num_anchors, T nms_threshold, T pos_threshold,
    Row<T>* rows) {  // [A]
  std::vector<Box<T>> boxes(num_anchors);
  std::vector<T> confidence(num_anchors);
  std::vector<int32_t> classes(num_anchors);
  run_simd<DecodeBoxes>(anchors, offsets, num_anchors, boxes.data());
  run_simd<BestClass>(probs, num_classes, num_anchors, int64_t{0}, confidence.data(), classes.data());
  Ranked<T> candidates;
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (classes[a] > 0) candidates.push_back({rank_key(confidence[a]), static_cast<uint32_t>(a)});
  }
  const std::vector<uint8_t> keep = rank_and_suppress(candidates, nms_threshold, [&](int64_t a) { return boxes[a]; });
  const auto write = [&](int64_t a, int32_t class_id) {
    *rows++ = detection_row(class_id, confidence[a], pos_threshold, boxes[a]);
  };
  constexpr int32_t kWritten = -1;
  for (size_t rank = 0; rank < keep.size(); ++rank) {
    if (keep[rank] == 0) continue;
    int32_t& class_id = classes[candidates[rank].index];
    write(candidates[rank].index, class_id);
    class_id = kWritten;
  }
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (classes[a] > 0) write(a, 0);
  }
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (classes[a] == 0) write(a, 0);
  }
}

Tensor multibox_detection(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double pos_threshold) {
  const ScalarType dtype = check_multibox_detection(cls_probs, offset_preds, anchors, nms_threshold, pos_threshold);
  const int64_t num_images = cls_probs.size(0), num_classes = cls_probs.size(1), num_anchors = cls_probs.size(2);
  const Tensor p = contiguous_as(cls_probs, dtype), d = contiguous_as(offset_preds, dtype);
  const Tensor a = contiguous_as(anchors, dtype);
  const Tensor out = new_tensor(p, {num_images, num_anchors, 6}, dtype);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* probs = p.const_data_ptr<T>();
    const auto* offsets = box_data<T>(d);
    const auto* anchor_boxes = box_data<T>(a);
    auto* rows = reinterpret_cast<Row<T>*>(out.mutable_data_ptr<T>());
    parallel(num_images, num_anchors * (num_classes + 50), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        multibox_detection_image(
            probs + i * num_classes * num_anchors, offsets + i * num_anchors, anchor_boxes, num_classes, num_anchors,
            static_cast<T>(nms_threshold), static_cast<T>(pos_threshold), rows + i * num_anchors);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("multibox_detection", TORCH_BOX(&multibox_detection)); }

}  // namespace tinyssd
