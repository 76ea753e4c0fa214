// detect on the CPU: a thread owns images; decodes, filters by score, suppresses within classes (suppress.h), writes
// the best K rows. A candidate is an (anchor, object class); its index orders equal scores by anchor, then class.
#include "../checks.h"
#include "decode.h"
#include "suppress.h"

#include <algorithm>

namespace tinyssd {
namespace {

struct Settings {
  double nms_threshold, score_threshold;
  int64_t max_detections;
  bool class_agnostic;
};

// Returns how many of the rows are detections.
template <class T>
int64_t detect_image(
    const T* probs,         // [C, A]
    const Box<T>* offsets,  // [A]
    const Box<T>* anchors,  // [A]
    int64_t num_classes, int64_t num_anchors, const Settings& settings,
    Row<T>* rows) {  // [K]
  const auto least = static_cast<T>(settings.score_threshold), iou_threshold = static_cast<T>(settings.nms_threshold);
  const int64_t num_objects = num_classes - 1;
  std::vector<Box<T>> boxes(num_anchors);
  run_simd<DecodeBoxes>(anchors, offsets, num_anchors, boxes.data());
  Ranked<T> candidates;
  const auto anchor_of = [&](int64_t index) { return index / num_objects; };
  const auto class_of = [&](int64_t index) { return index % num_objects + 1; };
  const auto score_of = [&](int64_t index) { return probs[class_of(index) * num_anchors + anchor_of(index)]; };
  const auto box_of = [&](int64_t index) { return boxes[anchor_of(index)]; };
  const auto add = [&](int64_t anchor, int64_t class_id, T score) {
    if (!(score >= least)) return;
    candidates.push_back({rank_key(score), static_cast<uint32_t>(anchor * num_objects + class_id - 1)});
  };
  std::vector<uint8_t> keep;
  if (settings.class_agnostic && num_objects > 0) {
    std::vector<T> confidence(num_anchors);
    std::vector<int32_t> classes(num_anchors);
    run_simd<BestClass>(probs, num_classes, num_anchors, int64_t{1}, confidence.data(), classes.data());
    for (int64_t a = 0; a < num_anchors; ++a) add(a, classes[a], confidence[a]);
    keep = rank_and_suppress(candidates, iou_threshold, box_of);
  } else {
    for (int64_t a = 0; a < num_anchors; ++a) {
      for (int64_t c = 1; c < num_classes; ++c) add(a, c, probs[c * num_anchors + a]);
    }
    keep = rank_and_suppress(candidates, iou_threshold, box_of, class_of);
  }
  int64_t count = 0;
  for (size_t rank = 0; rank < keep.size() && count < settings.max_detections; ++rank) {
    const int64_t index = candidates[rank].index;
    if (keep[rank] != 0) rows[count++] = {static_cast<T>(class_of(index)), score_of(index), box_of(index)};
  }
  std::fill(rows + count, rows + settings.max_detections, Row<T>{-1, 0, {0, 0, 0, 0}});
  return count;
}

std::tuple<Tensor, Tensor> detect(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double score_threshold, int64_t max_detections, bool class_agnostic) {
  const ScalarType dtype =
      check_detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections);
  const int64_t num_images = cls_probs.size(0), num_classes = cls_probs.size(1), num_anchors = cls_probs.size(2);
  const Tensor p = contiguous_as(cls_probs, dtype), d = contiguous_as(offset_preds, dtype);
  const Tensor a = contiguous_as(anchors, dtype);
  const Tensor out = new_tensor(p, {num_images, max_detections, 6}, dtype);
  const Tensor counts = new_tensor(p, {num_images}, ScalarType::Long);
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  const Settings settings = {nms_threshold, score_threshold, max_detections, class_agnostic};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* probs = p.const_data_ptr<T>();
    const auto* offsets = box_data<T>(d);
    const auto* anchor_boxes = box_data<T>(a);
    auto* rows = reinterpret_cast<Row<T>*>(out.mutable_data_ptr<T>());
    parallel(num_images, num_anchors * (num_classes + 10), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        count_data[i] = detect_image(
            probs + i * num_classes * num_anchors, offsets + i * num_anchors, anchor_boxes, num_classes, num_anchors,
            settings, rows + i * max_detections);
      }
    });
  });
  return {out, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("detect", TORCH_BOX(&detect)); }

}  // namespace tinyssd
