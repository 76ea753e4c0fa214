// Soft-NMS of one list. Its candidates lie in a tree (box_tree.h): a kept box visits the blocks of 16 that hold a box whose
// score it may change, and each node knows the best of what is left below it. What an IoU of 0 does to a score, or one
// below the threshold, is nothing, to the bit.
#pragma once

#include "../rank.h"
#include "../soft_nms.h"
#include "box_tree.h"
#include "limits.h"
#include "simd.h"

#include <optional>
#include <vector>

namespace tinyssd {

// How scores decay, and which of them count.
template <class T>
struct SoftRule {
  Decay<T> decay;
  std::optional<T> least;

  bool stays(T score) const { return !least || score >= *least; }
  // What an IoU must exceed to change a score.
  T least_iou() const { return decay.gaussian ? T(0) : larger(std::nextafter(decay.threshold, T(-1)), T(0)); }
  // Whether an IoU of 0 changes nothing: not where sigma is 0 in this type.
  bool is_local() const { return decay(T(1), T(0)) == T(1); }
};

// One list as the kernel sees it. Level 0 of its tree is slots with a candidate each, level 1 blocks of 16 slots, and so on
// up to the root, which is one node.
template <class T>
struct SoftList {
  BoxArrays<T> boxes;  // of the slots, NaN where there is none
  T* scores;           // of the slots
  // The levels one after the other, each from first[level] on: the best of the candidates that are left below a node.
  RankKey<T>* keys;
  uint32_t* indices;
  uint32_t* open;           // and the nodes of each that the last search came to
  Bounds<T> bounds;         // from first[1] on
  bool bounded;             // otherwise every node may overlap
  const uint32_t* slot_of;  // of an index
  int root;                 // its level
  int64_t first[kMostLevels + 2];

  TINYSSD_INLINE Box<T> box(int64_t slot) const {
    return {boxes.x1[slot], boxes.y1[slot], boxes.x2[slot], boxes.y2[slot]};
  }
  // Level 1 or above.
  TINYSSD_INLINE void find_best(int level, int64_t node) const {
    const RankKey<T>* below = keys + first[level - 1] + (node << kLog2Fan);
    const uint32_t* numbers = indices + first[level - 1] + (node << kLog2Fan);
    RankKey<T> key = kNoCandidate<T>;
    for (int lane = 0; lane < kFan; ++lane) key = smaller(key, below[lane]);
    uint32_t index = UINT32_MAX;
    for (int lane = 0; lane < kFan; ++lane) index = smaller(index, below[lane] == key ? numbers[lane] : UINT32_MAX);
    keys[first[level] + node] = key;
    indices[first[level] + node] = index;
  }
};

// Keeps up to `most`, best first.
struct KeepBest {
  static constexpr int64_t kBlockCost = 40;  // nanoseconds
  // What a kept box does to 16 slots.
  template <bool kGaussian, class T>
  TINYSSD_INLINE static void lower_block(
      const SoftList<T>& left, const SoftRule<T>& rule, int64_t begin, const Box<T>& box, T box_area) {
    const Decay<T> decay = {kGaussian, rule.decay.threshold, rule.decay.sigma};
    const bool filtered = rule.least.has_value();
    const T least = rule.least.value_or(T(0));
    T scores[kFan];
    RankKey<T> keys[kFan];
    for (int lane = 0; lane < kFan; ++lane) {
      scores[lane] = decay(left.scores[begin + lane], left.boxes.iou_with(begin + lane, box, box_area));
    }
    for (int lane = 0; lane < kFan; ++lane) {
      const bool out = (left.keys[begin + lane] == kNoCandidate<T>) | (filtered & !(scores[lane] >= least));
      keys[lane] = out ? kNoCandidate<T> : rank_key(scores[lane]);
    }
    memcpy(left.scores + begin, scores, sizeof(scores));
    memcpy(left.keys + begin, keys, sizeof(keys));
  }

