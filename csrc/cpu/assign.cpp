// Step 1 goes through the anchors in tiles that stay in the cache, all boxes against each tile, and keeps for each
// anchor its best box and for each (box, tile) the largest IoU: [G, A / kTile] values in memory, no [A, G] matrix.
// Step 2, the greedy rounds, keeps a key (IoU, anchor) for each box, which may be out of date but never too low: the
// round takes the largest, and looks again only if its anchor has been claimed since. The tile maxima are such upper
// bounds too, so looking again costs a tile or two. Ties: lowest anchor, then lowest box.
// IoUs are compared as integers, which order like the floats they are the bits of, since no IoU is negative or NaN.
#include "assign.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

namespace tinyssd {
namespace {

constexpr int64_t kClaimed = -1;  // as IoU bits: below every IoU

template <class T>
using IouBits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
TINYSSD_INLINE IouBits<T> bits_of(T iou) {
  IouBits<T> bits;
  memcpy(&bits, &iou, sizeof(bits));
  return bits;
}

template <class T>
TINYSSD_INLINE bool misses(const Box<T>& box, const Box<T>& bounds) {
  return box.x2 <= bounds.x1 || box.x1 >= bounds.x2 || box.y2 <= bounds.y1 || box.y1 >= bounds.y2;
}

template <class T>
struct Gt {
  Box<T> box;
  T area;
  int64_t index;  // in the image's list, padding included
};

// A tile of anchors against all boxes.
struct MatchTile {
  template <class T>
  TINYSSD_INLINE static void run(
      BoxArrays<T> anchors, Box<T> bounds, const Gt<T>* gts, int64_t num_gt, T threshold,
      IouBits<T>* tile_best,  // [num_gt], num_tiles apart
      int64_t num_tiles, int64_t size, int64_t* assigned) {
    constexpr int64_t kTile = AnchorArrays<T>::kTile;
    using Bits = IouBits<T>;
    Bits best[kTile], best_gt[kTile];
    for (int64_t i = 0; i < kTile; ++i) {
      best[i] = 0;
      best_gt[i] = 0;  // the first box: an IoU of 0 ties with all others
    }
    for (int64_t g = 0; g < num_gt; ++g) {
      if (misses(gts[g].box, bounds)) {
        tile_best[g * num_tiles] = 0;
        continue;
      }
      Bits largest = 0;
      for (int64_t i = 0; i < kTile; ++i) {
        const Bits value = bits_of(anchors.iou_with(i, gts[g].box, gts[g].area));
        largest = larger(value, largest);
        const bool better = value > best[i];
        best[i] = better ? value : best[i];
        best_gt[i] = better ? static_cast<Bits>(g) : best_gt[i];
      }
      tile_best[g * num_tiles] = largest;
    }
    const Bits least = bits_of(threshold);
    for (int64_t i = 0; i < size; ++i) assigned[i] = best[i] >= least ? gts[best_gt[i]].index : -1;
  }
};

// The largest IoU of a box with the unclaimed anchors of a tile, and the first anchor that has it.
struct BestOfTile {
  template <class T>
  TINYSSD_INLINE static void run(
      BoxArrays<T> anchors, const uint8_t* claimed, int64_t size, Box<T> box, T box_area, IouBits<T>* best,
      int64_t* first) {
    constexpr int64_t kTile = AnchorArrays<T>::kTile;
    using Bits = IouBits<T>;
    Bits values[kTile], largest = kClaimed;
    for (int64_t i = 0; i < kTile; ++i) {
      const Bits value = bits_of(anchors.iou_with(i, box, box_area));
      values[i] = claimed[i] != 0 ? Bits(kClaimed) : value;
      largest = larger(values[i], largest);
    }
    *best = largest;
    *first = -1;
    for (int64_t i = 0; i < size && *first < 0; ++i) {
      if (values[i] == largest) *first = i;
    }
  }
};

template <class T>
struct Key {
  IouBits<T> iou;
  int64_t anchor;
  bool before(const Key& other) const { return iou != other.iou ? iou > other.iou : anchor < other.anchor; }
};

// The box's best unclaimed anchor. Tile maxima are lowered on the way to what is left unclaimed.
template <class T>
Key<T> find_best(
    const AnchorArrays<T>& anchors, const Gt<T>& gt, const std::vector<uint8_t>& claimed, IouBits<T>* tile_best) {
  constexpr int64_t kTile = AnchorArrays<T>::kTile;
  while (true) {
    int64_t tile = 0;
    for (int64_t t = 1; t < anchors.num_tiles(); ++t) {
      if (tile_best[t] > tile_best[tile]) tile = t;
    }
    IouBits<T> best;
    int64_t first;
    const int64_t start = tile * kTile;
    run_simd<BestOfTile>(
        anchors.arrays() + start, claimed.data() + start, smaller(kTile, anchors.size() - start), gt.box, gt.area,
        &best, &first);
    if (best == tile_best[tile]) return {best, start + first};
    tile_best[tile] = best;
  }
}

}  // namespace

template <class T>
AnchorArrays<T>::AnchorArrays(const T* anchors, int64_t size) : size_(size) {
  const int64_t num_tiles = (size + kTile - 1) / kTile, padded = num_tiles * kTile;
  memory_.assign(BoxArrays<T>::kArrays * padded, T(0));  // padding has area 0: IoU 0
  arrays_ = BoxArrays<T>::over(memory_.data(), padded);
  bounds_.reserve(num_tiles);
  for (int64_t i = 0; i < size; ++i) {
    Box<T> box;
    memcpy(&box, anchors + 4 * i, sizeof(box));
    arrays_.set(i, box, area(box));
    if (i % kTile == 0) {
      const T far = std::numeric_limits<T>::infinity();
      bounds_.push_back({far, far, -far, -far});
    }
    Box<T>& bounds = bounds_.back();
    bounds = {
        smaller(box.x1, bounds.x1), smaller(box.y1, bounds.y1), larger(box.x2, bounds.x2), larger(box.y2, bounds.y2)};
  }
}

template <class T>
void assign(
    const AnchorArrays<T>& anchors, const Box<T>* gt_boxes, const bool* valid, int64_t num_gt, T iou_threshold,
    int64_t* assigned) {
  constexpr int64_t kTile = AnchorArrays<T>::kTile;
  const int64_t num_tiles = anchors.num_tiles();
  std::vector<Gt<T>> gts;
  gts.reserve(num_gt);
  for (int64_t g = 0; g < num_gt; ++g) {
    if (valid == nullptr || valid[g]) gts.push_back({gt_boxes[g], area(gt_boxes[g]), g});
  }
  const auto num_valid = static_cast<int64_t>(gts.size());
  if (num_valid == 0) {
    std::fill(assigned, assigned + anchors.size(), -1);
    return;
  }
  std::vector<IouBits<T>> tile_best(num_valid * num_tiles);
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t start = tile * kTile;
    run_simd<MatchTile>(
        anchors.arrays() + start, anchors.bounds(tile), static_cast<const Gt<T>*>(gts.data()), num_valid, iou_threshold,
        tile_best.data() + tile, num_tiles, smaller(kTile, anchors.size() - start), assigned + start);
  }
  std::vector<uint8_t> claimed(num_tiles * kTile, 0);
  std::fill(claimed.begin() + anchors.size(), claimed.end(), 1);
  std::vector<Key<T>> keys(num_valid);
  for (int64_t g = 0; g < num_valid; ++g) {
    keys[g] = find_best(anchors, gts[g], claimed, tile_best.data() + g * num_tiles);
  }
  std::vector<int64_t> waiting(num_valid);
  for (int64_t g = 0; g < num_valid; ++g) waiting[g] = g;
  for (int64_t round = 0; round < smaller(num_valid, anchors.size()); ++round) {
    size_t next = 0;
    while (true) {
      next = 0;
      for (size_t w = 1; w < waiting.size(); ++w) {
        if (keys[waiting[w]].before(keys[waiting[next]])) next = w;
      }
      const int64_t g = waiting[next];
      if (claimed[keys[g].anchor] == 0) break;
      keys[g] = find_best(anchors, gts[g], claimed, tile_best.data() + g * num_tiles);
    }
    const int64_t g = waiting[next];
    claimed[keys[g].anchor] = 1;
    assigned[keys[g].anchor] = gts[g].index;
    waiting.erase(waiting.begin() + static_cast<int64_t>(next));  // keeps the order of boxes, which breaks ties
  }
}

template class AnchorArrays<float>;
template class AnchorArrays<double>;
template void assign(const AnchorArrays<float>&, const Box<float>*, const bool*, int64_t, float, int64_t*);
template void assign(const AnchorArrays<double>&, const Box<double>*, const bool*, int64_t, double, int64_t*);

}  // namespace tinyssd
