// assign_simota on the CPU. For each image: which points are candidates; then for each box how many points it gets, and
// which: those inside it and near its centre first, and only where they are too few a look at all candidates. Then the
// boxes, in their order, compete for the points. Threads share the images, or the boxes of an image.
#include "../simota.h"
#include "assigners.h"

#include <algorithm>
#include <memory>

namespace tinyssd {
namespace {

// For each point of a tile whether it is inside a box (1), near its centre (2) or both (3).
struct Places {
  template <class T>
  TINYSSD_INLINE static void run(const T* x, const T* y, const T* reach, Box<T> box, IouBits<T>* places /* [kTile] */) {
    for (int64_t i = 0; i < PointTiles<T>::kTile; ++i) {
      const bool inside = (x[i] > box.x1) & (y[i] > box.y1) & (x[i] < box.x2) & (y[i] < box.y2);
      const bool near = near_center(box, x[i], y[i], reach[i]);
      places[i] = (inside ? 1 : 0) + (near ? 2 : 0);
    }
  }
};

struct Costs {
  template <class T>
  TINYSSD_INLINE static void run(const T* absent, const T* scores, const T* ious, T* costs /* [kTile] */) {
    for (int64_t i = 0; i < PointTiles<T>::kTile; ++i) costs[i] = simota_cost(absent[i], scores[i], ious[i]);
  }
};

// -log(1 - score) of the classes of a point, in place.
struct AbsentCosts {
  template <class T>
  TINYSSD_INLINE static void run(const T* scores, int64_t size, T* costs) {
    for (int64_t i = 0; i < size; ++i) costs[i] = exact_log(T(1) - scores[i]);
  }
};

template <class T>
struct Call {
  PointTiles<T> points;
  std::vector<T> reach;       // [A], padded
  std::vector<T> tile_reach;  // the largest of each tile
  PredictionView<T> predictions;
  const int64_t* labels;  // [B, G]
  int64_t topk;
};

template <class T>
struct Image {
  const Call<T>& call;
  int64_t index;
  AnchorArrays<T> predicted;
  std::vector<T> absent;  // [A], padded; NaN: no candidate

  bool is_candidate(int64_t anchor) const { return absent[anchor] == absent[anchor]; }
};

template <class T>
struct Choice {
  int64_t anchor;
  bool outside;
  T cost;
};

template <class T>
bool may_touch(const Call<T>& call, int64_t tile, const Box<T>& box) {
  if (!call.points.misses(tile, box)) return true;
  const T reach = call.tile_reach[tile], cx = center_x(box), cy = center_y(box);
  return !call.points.misses(tile, {cx - reach, cy - reach, cx + reach, cy + reach});
}

template <class T>
void places_of(const Call<T>& call, int64_t tile, const Box<T>& box, IouBits<T>* places) {
  run_simd<Places>(
      call.points.x(tile), call.points.y(tile), call.reach.data() + tile * PointTiles<T>::kTile, box, places);
}

// The sum of -log(1 - score) over the classes for each candidate, in the order of the classes; NaN elsewhere.
template <class T>
std::vector<T> absent_costs(const Call<T>& call, int64_t image, const std::vector<GtBox<T>>& boxes) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  const int64_t num_anchors = call.predictions.num_anchors, num_classes = call.predictions.num_classes;
  std::vector<T> absent(call.points.num_tiles() * kTile, std::numeric_limits<T>::quiet_NaN());
  parallel(
      call.points.num_tiles(), kTile * (num_classes + static_cast<int64_t>(boxes.size()) / 8),
      [&](int64_t begin, int64_t end) {
        std::vector<T> logs(num_classes);
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t start = tile * kTile, size = smaller(kTile, num_anchors - start);
          IouBits<T> touched[kTile] = {0}, places[kTile];
          int64_t missing = size;
          for (size_t g = 0; g < boxes.size() && missing > 0; ++g) {
            if (!may_touch(call, tile, boxes[g].box)) continue;
            places_of(call, tile, boxes[g].box, static_cast<IouBits<T>*>(places));
            missing = 0;
            for (int64_t i = 0; i < size; ++i) {
              touched[i] |= places[i];
              missing += touched[i] == 0 ? 1 : 0;
            }
          }
          for (int64_t i = 0; i < size; ++i) {
            if (touched[i] == 0) continue;
            run_simd<AbsentCosts>(call.predictions.scores_of(image, start + i), num_classes, logs.data());
            T sum = 0;
            for (int64_t c = 0; c < num_classes; ++c) sum = sum - logs[c];
            absent[start + i] = sum;
          }
        }
      });
  return absent;
}

