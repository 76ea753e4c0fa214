// soft_nms on the CPU: threads over images. The candidates of an image lie in the order of their indices; each pass lets
// the scores decay, drops those that fall below the least score, and finds the next one to keep.
#include "../soft_nms.h"
#include "../rank.h"
#include "parallel.h"

#include <algorithm>

namespace tinyssd {
namespace {

template <class T>
struct Candidate {
  Box<T> box;
  T area, score;
  int64_t class_id, index;
};

// Keeps up to `most` boxes of one image, best first; returns how many.
template <class T>
int64_t soft_nms_image(
    const Box<T>* boxes,     // [N]
    const T* scores,         // [N]
    const int64_t* classes,  // [N] or nullptr
    int64_t size, const Decay<T>& decay, std::optional<T> least, int64_t most,
    int64_t* keep,   // [K]
    T* kept_scores)  // [K]
{
  const auto stays = [&](T score) { return !least || score >= *least; };
  std::vector<Candidate<T>> left;
  size_t best = 0;
  const auto add = [&](size_t place, const Candidate<T>& candidate) {
    left[place] = candidate;
    // Only what ranks higher is better: equal scores go to the lowest index.
    if (place == 0 || rank_key(candidate.score) < rank_key(left[best].score)) best = place;
  };
  left.resize(size);
  size_t count = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (!stays(scores[i])) continue;
    add(count++, {boxes[i], area(boxes[i]), scores[i], classes == nullptr ? 0 : classes[i], i});
  }
  int64_t kept = 0;
  while (kept < most && count > 0) {
    const Candidate<T> chosen = left[best];
    keep[kept] = chosen.index;
    kept_scores[kept++] = chosen.score;
    const size_t before = count;
    count = best = 0;
    for (size_t i = 0; i < before; ++i) {
      Candidate<T> other = left[i];
      if (other.index == chosen.index) continue;
      if (other.class_id == chosen.class_id) {
        other.score = decay(other.score, iou(chosen.box, chosen.area, other.box, other.area));
      }
      if (stays(other.score)) add(count++, other);
    }
  }
  return kept;
}

std::tuple<Tensor, Tensor, Tensor> soft_nms(
    const Tensor& boxes, const Tensor& scores, bool gaussian, double iou_threshold, double sigma,
    const std::optional<Tensor>& class_ids, std::optional<double> score_threshold, std::optional<int64_t> max_output) {
  const ScalarType dtype = check_soft_nms(boxes, scores, iou_threshold, sigma, class_ids, score_threshold, max_output);
  const int64_t num_images = boxes.size(0), size = boxes.size(1), most = max_output.value_or(size);
  const Tensor b = contiguous_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(class_ids, ScalarType::Long);
  const Tensor keep = new_tensor(b, {num_images, most}, ScalarType::Long);
  const Tensor kept_scores = new_tensor(b, {num_images, most}, dtype);
  const Tensor counts = new_tensor(b, {num_images}, ScalarType::Long);
  int64_t* keep_data = keep.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::optional<T> least = score_threshold ? std::optional(static_cast<T>(*score_threshold)) : std::nullopt;
    const Decay<T> decay = {gaussian, static_cast<T>(iou_threshold), static_cast<T>(sigma)};
    T* score_data = kept_scores.mutable_data_ptr<T>();
    parallel(num_images, 2 * size * std::min(size, most), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        count_data[i] = soft_nms_image<T>(
            box_data<T>(b) + i * size, s.const_data_ptr<T>() + i * size,
            ids ? ids->const_data_ptr<int64_t>() + i * size : nullptr, size, decay, least, most, keep_data + i * most,
            score_data + i * most);
        std::fill(keep_data + i * most + count_data[i], keep_data + (i + 1) * most, -1);
        std::fill(score_data + i * most + count_data[i], score_data + (i + 1) * most, T(0));
      }
    });
  });
  return {keep, kept_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace tinyssd
