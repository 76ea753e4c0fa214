// Greedy suppression on CUDA, shared by nms, batched_nms, nms_padded, multibox_detection and detect: how a box is judged.
// Candidates are sorted by rank (rank.h; the sort is stable, so ties keep the order of indices), then lie in the hashed
// grid of grid.h, a bucket a cell, in shared memory (suppress_small.cuh) or in global memory (suppress_large.cuh).
// A box is suppressed once a kept box of higher rank overlaps it by more than the threshold, and kept once all such boxes
// are suppressed. States only ever go from undecided to decided and the end is unique, so boxes can be judged in any
// order, many at a time, as often as it takes: a round for each link of the longest chain of overlaps.
#pragma once

#include "../grid.h"
#include "../rank.h"
#include "launch.cuh"

namespace tinyssd {

// What is ranked and suppressed in each image of a batch.
template <class T>
struct Candidates {
  const Box<T>* boxes;               // [B, N / share]
  int64_t size;                      // N
  int64_t share;                     // so many candidates in a row share a box, and have a class each
  const RankKey<T>* keys = nullptr;  // [B, N]: rank_key of the score, or kNoCandidate
  const T* scores = nullptr;         // [B, N], where there are no keys
  const int64_t* classes = nullptr;  // [B, N]
  bool filtered = false;             // with scores: whether those below `least` are no candidates
  T least = 0;

  __device__ RankKey<T> key(int64_t image, int64_t i) const {
    if (keys != nullptr) return keys[image * size + i];
    const T score = scores[image * size + i];
    return filtered && !(score >= least) ? kNoCandidate<T> : rank_key(score);
  }
  __device__ Box<T> box(int64_t image, int64_t i) const {
    return share == 1 ? load_box(boxes + image * size + i) : load_box(boxes + (image * size + i) / share);
  }
  __device__ bool has_classes() const { return classes != nullptr || share > 1; }
  __device__ int64_t class_id(int64_t image, int64_t i) const {
    return classes != nullptr ? classes[image * size + i] : i % share;
  }
};

// A candidate's state: one of these, or the rank of an undecided box that it waits for.
template <class Index>
struct State {
  static constexpr Index kKept = static_cast<Index>(-1), kSuppressed = static_cast<Index>(-2);
  static constexpr Index kNotJudged = static_cast<Index>(-3);
  __device__ static bool decided(Index state) { return state == kKept || state == kSuppressed; }
};

// Cells are narrow in x, where a row of them is one range of slots whatever their number.
constexpr int kLog2CellsX = 3, kLog2CellsY = 2;
// A box that would look into more rows of cells meets all boxes instead.
constexpr int64_t kMostRows = 64;

// Where a candidate lies. Bucket `mask + 1` is that of the irregular boxes.
struct Place {
  Kind kind;
  int level;
  unsigned bucket;
};

template <class T>
__device__ Place place_of(const Box<T>& box, uint64_t seed, unsigned mask) {
  const Extent extent = extent_of(box);
  const Kind kind = kind_of(box, extent);
  if (kind != Kind::kRegular) return {kind, 0, mask + 1};
  const int level = level_of(extent.longest());
  const int64_t x = cell_of(extent.cx, cells_per_unit(level, kLog2CellsX));
  const int64_t y = cell_of(extent.cy, cells_per_unit(level, kLog2CellsY));
  return {kind, level, (hash_row(y, level, seed) + static_cast<unsigned>(x)) & mask};
}

// Classes have cells of their own.
__device__ __forceinline__ uint64_t class_seed(int64_t class_id) { return static_cast<uint64_t>(class_id) << 8; }

template <class T>
__device__ uint64_t seed_of(const Candidates<T>& in, int64_t image, int64_t candidate) {
  return in.has_classes() ? class_seed(in.class_id(image, candidate)) : 0;
}

// The grid of an image, in shared or global memory. Slots hold the boxes that can overlap others, bucket by bucket.
template <class T, class Index>
struct Field {
  const Box<T>* boxes;     // [slots]
  const Index* ranks;      // [slots]
  const Index* starts;     // [mask + 3]: bucket k has the slots from starts[k] to starts[k + 1]
  const Index* order;      // [N], by rank: the candidate. In global memory the ranks of all images follow on.
  volatile Index* states;  // [N], by rank
  unsigned mask;
  unsigned long long levels;  // the levels of the boxes, as bits
  T threshold;
};

// The ranges of slots, one after the other, that hold what can overlap a box by more than the threshold: an iterator, so
// that a caller has one loop over boxes, in which the lanes of a warp stay together whatever ranges they are in.
template <class T, class Index>
class Ranges {
 public:
  Index begin, end;  // of the range that next found

