// What the assign_* ops share on the CPU: the valid boxes of an image, the anchors' best boxes tile by tile, and the
// anchors that ignored boxes take. IoUs are compared as the integers whose bits they share: none is negative or NaN.
#pragma once

#include "../assigners.h"
#include "assign.h"
#include "parallel.h"

#include <limits>
#include <type_traits>
#include <vector>

namespace tinyssd {

template <class T>
using IouBits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
TINYSSD_INLINE IouBits<T> iou_bits(T iou) {
  IouBits<T> bits;
  memcpy(&bits, &iou, sizeof(bits));
  return bits;
}

template <class T>
TINYSSD_INLINE bool misses(const Box<T>& box, const Box<T>& bounds) {
  return box.x2 <= bounds.x1 || box.x1 >= bounds.x2 || box.y2 <= bounds.y1 || box.y1 >= bounds.y2;
}

template <class T>
struct GtBox {
  Box<T> box;
  T area;
  int64_t index;  // in the image's list, padding included
};

// The valid boxes of one image, those that count and those that are to be ignored, each in the order of the list.
template <class T>
struct ImageGt {
  std::vector<GtBox<T>> boxes, ignored;

  ImageGt(const GtView<T>& gts, int64_t image) {
    for (int64_t g = 0; g < gts.count; ++g) {
      const int64_t i = image * gts.count + g;
      if (!gts.is_valid(i)) continue;
      (gts.is_ignored(i) ? ignored : boxes).push_back({gts.boxes[i], area(gts.boxes[i]), g});
    }
  }
};

// The largest IoU of a box so far, and the first and last tile of anchors that has it.
template <class T>
struct TopTiles {
  IouBits<T> iou = 0;
  int64_t first = 0, last = 0;
};

// A tile of anchors against boxes: the best box of each anchor, by its index; the first of equals. No box: index 0.
struct BestBoxes {
  template <class T>
  TINYSSD_INLINE static void run(
      BoxArrays<T> anchors, Box<T> bounds, const GtBox<T>* gts, int64_t num_gt,
      IouBits<T>* best,      // [kTile]
      IouBits<T>* best_box,  // [kTile]
      TopTiles<T>* tops,     // [num_gt], or nullptr
      int64_t tile) {
    constexpr int64_t kTile = AnchorArrays<T>::kTile;
    using Bits = IouBits<T>;
    const Bits first = num_gt > 0 ? static_cast<Bits>(gts[0].index) : 0;
    Bits values[kTile], boxes[kTile];
    for (int64_t i = 0; i < kTile; ++i) {
      values[i] = 0;
      boxes[i] = first;
    }
    for (int64_t g = 0; g < num_gt; ++g) {
      if (misses(gts[g].box, bounds)) continue;
      const auto index = static_cast<Bits>(gts[g].index);
      Bits largest = 0;
      for (int64_t i = 0; i < kTile; ++i) {
        const Bits value = iou_bits(anchors.iou_with(i, gts[g].box, gts[g].area));
        largest = larger(value, largest);
        const bool better = value > values[i];
        values[i] = better ? value : values[i];
        boxes[i] = better ? index : boxes[i];
      }
      if (tops == nullptr || largest < tops[g].iou || largest == 0) continue;
      if (largest > tops[g].iou) tops[g] = {largest, tile, tile};
      tops[g].last = tile;
    }
    for (int64_t i = 0; i < kTile; ++i) {
      best[i] = values[i];
      best_box[i] = boxes[i];
    }
  }
};

// The IoUs of a box with a tile of anchors.
struct TileIous {
  template <class T>
  TINYSSD_INLINE static void run(BoxArrays<T> anchors, Box<T> box, T box_area, IouBits<T>* values /* [kTile] */) {
    for (int64_t i = 0; i < AnchorArrays<T>::kTile; ++i) values[i] = iou_bits(anchors.iou_with(i, box, box_area));
  }
};

// Anchors of a tile that overlap an ignored box more than any other (of equals, the lower index) become kIgnored.
template <class T>
void take_ignored(const AnchorArrays<T>& anchors, const ImageGt<T>& gts, int64_t tile, int64_t* assigned /* [A] */) {
  constexpr int64_t kTile = AnchorArrays<T>::kTile;
  if (gts.ignored.empty()) return;
  IouBits<T> crowd[kTile], crowd_box[kTile], best[kTile], best_box[kTile];
  const int64_t start = tile * kTile, size = smaller(kTile, anchors.size() - start);
  const auto match = [&](const std::vector<GtBox<T>>& boxes, IouBits<T>* ious, IouBits<T>* indices) {
    run_simd<BestBoxes>(
        anchors.arrays() + start, anchors.bounds(tile), boxes.data(), static_cast<int64_t>(boxes.size()), ious, indices,
        static_cast<TopTiles<T>*>(nullptr), tile);
  };
  match(gts.ignored, crowd, crowd_box);
  bool meets = false;
  for (int64_t i = 0; i < size; ++i) meets = meets || crowd[i] > 0;
  if (!meets) return;
  match(gts.boxes, best, best_box);
  for (int64_t i = 0; i < size; ++i) {
    if (crowd[i] == 0 || crowd[i] < best[i]) continue;
    if (crowd[i] == best[i] && crowd_box[i] > best_box[i]) continue;
    assigned[start + i] = kIgnored;
  }
}

template <class T>
void take_ignored(const AnchorArrays<T>& anchors, const ImageGt<T>& gts, int64_t* assigned /* [A] */) {
  Pace pace;
  for (int64_t tile = 0; tile < anchors.num_tiles(); ++tile) {
    take_ignored(anchors, gts, tile, assigned);
    pace.add(AnchorArrays<T>::kTile * static_cast<int64_t>(gts.ignored.size() + 1));
  }
}

// Points in tiles, and the box around each tile.
template <class T>
class PointTiles {
 public:
  PointTiles(const T* points /* [A, 2] */, int64_t size) {
    const T far = std::numeric_limits<T>::infinity(), none = std::numeric_limits<T>::quiet_NaN();
    const int64_t num_tiles = (size + kTile - 1) / kTile;
    x_.assign(num_tiles * kTile, none);  // padding lies in no box
    y_.assign(num_tiles * kTile, none);
    bounds_.assign(num_tiles, {far, far, -far, -far});
    for (int64_t i = 0; i < size; ++i) {
      const T x = x_[i] = points[2 * i], y = y_[i] = points[2 * i + 1];
      Box<T>& bounds = bounds_[i / kTile];
      bounds = {smaller(x, bounds.x1), smaller(y, bounds.y1), larger(x, bounds.x2), larger(y, bounds.y2)};
    }
  }