template <class T>
int count_points(const Image<T>& image, const GtBox<T>& gt) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  IouBits<T> ious[kTile];
  FirstK<T> largest(image.call.topk);
  for (int64_t tile = 0; tile < image.predicted.num_tiles(); ++tile) {
    if (misses(gt.box, image.predicted.bounds(tile))) continue;
    const int64_t start = tile * kTile, size = smaller(kTile, image.predicted.size() - start);
    run_simd<TileIous>(image.predicted.arrays() + start, gt.box, gt.area, static_cast<IouBits<T>*>(ious));
    for (int64_t i = 0; i < size; ++i) {
      if (ious[i] <= 0 || !image.is_candidate(start + i)) continue;
      T value;
      memcpy(&value, ious + i, sizeof(value));
      largest.add({-value, static_cast<int>(start + i)});
    }
  }
  return dynamic_k<T>(
      static_cast<int>(largest.size()), static_cast<int>(image.call.topk), [&](int i) { return -largest[i].value; });
}

// The candidates of one tier in a tile join the first k.
template <class T>
void rank_tile(const Image<T>& image, int64_t tile, const GtBox<T>& gt, int64_t label, bool outside, FirstK<T>& first) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  const Call<T>& call = image.call;
  const int64_t start = tile * kTile, size = smaller(kTile, image.predicted.size() - start);
  IouBits<T> places[kTile];
  places_of(call, tile, gt.box, static_cast<IouBits<T>*>(places));
  T absent[kTile], scores[kTile], ious[kTile], costs[kTile];
  int64_t anchors[kTile], count = 0;
  for (int64_t i = 0; i < size; ++i) {
    if ((places[i] == 3) == outside || !image.is_candidate(start + i)) continue;
    anchors[count] = start + i;
    absent[count] = image.absent[start + i];
    scores[count] = call.predictions.scores_of(image.index, start + i)[label];
    ious[count++] = image.predicted.arrays().iou_with(start + i, gt.box, gt.area);
  }
  if (count == 0) return;
  for (int64_t i = count; i < kTile; ++i) absent[i] = scores[i] = ious[i] = 0;
  run_simd<Costs>(
      static_cast<const T*>(absent), static_cast<const T*>(scores), static_cast<const T*>(ious),
      static_cast<T*>(costs));
  for (int64_t i = 0; i < count; ++i) first.add({costs[i], static_cast<int>(anchors[i])});
}

// The points that a box takes; returns how many there are.
template <class T>
int64_t choose(const Image<T>& image, const GtBox<T>& gt, int64_t label, Choice<T>* choices /* [topk] */) {
  const int64_t wanted = count_points(image, gt);
  int64_t count = 0;
  for (const bool outside : {false, true}) {
    if (count == wanted) break;
    FirstK<T> first(wanted - count);
    for (int64_t tile = 0; tile < image.call.points.num_tiles(); ++tile) {
      if (outside || !image.call.points.misses(tile, gt.box)) rank_tile(image, tile, gt, label, outside, first);
    }
    for (int64_t i = 0; i < first.size(); ++i) choices[count++] = {first[i].anchor, outside, first[i].value};
  }
  return count;
}

