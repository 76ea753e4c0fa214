// assign_threshold on the CPU. The tiles of anchors are matched with all boxes, which leaves each box its largest IoU
// and the tiles that have it; then the boxes that keep anchors look through those tiles. O(A + G) memory a thread.
#include "assigners.h"

#include <algorithm>
#include <memory>
#include <mutex>

namespace tinyssd {
namespace {

template <class T>
struct Rule {
  T high, low;
  bool allow_low_quality, match_every_box;

  bool asks_boxes() const { return allow_low_quality || match_every_box; }
};

struct ByThresholds {
  template <class Bits>
  TINYSSD_INLINE static void run(
      const Bits* best,      // [size]
      const Bits* best_box,  // [size]
      Bits high, Bits low, int64_t size,
      int64_t* assigned) {  // [size]
    for (int64_t i = 0; i < size; ++i) {
      const Bits below = best[i] >= low ? static_cast<Bits>(kIgnored) : static_cast<Bits>(kBackground);
      assigned[i] = best[i] >= high ? best_box[i] : below;
    }
  }
};

// One tile by the thresholds alone; best_box [A], where it is wanted, gets every anchor's best box.
template <class T>
void match_tile(
    const AnchorArrays<T>& anchors, const ImageGt<T>& gts, const Rule<T>& rule, int64_t tile, TopTiles<T>* tops,
    IouBits<T>* best_box, int64_t* assigned) {
  constexpr int64_t kTile = AnchorArrays<T>::kTile;
  IouBits<T> best[kTile], box[kTile];
  const int64_t start = tile * kTile, size = smaller(kTile, anchors.size() - start);
  run_simd<BestBoxes>(
      anchors.arrays() + start, anchors.bounds(tile), gts.boxes.data(), static_cast<int64_t>(gts.boxes.size()), best,
      box, tops, tile);
  run_simd<ByThresholds>(
      static_cast<const IouBits<T>*>(best), static_cast<const IouBits<T>*>(box), iou_bits(rule.high),
      iou_bits(rule.low), size, assigned + start);
  if (best_box != nullptr) std::copy(box, box + size, best_box + start);
}

template <class T>
void merge(const std::vector<TopTiles<T>>& part, std::vector<TopTiles<T>>& all) {
  for (size_t g = 0; g < all.size(); ++g) {
    if (part[g].iou > all[g].iou) {
      all[g] = part[g];
    } else if (part[g].iou == all[g].iou && part[g].iou > 0) {
      all[g].first = smaller(all[g].first, part[g].first);
      all[g].last = larger(all[g].last, part[g].last);
    }
  }
}

// Calls f(anchor) for each that has the box's largest IoU, from the lowest on, until f returns false.
template <class T, class F>
void for_each_top(const AnchorArrays<T>& anchors, const GtBox<T>& gt, const TopTiles<T>& top, const F& f) {
  constexpr int64_t kTile = AnchorArrays<T>::kTile;
  IouBits<T> values[kTile];
  for (int64_t tile = top.first; tile <= top.last; ++tile) {
    if (top.iou > 0 && misses(gt.box, anchors.bounds(tile))) continue;
    const int64_t start = tile * kTile, size = smaller(kTile, anchors.size() - start);
    run_simd<TileIous>(anchors.arrays() + start, gt.box, gt.area, static_cast<IouBits<T>*>(values));
    for (int64_t i = 0; i < size; ++i) {
      if (values[i] == top.iou && !f(start + i)) return;
    }
  }
}

template <class T>
void keep_anchors(
    const AnchorArrays<T>& anchors, const ImageGt<T>& gts, const Rule<T>& rule, const std::vector<TopTiles<T>>& tops,
    const IouBits<T>* best_box, int64_t* assigned) {
  Pace pace;
  const auto pass = [&](const TopTiles<T>& top) { pace.add(AnchorArrays<T>::kTile * (top.last - top.first + 1)); };
  if (rule.allow_low_quality) {
    // A box that overlaps nothing ties with every anchor.
    const bool all = std::any_of(tops.begin(), tops.end(), [](const TopTiles<T>& top) { return top.iou == 0; });
    if (all) std::copy(best_box, best_box + anchors.size(), assigned);
    for (size_t g = 0; g < tops.size() && !all; ++g) {
      pass(tops[g]);
      for_each_top(anchors, gts.boxes[g], tops[g], [&](int64_t anchor) {
        assigned[anchor] = best_box[anchor];
        return true;
      });
    }
  }
  for (size_t g = 0; g < tops.size() && rule.match_every_box; ++g) {
    pass(tops[g]);
    for_each_top(anchors, gts.boxes[g], tops[g], [&](int64_t anchor) {
      assigned[anchor] = gts.boxes[g].index;
      return false;
    });
  }
}

template <class T>
void assign_image(const AnchorArrays<T>& anchors, const ImageGt<T>& gts, const Rule<T>& rule, int64_t* assigned) {
  const auto num_gt = static_cast<int64_t>(gts.boxes.size());
  const int64_t cost = AnchorArrays<T>::kTile * (num_gt + 1);
  if (num_gt == 0) {
    std::fill(assigned, assigned + anchors.size(), kBackground);
  } else {
    std::vector<TopTiles<T>> tops(num_gt);
    const std::unique_ptr<IouBits<T>[]> best_box(rule.allow_low_quality ? new IouBits<T>[anchors.size()] : nullptr);
    std::mutex merging;
    parallel(anchors.num_tiles(), cost, [&](int64_t begin, int64_t end) {
      std::vector<TopTiles<T>> part(rule.asks_boxes() ? num_gt : 0);
      for (int64_t tile = begin; tile < end; ++tile) {
        match_tile(anchors, gts, rule, tile, part.empty() ? nullptr : part.data(), best_box.get(), assigned);
      }
      const std::lock_guard<std::mutex> lock(merging);
      if (!part.empty()) merge(part, tops);
    });
    if (rule.asks_boxes()) keep_anchors(anchors, gts, rule, tops, best_box.get(), assigned);
  }
  if (gts.ignored.empty()) return;
  parallel(anchors.num_tiles(), cost, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) take_ignored(anchors, gts, tile, assigned);
  });
}

