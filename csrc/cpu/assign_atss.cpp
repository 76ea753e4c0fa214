// assign_atss on the CPU. On each level a box goes first to the tile of anchors that may lie nearest, then to those that
// may still hold one of the nearest k. Then the boxes, in their order, compete for the anchors. Threads share the
// images, or the boxes of an image.
#include "assigners.h"

#include <algorithm>
#include <memory>

namespace tinyssd {
namespace {

// No distance between a point of the tile and (x, y) is smaller: each operation is monotonic in the point's coordinates.
template <class T>
TINYSSD_INLINE T least_distance(const Box<T>& bounds, T x, T y) {
  const T dx = larger(larger(bounds.x1 - x, x - bounds.x2), T(0)),
          dy = larger(larger(bounds.y1 - y, y - bounds.y2), T(0));
  return dx * dx + dy * dy;
}

// The squared distances of a tile of points, and the least of them, as bits: none is negative or NaN.
struct Distances {
  template <class T>
  TINYSSD_INLINE static void run(const T* xs, const T* ys, T x, T y, IouBits<T>* distances, IouBits<T>* least) {
    IouBits<T> smallest = std::numeric_limits<IouBits<T>>::max();
    for (int64_t i = 0; i < PointTiles<T>::kTile; ++i) {
      distances[i] = iou_bits(squared_distance(xs[i], ys[i], x, y));
      smallest = smaller(distances[i], smallest);
    }
    *least = smallest;
  }
};

template <class T>
struct Level {
  PointTiles<T> centers;
  int64_t start, size;
};

template <class T>
struct Call {
  const Box<T>* anchors;  // [A]
  std::vector<Level<T>> levels;
  int64_t topk;

  int64_t num_candidates() const { return topk * static_cast<int64_t>(levels.size()); }
};

template <class T>
struct Choice {
  int64_t anchor;
  T iou;
};

template <class T>
void nearest(const Level<T>& level, T x, T y, FirstK<T>& first) {
  constexpr int64_t kTile = PointTiles<T>::kTile;
  const auto scan = [&](int64_t tile) {
    IouBits<T> distances[kTile], least;
    run_simd<Distances>(
        level.centers.x(tile), level.centers.y(tile), x, y, static_cast<IouBits<T>*>(distances), &least);
    if (least > iou_bits(first.last().value)) return;
    const int64_t size = smaller(kTile, level.size - tile * kTile);
    for (int64_t i = 0; i < size; ++i) {
      if (distances[i] > iou_bits(first.last().value)) continue;
      T value;
      memcpy(&value, distances + i, sizeof(value));
      first.add({value, static_cast<int>(tile * kTile + i)});
    }
  };
  const int64_t num_tiles = level.centers.num_tiles();
  int64_t near = 0;
  T least = std::numeric_limits<T>::infinity();
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const T bound = least_distance(level.centers.bounds(tile), x, y);
    if (bound < least) {
      least = bound;
      near = tile;
    }
  }
  if (num_tiles > 0) scan(near);
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    if (tile != near && !(least_distance(level.centers.bounds(tile), x, y) > first.last().value)) scan(tile);
  }
}

// The anchors that a box takes part for; returns how many there are.
template <class T>
int64_t choose(const Call<T>& call, const GtBox<T>& gt, Choice<T>* choices /* [num_candidates] */) {
  FirstK<T> first(call.topk);
  int count = 0;
  for (const Level<T>& level : call.levels) {
    first.clear();
    nearest(level, center_x(gt.box), center_y(gt.box), first);
    for (int64_t i = 0; i < first.size(); ++i) {
      const int64_t anchor = level.start + first[i].anchor;
      const Box<T>& own = call.anchors[anchor];
      choices[count++] = {anchor, iou(own, area(own), gt.box, gt.area)};
    }
  }
  const Spread spread = Spread::of(count, [&](int i) { return static_cast<double>(choices[i].iou); });
  int64_t chosen = 0;
  for (int i = 0; i < count; ++i) {
    const Box<T>& own = call.anchors[choices[i].anchor];
    if (!spread.reached_by(choices[i].iou) || !contains(gt.box, center_x(own), center_y(own))) continue;
    choices[chosen++] = choices[i];
  }
  return chosen;
}

template <class T>
void assign_image(
    const Call<T>& call, const AnchorArrays<T>& anchors, const ImageGt<T>& gts, int64_t* assigned /* [A] */) {
  std::fill(assigned, assigned + anchors.size(), kBackground);
  const auto num_boxes = static_cast<int64_t>(gts.boxes.size());
  const std::unique_ptr<Choice<T>[]> choices(new Choice<T>[num_boxes * call.num_candidates()]);
  std::vector<int64_t> counts(num_boxes);
  parallel(num_boxes, anchors.num_tiles() * 8, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      counts[g] = choose(call, gts.boxes[g], choices.get() + g * call.num_candidates());
    }
  });
  std::vector<T> best(anchors.size(), T(-1));
  for (int64_t g = 0; g < num_boxes; ++g) {
    for (int64_t i = 0; i < counts[g]; ++i) {
      const Choice<T>& choice = choices[g * call.num_candidates() + i];
      if (!(choice.iou > best[choice.anchor])) continue;
      best[choice.anchor] = choice.iou;
      assigned[choice.anchor] = gts.boxes[g].index;
    }
  }
  take_ignored(anchors, gts, assigned);
}

template <class T>
Call<T> make_call(const Box<T>* anchors, const std::vector<int64_t>& level_sizes, int64_t topk) {
  Call<T> call = {anchors, {}, topk};
  int64_t start = 0;
  for (const int64_t size : level_sizes) {
    std::vector<T> centers(2 * size);
    for (int64_t i = 0; i < size; ++i) {
      centers[2 * i] = center_x(anchors[start + i]);
      centers[2 * i + 1] = center_y(anchors[start + i]);
    }
    call.levels.push_back({PointTiles<T>(centers.data(), size), start, size});
    start += size;
  }
  return call;
}

Tensor assign_atss(
    const Tensor& anchors, std::vector<int64_t> level_sizes, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk) {
  const ScalarType dtype = check_assign_atss(anchors, level_sizes, gt_boxes, gt_valid, gt_ignored, topk);
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
    const Call<T> call = make_call(box_data<T>(a), level_sizes, topk);
    for_each_image(num_images, num_anchors * (gts.count + 1), [&](int64_t image) {
      assign_image(call, arrays, ImageGt<T>(gts, image), assigned + image * num_anchors);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CPU, m) { m.impl("assign_atss", TORCH_BOX(&assign_atss)); }

}  // namespace tinyssd