  // Opens the nodes above the slot and those that may hold a box whose score changes; num_open: of each level.
  template <class T>
  TINYSSD_INLINE static void open_nodes(
      const SoftList<T>& left, const Box<T>& box, T box_area, T least_iou, int64_t slot, int64_t* num_open) {
    left.open[left.first[left.root]] = 0;
    num_open[left.root] = 1;
    for (int level = left.root - 1; level > 0; --level) {
      const uint32_t* parents = left.open + left.first[level + 1];
      uint32_t* children = left.open + left.first[level];
      const int64_t own = slot >> (kLog2Fan * level);
      int64_t count = 0;
      for (int64_t i = 0; i < num_open[level + 1]; ++i) {
        const int64_t begin = int64_t{parents[i]} << kLog2Fan, node = left.first[level] + begin;
        uint32_t hits = left.bounded ? 0 : 0xFFFF, there = 0;
        for (int lane = 0; left.bounded && lane < kFan; ++lane) {
          hits |= uint32_t{left.bounds.may_overlap(node - left.first[1] + lane, box, box_area, least_iou)} << lane;
        }
        for (int lane = 0; lane < kFan; ++lane) {
          there |= uint32_t{left.keys[node + lane] != kNoCandidate<T>} << lane;
        }
        hits &= there;
        if (own >> kLog2Fan == int64_t{parents[i]}) hits |= uint32_t{1} << (own & (kFan - 1));
        for (; hits != 0; hits &= hits - 1) children[count++] = static_cast<uint32_t>(begin) + __builtin_ctz(hits);
      }
      num_open[level] = count;
    }
  }

  template <bool kGaussian, class T>
  TINYSSD_INLINE static int64_t keep_best(
      const SoftList<T>& left, const SoftRule<T>& rule, int64_t most, uint32_t* keep, T* kept_scores) {
    const T least_iou = rule.least_iou();
    const int64_t root = left.first[left.root];
    int64_t num_open[kMostLevels + 2];
    Pace pace;
    int64_t kept = 0;
    for (; kept < most && left.keys[root] != kNoCandidate<T>; ++kept) {
      const uint32_t index = left.indices[root];
      const int64_t slot = left.slot_of[index];
      keep[kept] = index;
      kept_scores[kept] = left.scores[slot];
      left.keys[slot] = kNoCandidate<T>;
      const Box<T> box = left.box(slot);
      const T box_area = left.boxes.area[slot];
      open_nodes(left, box, box_area, least_iou, slot, num_open);
      for (int64_t i = 0; i < num_open[1]; ++i) {
        const int64_t block = left.open[left.first[1] + i];
        lower_block<kGaussian>(left, rule, block << kLog2Fan, box, box_area);
      }
      pace.add(kBlockCost * num_open[1]);
      for (int level = 1; level <= left.root; ++level) {
        for (int64_t i = 0; i < num_open[level]; ++i) left.find_best(level, left.open[left.first[level] + i]);
      }
    }
    return kept;
  }

  template <class T>
  TINYSSD_INLINE static void run(
      const SoftList<T>* all, const SoftRule<T>* rule, int64_t most, uint32_t* keep, T* kept_scores,
      int64_t* num_kept) {
    const SoftList<T> left = *all;
    for (int level = 1; level <= left.root; ++level) {
      const int64_t end = (left.first[level] - left.first[level - 1]) >> kLog2Fan;
      for (int64_t node = 0; node < end; ++node) left.find_best(level, node);
    }
    *num_kept = rule->decay.gaussian ? keep_best<true>(left, *rule, most, keep, kept_scores)
                                     : keep_best<false>(left, *rule, most, keep, kept_scores);
  }
};

// Of a list, with its index there.
template <class T>
struct SoftBox {
  Box<T> box;
  T score;
  uint32_t index;
};

// The order of the tree; what overlaps nothing comes last.
template <class T>
std::vector<SoftBox<T>> in_order(const std::vector<SoftBox<T>>& left, T least_iou) {
  std::vector<SoftBox<T>> found;
  found.reserve(left.size());
  const auto box_of = [&](int64_t i) { return left[i].box; };
  for (const Point<T>& point : ordered_points(static_cast<int64_t>(left.size()), box_of, least_iou)) {
    found.push_back(left[point.index]);
  }
  for (const SoftBox<T>& other : left) {
    if (!can_overlap(other.box, area(other.box))) found.push_back(other);
  }
  return found;
}

// Owns the memory of a SoftList.
template <class T>
class SoftTree {
 public:
  // The slots are in the order of `left`; bounds are worth it where boxes that are alike lie side by side.
  SoftTree(const std::vector<SoftBox<T>>& left, bool bounded, std::vector<uint32_t>& slot_of)
      : size_(static_cast<int64_t>(left.size())) {
    const auto whole_blocks = [](int64_t count) { return (count + kFan - 1) / kFan * kFan; };
    const int64_t num_slots = whole_blocks(size_);
    int64_t num_nodes = num_slots;
    for (int64_t count = size_; count > 1 || all.root == 0;) {
      count = (count + kFan - 1) / kFan;
      all.first[++all.root] = num_nodes;
      num_nodes += whole_blocks(count);
    }
    values_.assign((BoxArrays<T>::kArrays + 1) * num_slots, std::numeric_limits<T>::quiet_NaN());
    keys_.assign(num_nodes, kNoCandidate<T>);
    indices_.assign(2 * num_nodes, UINT32_MAX);
    all.boxes = BoxArrays<T>::over(values_.data(), num_slots);
    all.scores = values_.data() + BoxArrays<T>::kArrays * num_slots;
    all.keys = keys_.data();
    all.indices = indices_.data();
    all.open = indices_.data() + num_nodes;
    all.slot_of = slot_of.data();
    for (int64_t slot = 0; slot < size_; ++slot) {
      const SoftBox<T>& candidate = left[slot];
      all.boxes.set(slot, candidate.box, area(candidate.box));
      all.scores[slot] = candidate.score;
      all.keys[slot] = rank_key(candidate.score);
      all.indices[slot] = candidate.index;
      slot_of[candidate.index] = static_cast<uint32_t>(slot);
    }
    all.bounded = bounded;
    if (bounded) add_bounds(num_nodes - num_slots);
  }

