// nms, batched_nms, nms_padded on the CPU: threads over images, or over classes, or within one list. See suppress.h for ranks and ties.
#include "../checks.h"
#include "suppress.h"

#include <algorithm>
#include <cstring>

namespace tinyssd {
namespace {

// The kept indices of one image, best first.
template <class T>
std::vector<int64_t> nms_image(
    const T* boxes,          // [N, 4]
    const T* scores,         // [N]
    const int64_t* classes,  // [N] or nullptr
    int64_t size, T iou_threshold, std::optional<T> score_threshold, int64_t most) {
  Ranked<T> candidates(size);
  if (score_threshold) {
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) {
      if (scores[i] >= *score_threshold) candidates[count++] = {rank_key(scores[i]), static_cast<uint32_t>(i)};
    }
    candidates.resize(count);
  } else {
    parallel(size, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) candidates[i] = {rank_key(scores[i]), static_cast<uint32_t>(i)};
    });
  }
  const auto box_of = [&](int64_t i) {
    Box<T> box;
    memcpy(&box, boxes + 4 * i, sizeof(box));
    return box;
  };
  const std::vector<uint8_t> keep =
      classes == nullptr ? rank_and_suppress(candidates, iou_threshold, box_of)
                         : rank_and_suppress(candidates, iou_threshold, box_of, [&](int64_t i) { return classes[i]; });
  std::vector<int64_t> kept;
  for (size_t rank = 0; rank < keep.size() && static_cast<int64_t>(kept.size()) < most; ++rank) {
    if (keep[rank] != 0) kept.push_back(candidates[rank].index);
  }
  return kept;
}

Tensor nms_one(
    const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold,
    ScalarType dtype) {
  const int64_t size = boxes.size(0);
  const Tensor b = contiguous_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(idxs, ScalarType::Long);
  return with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<int64_t> kept = nms_image<T>(
        b.const_data_ptr<T>(), s.const_data_ptr<T>(), ids ? ids->const_data_ptr<int64_t>() : nullptr, size,
        static_cast<T>(iou_threshold), std::nullopt, size);
    const Tensor out = new_tensor(b, {static_cast<int64_t>(kept.size())}, ScalarType::Long);
    if (!kept.empty()) memcpy(out.mutable_data_ptr<int64_t>(), kept.data(), kept.size() * sizeof(int64_t));
    return out;
  });
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
  const int64_t num_images = boxes.size(0), size = boxes.size(1), most = max_output.value_or(size);
  const Tensor b = contiguous_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(class_ids, ScalarType::Long);
  const Tensor keep = new_tensor(b, {num_images, most}, ScalarType::Long);
  const Tensor counts = new_tensor(b, {num_images}, ScalarType::Long);
  int64_t* keep_data = keep.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::optional<T> least = score_threshold ? std::optional(static_cast<T>(*score_threshold)) : std::nullopt;
    parallel(num_images, 100 * size, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::vector<int64_t> kept = nms_image<T>(
            b.const_data_ptr<T>() + i * size * 4, s.const_data_ptr<T>() + i * size,
            ids ? ids->const_data_ptr<int64_t>() + i * size : nullptr, size, static_cast<T>(iou_threshold), least,
            most);
        count_data[i] = static_cast<int64_t>(kept.size());
        std::fill(std::copy(kept.begin(), kept.end(), keep_data + i * most), keep_data + (i + 1) * most, -1);
      }
    });
  });
  return {keep, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace tinyssd
