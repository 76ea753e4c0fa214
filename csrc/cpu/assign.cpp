// Step 1 goes through the anchors in tiles that stay in the cache, all boxes against each tile, and keeps for each
// anchor its best box and for each (box, tile) the largest IoU: [G, A / kTile] values in memory, no [A, G] matrix.
// Step 2, the greedy rounds, is a stable matching: who takes the largest IoU left is who would be preferred on both
// sides. So each box proposes to its best anchor, which holds the better of its proposals (larger IoU, lower box); a box
// that loses its anchor proposes to its next one. The tile maxima, lowered on the way, are upper bounds of what is left
// for a box, so a proposal costs a tile or two. Ties: lowest anchor, then lowest box.
// IoUs are compared as integers, which order like the floats they are the bits of, since no IoU is negative or NaN.
// Threads own tiles in step 1 and boxes in looking for the first proposals; the rest is one thread's.
#include "assign.h"

#include "parallel.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>

namespace tinyssd {
namespace {

constexpr int64_t kNone = -1;  // as IoU bits: below every IoU; as an index: no box, no anchor

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

// What an anchor holds: the IoU of the best proposal so far and its box, of one width for SIMD.
template <class T>
struct Held {
  IouBits<T>* iou;  // kNone: nothing yet
  IouBits<T>* gt;
};

// The largest IoU of a box with those anchors of a tile that would take it, and the first anchor that has it.
struct BestOfTile {
  template <class T>
  TINYSSD_INLINE static void run(
      BoxArrays<T> anchors, Held<T> held, int64_t size, Box<T> box, T box_area, int64_t g, IouBits<T>* best,
      int64_t* first) {
    constexpr int64_t kTile = AnchorArrays<T>::kTile;
    using Bits = IouBits<T>;
    const auto own = static_cast<Bits>(g);
    Bits values[kTile], largest = kNone;
    for (int64_t i = 0; i < kTile; ++i) {
      const Bits value = bits_of(anchors.iou_with(i, box, box_area));
      const bool taken = (value > held.iou[i]) | ((value == held.iou[i]) & (own < held.gt[i]));
      values[i] = taken ? value : Bits(kNone);
      largest = larger(values[i], largest);
    }
    *best = largest;
    *first = kNone;
    for (int64_t i = 0; i < size && *first < 0; ++i) {
      if (values[i] == largest) *first = i;
    }
  }
};

// The first of the largest values.
struct FirstLargest {
  template <class Bits>
  TINYSSD_INLINE static void run(const Bits* values, int64_t size, int64_t* first) {
    Bits largest = values[0];
    for (int64_t i = 1; i < size; ++i) largest = larger(values[i], largest);
    int64_t i = 0;
    while (values[i] != largest) ++i;
    *first = i;
  }
};

template <class T>
struct Proposal {
  IouBits<T> iou;
  int64_t anchor;  // kNone: all anchors hold better boxes
};

// Boxes and anchors in search of each other.
template <class T>
class Matching {
 public:
  Matching(const AnchorArrays<T>& anchors, const std::vector<Gt<T>>& gts, IouBits<T>* tile_best)
      : anchors_(anchors), gts_(gts), tile_best_(tile_best) {
    const int64_t padded = anchors.num_tiles() * AnchorArrays<T>::kTile;
    held_iou_.assign(padded, kNone);
    held_gt_.assign(padded, kNone);
    std::fill(held_iou_.begin() + anchors.size(), held_iou_.end(), std::numeric_limits<IouBits<T>>::max());
    first_.resize(gts.size());
    anchor_of_.assign(gts.size(), kNone);
  }

