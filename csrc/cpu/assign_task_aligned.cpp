// assign_task_aligned on the CPU. Each box looks through the tiles of points that it may contain and keeps its first k;
// then the boxes, in their order, compete for the points. Threads share the images, or the boxes of an image.
#include "assigners.h"

#include <algorithm>
#include <memory>

namespace tinyssd {
namespace {

// The IoUs of a box with the predictions of a tile of points, -1 where the point is not inside it.
struct InsideIous {
  template <class T>
  TINYSSD_INLINE static void run(
      const T* x, const T* y, BoxArrays<T> predicted, Box<T> box, T box_area, T* ious /* [kTile] */) {
    for (int64_t i = 0; i < PointTiles<T>::kTile; ++i) {
      const T value = predicted.iou_with(i, box, box_area);
      const bool inside = (x[i] > box.x1) & (y[i] > box.y1) & (x[i] < box.x2) & (y[i] < box.y2);
      ious[i] = inside ? value : T(-1);
    }
  }
};

template <class T>
struct Call {
  PointTiles<T> points;
  PredictionView<T> predictions;
  const int64_t* labels;  // [B, G]
  int64_t topk;
  Alignment alignment;
};

template <class T>
struct Choice {
  int64_t anchor;
  T iou, alignment;
};

// The first k points of a box; returns how many there are.
template <class T>
int64_t choose(
    const Call<T>& call, const AnchorArrays<T>& predicted, int64_t image, const GtBox<T>& gt, int64_t label,
    Choice<T>* choices /* [topk] */) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  if (!call.predictions.knows(label)) return 0;
  T ious[kTile];
  FirstK<T> first(call.topk);
  for (int64_t tile = 0; tile < call.points.num_tiles(); ++tile) {
    if (call.points.misses(tile, gt.box)) continue;
    const int64_t start = tile * kTile;
    run_simd<InsideIous>(
        call.points.x(tile), call.points.y(tile), predicted.arrays() + start, gt.box, gt.area, static_cast<T*>(ious));
    const int64_t size = smaller(kTile, predicted.size() - start);
    for (int64_t i = 0; i < size; ++i) {
      if (ious[i] < 0) continue;
      const T value = call.alignment(call.predictions.scores_of(image, start + i)[label], ious[i]);
      if (value > 0) first.add({-value, static_cast<int>(start + i)});
    }
  }
  for (int64_t i = 0; i < first.size(); ++i) {
    const int64_t anchor = first[i].anchor;
    choices[i] = {anchor, predicted.arrays().iou_with(anchor, gt.box, gt.area), -first[i].value};
  }
  return first.size();
}

// Every point's alignment becomes its target: a box's best point gets the box's largest IoU.
template <class T>
void scale_targets(
    const std::vector<T>& ious, int64_t num_gt, int64_t num_anchors, const int64_t* assigned, T* targets) {
  std::vector<T> largest_alignment(num_gt), largest_iou(num_gt);
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (assigned[a] < 0) continue;
    largest_alignment[assigned[a]] = larger(targets[a], largest_alignment[assigned[a]]);
    largest_iou[assigned[a]] = larger(ious[a], largest_iou[assigned[a]]);
  }
  for (int64_t a = 0; a < num_anchors; ++a) {
    targets[a] = assigned[a] < 0 ? T(0) : targets[a] * largest_iou[assigned[a]] / largest_alignment[assigned[a]];
  }
}

template <class T>
void assign_image(
    const Call<T>& call, const GtView<T>& view, int64_t image, int64_t* assigned /* [A] */, T* targets /* [A] */) {
  const int64_t num_anchors = call.predictions.num_anchors;
  std::fill(assigned, assigned + num_anchors, kBackground);
  std::fill(targets, targets + num_anchors, T(0));
  const ImageGt<T> gts(view, image);
  if (gts.boxes.empty() && gts.ignored.empty()) return;
  const AnchorArrays<T> predicted(
      reinterpret_cast<const T*>(call.predictions.boxes + image * num_anchors), num_anchors);
  const auto num_boxes = static_cast<int64_t>(gts.boxes.size());
  const std::unique_ptr<Choice<T>[]> choices(new Choice<T>[num_boxes * call.topk]);
  std::vector<int64_t> counts(num_boxes);
  parallel(num_boxes, call.points.num_tiles() * 8, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t label = call.labels[image * view.count + gts.boxes[g].index];
      counts[g] = choose(call, predicted, image, gts.boxes[g], label, choices.get() + g * call.topk);
    }
  });
  std::vector<T> ious(num_anchors, T(-1));
  for (int64_t g = 0; g < num_boxes; ++g) {
    for (int64_t i = 0; i < counts[g]; ++i) {
      const Choice<T>& choice = choices[g * call.topk + i];
      if (!(choice.iou > ious[choice.anchor])) continue;
      ious[choice.anchor] = choice.iou;
      targets[choice.anchor] = choice.alignment;
      assigned[choice.anchor] = gts.boxes[g].index;
    }
  }
  take_ignored(predicted, gts, assigned);
  scale_targets(ious, view.count, num_anchors, assigned, targets);
}

std::tuple<Tensor, Tensor> assign_task_aligned(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& gt_labels, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk, double alpha,
    double beta) {
  const ScalarType dtype =
      check_assign_task_aligned(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored, topk, alpha, beta);
  const int64_t num_images = scores.size(0), num_anchors = scores.size(1);
  const Tensor s = contiguous_as(scores, dtype), b = contiguous_as(boxes, dtype), p = contiguous_as(points, dtype);
  const Tensor labels = contiguous_as(gt_labels, ScalarType::Long), gt = contiguous_as(gt_boxes, dtype);
  const std::optional<Tensor> valid = contiguous_as(gt_valid, ScalarType::Bool);
  const std::optional<Tensor> ignored = contiguous_as(gt_ignored, ScalarType::Bool);
  const Tensor out = new_tensor(s, {num_images, num_anchors}, ScalarType::Long);
  const Tensor targets = new_tensor(s, {num_images, num_anchors}, dtype);
  if (out.numel() == 0) return {out, targets};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> view = gt_view<T>(gt, valid, ignored);
    const Call<T> call = {
        PointTiles<T>(p.const_data_ptr<T>(), num_anchors),
        {s.const_data_ptr<T>(), box_data<T>(b), num_anchors, scores.size(2)},
        labels.const_data_ptr<int64_t>(),
        topk,
        {static_cast<int>(2 * alpha), static_cast<int>(2 * beta)}};
    int64_t* assigned = out.mutable_data_ptr<int64_t>();
    T* target_data = targets.mutable_data_ptr<T>();
    for_each_image(num_images, num_anchors * (view.count + 1), [&](int64_t image) {
      assign_image(call, view, image, assigned + image * num_anchors, target_data + image * num_anchors);
    });
  });
  return {out, targets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assign_task_aligned", TORCH_BOX(&assign_task_aligned)); }

}  // namespace tinyssd