template <class T>
void assign_image(
    const Call<T>& call, const GtView<T>& view, int64_t index, int64_t* assigned /* [A] */, T* ious /* [A] */) {
  const int64_t num_anchors = call.predictions.num_anchors;
  std::fill(assigned, assigned + num_anchors, kBackground);
  std::fill(ious, ious + num_anchors, T(0));
  const ImageGt<T> gts(view, index);
  if (gts.boxes.empty() && gts.ignored.empty()) return;
  const int64_t* labels = call.labels + index * view.count;
  std::vector<GtBox<T>> boxes;
  for (const GtBox<T>& gt : gts.boxes) {
    if (call.predictions.knows(labels[gt.index])) boxes.push_back(gt);
  }
  const Image<T> image = {
      call, index,
      AnchorArrays<T>(reinterpret_cast<const T*>(call.predictions.boxes + index * num_anchors), num_anchors),
      absent_costs(call, index, boxes)};
  const auto num_boxes = static_cast<int64_t>(boxes.size());
  const std::unique_ptr<Choice<T>[]> choices(new Choice<T>[num_boxes * call.topk]);
  std::vector<int64_t> counts(num_boxes);
  parallel(num_boxes, call.points.num_tiles() * 20, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      counts[g] = choose(image, boxes[g], labels[boxes[g].index], choices.get() + g * call.topk);
    }
  });
  std::vector<Choice<T>> best(num_anchors, Choice<T>{-1, true, T(0)});  // whose anchor is the place of the box
  for (int64_t g = 0; g < num_boxes; ++g) {
    for (int64_t i = 0; i < counts[g]; ++i) {
      const Choice<T>& choice = choices[g * call.topk + i];
      Choice<T>& held = best[choice.anchor];
      const bool better = choice.outside != held.outside ? held.outside : choice.cost < held.cost;
      if (held.anchor < 0 || better) held = {g, choice.outside, choice.cost};
    }
  }
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (best[a].anchor >= 0) assigned[a] = boxes[best[a].anchor].index;
  }
  take_ignored(image.predicted, gts, assigned);
  for (int64_t a = 0; a < num_anchors; ++a) {
    if (assigned[a] < 0) continue;
    const GtBox<T>& gt = boxes[best[a].anchor];
    ious[a] = image.predicted.arrays().iou_with(a, gt.box, gt.area);
  }
}

template <class T>
Call<T> make_call(
    const T* points, const T* strides, T radius, const PredictionView<T>& predictions, const int64_t* labels,
    int64_t topk) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  const int64_t size = predictions.num_anchors;
  Call<T> call = {PointTiles<T>(points, size), {}, {}, predictions, labels, topk};
  call.reach.assign(call.points.num_tiles() * kTile, T(0));
  call.tile_reach.assign(call.points.num_tiles(), T(0));
  for (int64_t i = 0; i < size; ++i) {
    call.reach[i] = radius * strides[i];
    call.tile_reach[i / kTile] = larger(call.reach[i], call.tile_reach[i / kTile]);
  }
  return call;
}

std::tuple<Tensor, Tensor> assign_simota(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& strides, const Tensor& gt_labels,
    const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored,
    double radius, int64_t topk) {
  const ScalarType dtype =
      check_assign_simota(scores, boxes, points, strides, gt_labels, gt_boxes, gt_valid, gt_ignored, radius, topk);
  const int64_t num_images = scores.size(0), num_anchors = scores.size(1);
  const Tensor s = contiguous_as(scores, dtype), b = contiguous_as(boxes, dtype), p = contiguous_as(points, dtype);
  const Tensor st = contiguous_as(strides, dtype), gt = contiguous_as(gt_boxes, dtype);
  const Tensor labels = contiguous_as(gt_labels, ScalarType::Long);
  const std::optional<Tensor> valid = contiguous_as(gt_valid, ScalarType::Bool);
  const std::optional<Tensor> ignored = contiguous_as(gt_ignored, ScalarType::Bool);
  const Tensor out = new_tensor(s, {num_images, num_anchors}, ScalarType::Long);
  const Tensor ious = new_tensor(s, {num_images, num_anchors}, dtype);
  if (out.numel() == 0) return {out, ious};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> view = gt_view<T>(gt, valid, ignored);
    const PredictionView<T> predictions = {s.const_data_ptr<T>(), box_data<T>(b), num_anchors, scores.size(2)};
    const Call<T> call = make_call<T>(
        p.const_data_ptr<T>(), st.const_data_ptr<T>(), static_cast<T>(radius), predictions,
        labels.const_data_ptr<int64_t>(), topk);
    int64_t* assigned = out.mutable_data_ptr<int64_t>();
    T* iou_data = ious.mutable_data_ptr<T>();
    for_each_image(num_images, num_anchors * (view.count + 1), [&](int64_t image) {
      assign_image(call, view, image, assigned + image * num_anchors, iou_data + image * num_anchors);
    });
  });
  return {out, ious};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assign_simota", TORCH_BOX(&assign_simota)); }

}  // namespace tinyssd