  // Each valid box's anchor, or kNone.
  const std::vector<int64_t>& solve() {
    const auto num_gt = static_cast<int64_t>(gts_.size());
    parallel(num_gt, 100 + anchors_.num_tiles() / 4, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) first_[g] = find(g);
    });
    // The likeliest winners first: few lose their anchors again.
    std::vector<int64_t> order(num_gt);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return first_[a].iou > first_[b].iou; });
    Pace pace;
    const int64_t cost = 100 + 50 * anchors_.num_tiles();  // a search may look at every tile
    for (const int64_t g : order) {
      pace.add(cost);
      Proposal<T> proposal = takes(g, first_[g]) ? first_[g] : find(g);
      for (int64_t loser = g; proposal.anchor != kNone;) {
        anchor_of_[loser] = proposal.anchor;
        held_iou_[proposal.anchor] = proposal.iou;
        const int64_t winner = loser;
        loser = held_gt_[proposal.anchor];
        held_gt_[proposal.anchor] = static_cast<IouBits<T>>(winner);
        if (loser == kNone) break;
        anchor_of_[loser] = kNone;
        pace.add(cost);
        proposal = find(loser);
      }
    }
    return anchor_of_;
  }

 private:
  bool takes(int64_t g, const Proposal<T>& proposal) const {
    const IouBits<T> held = held_iou_[proposal.anchor];
    return proposal.iou > held || (proposal.iou == held && g < held_gt_[proposal.anchor]);
  }

  // The box's best anchor of those that would take it. Its tile maxima are lowered on the way to what is left.
  Proposal<T> find(int64_t g) {
    constexpr int64_t kTile = AnchorArrays<T>::kTile;
    IouBits<T>* bounds = tile_best_ + g * anchors_.num_tiles();
    for (int64_t looks = 1;; ++looks) {
      int64_t tile;
      run_simd<FirstLargest>(static_cast<const IouBits<T>*>(bounds), anchors_.num_tiles(), &tile);
      IouBits<T> best = kNone;
      int64_t first = kNone;
      const int64_t start = tile * kTile;
      if (bounds[tile] != kNone) {
        const Held<T> held = {held_iou_.data() + start, held_gt_.data() + start};
        run_simd<BestOfTile>(
            anchors_.arrays() + start, held, smaller(kTile, anchors_.size() - start), gts_[g].box, gts_[g].area, g,
            &best, &first);
      }
      if (best == bounds[tile]) {
        work_done() += looks;
        return {best, best == kNone ? kNone : start + first};
      }
      bounds[tile] = best;
    }
  }

  const AnchorArrays<T>& anchors_;
  const std::vector<Gt<T>>& gts_;
  IouBits<T>* tile_best_;  // [num_gt, num_tiles]
  std::vector<IouBits<T>> held_iou_, held_gt_;
  std::vector<Proposal<T>> first_;
  std::vector<int64_t> anchor_of_;
};

}  // namespace

template <class T>
AnchorArrays<T>::AnchorArrays(const T* anchors, int64_t size) : size_(size), bounds_((size + kTile - 1) / kTile) {
  const int64_t padded = num_tiles() * kTile;
  memory_.reset(new T[BoxArrays<T>::kArrays * padded]);
  arrays_ = BoxArrays<T>::over(memory_.get(), padded);
  parallel(num_tiles(), 4 * kTile, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const T far = std::numeric_limits<T>::infinity();
      Box<T> bounds = {far, far, -far, -far};
      for (int64_t i = tile * kTile; i < (tile + 1) * kTile; ++i) {
        Box<T> box = {0, 0, 0, 0};  // padding has area 0: IoU 0
        if (i < size) {
          memcpy(&box, anchors + 4 * i, sizeof(box));
          bounds = {
              smaller(box.x1, bounds.x1), smaller(box.y1, bounds.y1), larger(box.x2, bounds.x2),
              larger(box.y2, bounds.y2)};
        }
        arrays_.set(i, box, area(box));
      }
      bounds_[tile] = bounds;
    }
  });
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
    std::fill(assigned, assigned + anchors.size(), kNone);
    return;
  }
  const std::unique_ptr<IouBits<T>[]> tile_best(new IouBits<T>[num_valid * num_tiles]);
  parallel(num_tiles, 50 + 10 * num_valid, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t start = tile * kTile;
      run_simd<MatchTile>(
          anchors.arrays() + start, anchors.bounds(tile), static_cast<const Gt<T>*>(gts.data()), num_valid,
          iou_threshold, tile_best.get() + tile, num_tiles, smaller(kTile, anchors.size() - start), assigned + start);
    }
  });
  Matching<T> matching(anchors, gts, tile_best.get());
  const std::vector<int64_t>& anchor_of = matching.solve();
  for (int64_t g = 0; g < num_valid; ++g) {
    if (anchor_of[g] != kNone) assigned[anchor_of[g]] = gts[g].index;
  }
}

template class AnchorArrays<float>;
template class AnchorArrays<double>;
template void assign(const AnchorArrays<float>&, const Box<float>*, const bool*, int64_t, float, int64_t*);
template void assign(const AnchorArrays<double>&, const Box<double>*, const bool*, int64_t, double, int64_t*);

}  // namespace tinyssd