Tensor assign_threshold(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid,
    const std::optional<Tensor>& gt_ignored, double high_threshold, double low_threshold, bool allow_low_quality,
    bool match_every_box) {
  const ScalarType dtype =
      check_assign_threshold(anchors, gt_boxes, gt_valid, gt_ignored, high_threshold, low_threshold);
  const int64_t num_images = gt_boxes.dim() == 2 ? 1 : gt_boxes.size(0), num_anchors = anchors.size(0);
  const Tensor a = contiguous_as(anchors, dtype), gt = contiguous_as(gt_boxes, dtype);
  const std::optional<Tensor> valid = contiguous_as(gt_valid, ScalarType::Bool);
  const std::optional<Tensor> ignored = contiguous_as(gt_ignored, ScalarType::Bool);
  const Tensor out = new_assignment(a, gt_boxes, num_anchors);
  if (out.numel() == 0) return out;
  int64_t* assigned = out.mutable_data_ptr<int64_t>();
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const AnchorArrays<T> arrays(a.const_data_ptr<T>(), num_anchors);
    const GtView<T> gts = gt_view<T>(gt, valid, ignored);
    const Rule<T> rule = {
        static_cast<T>(high_threshold), static_cast<T>(low_threshold), allow_low_quality, match_every_box};
    for_each_image(num_images, num_anchors * (gts.count + 1), [&](int64_t image) {
      assign_image(arrays, ImageGt<T>(gts, image), rule, assigned + image * num_anchors);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assign_threshold", TORCH_BOX(&assign_threshold)); }

}  // namespace tinyssd
