// soft_nms on the CPU: threads over images, or over the classes of one image. Classes do not meet, so each is a list of
// its own, and the lists are merged by the best head.
#include "soft_nms_list.h"
#include "suppress.h"

#include <functional>
#include <queue>

namespace tinyssd {
namespace {

constexpr int64_t kVisitsOfOne = 100;  // what a candidate costs that is kept, in visits of a nanosecond

// What the lists of one image keep, each from where its members begin.
template <class T>
struct Kept {
  std::vector<uint32_t> boxes;
  std::vector<T> scores;
  std::vector<int64_t> begins, ends;  // of the lists
};

// Merges lists by the best head, best first; returns how many.
template <class T>
int64_t merge(
    const Kept<T>& lists, int64_t most,
    int64_t* keep,   // [K]
    T* kept_scores)  // [K]
{
  using Head = std::tuple<RankKey<T>, uint32_t, size_t>;  // key, box, list
  std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
  std::vector<int64_t> next = lists.begins;
  const auto add_head = [&](size_t list) {
    const int64_t at = next[list];
    if (at < lists.ends[list]) heads.emplace(rank_key(lists.scores[at]), lists.boxes[at], list);
  };
  for (size_t list = 0; list < lists.ends.size(); ++list) add_head(list);
  int64_t kept = 0;
  for (; kept < most && !heads.empty(); ++kept) {
    const size_t list = std::get<2>(heads.top());
    heads.pop();
    keep[kept] = lists.boxes[next[list]];
    kept_scores[kept] = lists.scores[next[list]++];
    add_head(list);
  }
  return kept;
}

// Keeps up to `most` boxes of one image, best first; returns how many.
template <class T>
int64_t soft_nms_image(
    const Box<T>* boxes,     // [N]
    const T* scores,         // [N]
    const int64_t* classes,  // [N] or nullptr
    int64_t size, const SoftRule<T>& rule, int64_t most,
    int64_t* keep,   // [K]
    T* kept_scores)  // [K]
{
  std::vector<uint32_t> members;  // of the lists, one list after the other
  members.reserve(size);
  for (int64_t i = 0; i < size; ++i) {
    if (rule.stays(scores[i])) members.push_back(static_cast<uint32_t>(i));
  }
  if (members.empty()) return 0;
  const auto num_members = static_cast<int64_t>(members.size());
  Kept<T> lists = {std::vector<uint32_t>(num_members), std::vector<T>(num_members), {0}, {}};
  if (classes != nullptr) {
    ByClass groups = group_by_class(members.size(), [&](size_t m) { return classes[members[m]]; });
    for (uint32_t& m : groups.order) m = members[m];
    members.swap(groups.order);
    lists.begins.swap(groups.starts);
  }
  lists.ends.assign(lists.begins.begin() + 1, lists.begins.end());
  lists.ends.push_back(num_members);
  const auto num_lists = static_cast<int64_t>(lists.ends.size());
  const int64_t average = num_members / num_lists;
  parallel(num_lists, average * (average + kVisitsOfOne), [&](int64_t first, int64_t last) {
    for (int64_t list = first; list < last; ++list) {
      const int64_t begin = lists.begins[list], end = lists.ends[list];
      std::vector<SoftBox<T>> left;
      left.reserve(end - begin);
      for (int64_t m = begin; m < end; ++m) {
        left.push_back({boxes[members[m]], scores[members[m]], static_cast<uint32_t>(m - begin)});
      }
      const int64_t kept =
          soft_nms_list(std::move(left), rule, most, lists.boxes.data() + begin, lists.scores.data() + begin);
      lists.ends[list] = begin + kept;
      for (int64_t m = begin; m < begin + kept; ++m) lists.boxes[m] = members[begin + lists.boxes[m]];
    }
  });
  return merge(lists, most, keep, kept_scores);
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
    const SoftRule<T> rule = {{gaussian, static_cast<T>(iou_threshold), static_cast<T>(sigma)}, least};
    T* score_data = kept_scores.mutable_data_ptr<T>();
    parallel(num_images, size * (smaller(size, most) + kVisitsOfOne), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        count_data[i] = soft_nms_image<T>(
            box_data<T>(b) + i * size, s.const_data_ptr<T>() + i * size,
            ids ? ids->const_data_ptr<int64_t>() + i * size : nullptr, size, rule, most, keep_data + i * most,
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