  __device__ Ranges(const Field<T, Index>& field, const Box<T>& box, uint64_t seed) : seed_(seed) {
    const Extent extent = extent_of(box);
    least_ = least_of(field.threshold);
    const Levels levels = levels_of(extent.longest(), least_);
    bit_ = levels.lowest;
    highest_ = levels.highest;
    all_ = !(field.threshold > T(kLeastThreshold)) || kind_of(box, extent) != Kind::kRegular;
  }

  // The irregular boxes, then the rows of cells, level by level; or all slots and nothing more.
  __device__ bool next(const Field<T, Index>& field, const Box<T>& box) {
    if (done_) return false;
    if (!all_ && !started_) {
      started_ = true;
      begin = field.starts[field.mask + 1];
      end = field.starts[field.mask + 2];
      return true;
    }
    if (wrapped_) {
      wrapped_ = false;
      begin = field.starts[0];
      end = field.starts[last_ + 1];
      return true;
    }
    while (!all_ && rows_ == 0) {
      if (bit_ > highest_) return false;
      if ((field.levels >> bit_ & 1) != 0) enter_level(field, box);
      ++bit_;
    }
    if (all_) {
      done_ = true;
      begin = field.starts[0];
      end = field.starts[field.mask + 2];
      return true;
    }
    const unsigned hash = hash_row(y_, level_, seed_);
    const unsigned first = (hash + left_) & field.mask;
    last_ = (hash + right_) & field.mask;
    wrapped_ = first > last_;
    begin = field.starts[first];
    end = field.starts[(wrapped_ ? field.mask : last_) + 1];
    ++y_;
    --rows_;
    return true;
  }

 private:
  __device__ void enter_level(const Field<T, Index>& field, const Box<T>& box) {
    const Extent extent = extent_of(box);
    level_ = bit_ - kLevelOffset;
    const double scale_x = cells_per_unit(level_, kLog2CellsX), scale_y = cells_per_unit(level_, kLog2CellsY);
    const double reach_x = reach(extent.w, level_, least_), reach_y = reach(extent.h, level_, least_);
    const int64_t left = cell_of(extent.cx - reach_x, scale_x), right = cell_of(extent.cx + reach_x, scale_x);
    const int64_t bottom = cell_of(extent.cy + reach_y, scale_y);
    y_ = cell_of(extent.cy - reach_y, scale_y);
    left_ = static_cast<unsigned>(left);
    right_ = static_cast<unsigned>(right);
    all_ = bottom - y_ >= rows_left_ || right - left >= static_cast<int64_t>(field.mask);
    rows_ = static_cast<int>(bottom - y_ + 1);
    rows_left_ -= rows_;
  }

  uint64_t seed_;
  Least least_;
  int64_t y_ = 0;
  unsigned left_ = 0, right_ = 0, last_ = 0;
  int bit_, highest_, level_ = 0, rows_ = 0, rows_left_ = kMostRows;
  bool all_, started_ = false, wrapped_ = false, done_ = false;
};

// The next state of an undecided candidate: suppressed if a kept box suppresses it, kept if no box can, else the rank of
// one that may.
template <class T, class Index>
__device__ __forceinline__ Index
judge(const Field<T, Index>& field, const Candidates<T>& in, int64_t image, const Box<T>& box, Index rank) {
  using S = State<Index>;
  const Index state = field.states[rank];
  if (state != S::kNotJudged) {
    // It waits for a box that overlaps it: nothing to search for while that one is undecided, or once it is kept.
    const Index rival = field.states[state];
    if (rival == S::kKept) return S::kSuppressed;
    if (rival != S::kSuppressed) return state;
  }
  const T box_area = area(box), least = static_cast<T>(field.threshold * (1 - kIouMargin));
  const bool by_class = in.has_classes();
  const int64_t class_id = by_class ? in.class_id(image, field.order[rank]) : 0;
  Index blocker = S::kKept;
  Ranges<T, Index> ranges(field, box, by_class ? class_seed(class_id) : 0);
  while (ranges.next(field, box)) {
    for (Index slot = ranges.begin; slot < ranges.end; ++slot) {
      const Index other = field.ranks[slot];
      if (other >= rank) continue;
      const Box<T> rival = load_box(field.boxes + slot);
      if (!overlaps_more(rival, area(rival), box, box_area, least, field.threshold)) continue;
      if (by_class && in.class_id(image, field.order[other]) != class_id) continue;
      const Index rival_state = field.states[other];
      if (rival_state == S::kKept) return S::kSuppressed;
      // The highest in rank is the likeliest to be kept: then this box is suppressed without another search.
      if (rival_state != S::kSuppressed && other < blocker) blocker = other;
    }
  }
  return blocker;
}

// Keeps the best of each image: keep holds the kept candidates by falling score, padded with -1, counts how many they are.
// `like` is a tensor on the device. No host sync. In suppress.cu, which chooses between the small and the large way.
template <class T>
void suppress(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, double iou_threshold,
    int64_t most,
    int64_t* keep,     // [B, most]
    int64_t* counts);  // [B]

}  // namespace tinyssd