  int64_t num_tiles() const { return static_cast<int64_t>(bounds_.size()); }
  const T* x(int64_t tile) const { return x_.data() + tile * kTile; }
  const T* y(int64_t tile) const { return y_.data() + tile * kTile; }
  const Box<T>& bounds(int64_t tile) const { return bounds_[tile]; }
  // Whether no point of the tile lies in the box.
  bool misses(int64_t tile, const Box<T>& box) const {
    const Box<T>& b = bounds_[tile];
    return !(b.x2 > box.x1 && b.x1 < box.x2 && b.y2 > box.y1 && b.y1 < box.y2);
  }

  static constexpr int64_t kTile = AnchorArrays<T>::kTile;

 private:
  std::vector<T> x_, y_;
  std::vector<Box<T>> bounds_;
};

// The first k candidates, sorted.
template <class T>
class FirstK {
 public:
  explicit FirstK(int64_t k) : k_(k) {}
  // What a candidate must be before to get in.
  const Candidate<T>& last() const { return last_; }
  void add(const Candidate<T>& candidate) {
    if (!candidate.before(last_)) return;
    int64_t place = size_ < k_ ? size_++ : size_ - 1;
    for (; place > 0 && candidate.before(list_[place - 1]); --place) list_[place] = list_[place - 1];
    list_[place] = candidate;
    if (size_ == k_) last_ = list_[size_ - 1];
  }
  int64_t size() const { return size_; }
  const Candidate<T>& operator[](int64_t i) const { return list_[i]; }
  void clear() {
    size_ = 0;
    last_ = no_candidate<T>();
  }

 private:
  int64_t k_, size_ = 0;
  Candidate<T> last_ = no_candidate<T>(), list_[kMostTopk];
};

// Calls f(image) for each: threads share the images, or, where there are fewer than threads, each image's work.
template <class F>
void for_each_image(int64_t num_images, int64_t cost, const F& f) {
  if (num_images < static_cast<int64_t>(torch::stable::get_num_threads())) {
    for (int64_t image = 0; image < num_images; ++image) f(image);
    return;
  }
  parallel(num_images, cost, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) f(image);
  });
}

template <class T>
GtView<T> gt_view(const Tensor& boxes, const std::optional<Tensor>& valid, const std::optional<Tensor>& ignored) {
  return {
      box_data<T>(boxes), valid ? valid->const_data_ptr<bool>() : nullptr,
      ignored ? ignored->const_data_ptr<bool>() : nullptr, boxes.size(boxes.dim() - 2)};
}

}  // namespace tinyssd