  // What has not been kept and has not fallen below the least score.
  std::vector<SoftBox<T>> left() const {
    std::vector<SoftBox<T>> found;
    for (int64_t slot = 0; slot < size_; ++slot) {
      if (all.keys[slot] != kNoCandidate<T>) found.push_back({all.box(slot), all.scores[slot], all.indices[slot]});
    }
    return found;
  }

  SoftList<T> all = {};

 private:
  void add_bounds(int64_t num_nodes) {
    const T far = std::numeric_limits<T>::infinity();
    bounds_.assign(Bounds<T>::kArrays * num_nodes, -far);
    all.bounds = Bounds<T>::over(bounds_.data(), num_nodes);
    for (T* least : {all.bounds.x1, all.bounds.y1, all.bounds.area}) std::fill(least, least + num_nodes, far);
    for (int64_t slot = 0; slot < size_; ++slot) {
      const Box<T> box = all.box(slot);
      const T box_area = all.boxes.area[slot];
      if (!can_overlap(box, box_area)) continue;
      for (int level = 1; level < all.root; ++level) {
        const int64_t node = all.first[level] + (slot >> (kLog2Fan * level));
        all.bounds.add(node - all.first[1], box, box_area);
      }
    }
  }

  int64_t size_;
  std::vector<T> values_, bounds_;
  std::vector<RankKey<T>> keys_;
  std::vector<uint32_t> indices_;
};

// Keeps up to `most` of a list and returns how many, in rounds, after each of which what has left makes room. A short first
// round tells whether many stay: only then is the order of the tree worth finding.
template <class T>
int64_t soft_nms_list(
    std::vector<SoftBox<T>> left, const SoftRule<T>& rule, int64_t most,
    uint32_t* keep,  // [K]
    T* kept_scores)  // [K]
{
  const int64_t many = limits().soft_many;
  std::vector<uint32_t> slot_of(left.size());
  int64_t kept = 0;
  bool ordered = false;
  for (bool first = true; !left.empty() && kept < most; first = false) {
    const auto size = static_cast<int64_t>(left.size());
    const bool has_many = smaller(size, most - kept) > many;
    if (has_many && !first && !ordered && rule.is_local()) {
      left = in_order(left, rule.least_iou());
      ordered = true;
    }
    const int64_t in_round = has_many && first ? many / 8 + 1 : larger(size / 2, many / 4 + 1);
    const SoftTree<T> tree(left, ordered, slot_of);
    int64_t more = 0;
    run_simd<KeepBest>(&tree.all, &rule, smaller(most - kept, in_round), keep + kept, kept_scores + kept, &more);
    kept += more;
    left = tree.left();
  }
  return kept;
}

}  // namespace tinyssd
