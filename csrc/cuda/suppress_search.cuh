// Whether a kept box suppresses a candidate, and where kept boxes lie: a hashed grid as in grid.h whose buckets are
// linked lists. Eight lanes share a candidate's search, a cell each at a time. A box that would look into too many
// cells, an irregular box, and any box at a threshold near 0 meets all kept boxes instead, eight at a time. The lanes of
// a warp stay together: `open` says whether a lane still has something to find.
#pragma once

#include "suppress.cuh"

namespace tinyssd {

constexpr int kSearchLanes = 8;

// Classes have cells of their own.
__device__ __forceinline__ uint64_t class_seed(int64_t class_id) { return static_cast<uint64_t>(class_id) << 8; }

// 16 bytes at once.
template <class T>
__device__ __forceinline__ EntryTail load_tail(const Entry<T>* entry) {
  const auto words = *reinterpret_cast<const Pack<uint64_t, 2>*>(&entry->tail);
  return {
      static_cast<int64_t>(words.values[0]), static_cast<uint32_t>(words.values[1]),
      static_cast<uint32_t>(words.values[1] >> 32)};
}

template <class T>
__device__ __forceinline__ Entry<T> load_entry(const Entry<T>* entry) {
  return {load_box(&entry->box), load_tail(entry)};
}

template <class T>
__device__ __forceinline__ void store_entry(Entry<T>* target, const Entry<T>& entry) {
  store_box(&target->box, entry.box);
  Pack<uint64_t, 2> words;
  words.values[0] = static_cast<uint64_t>(entry.tail.class_id);
  words.values[1] = uint64_t{entry.tail.next} << 32 | entry.tail.candidate;
  *reinterpret_cast<Pack<uint64_t, 2>*>(&target->tail) = words;
}

// A box that looks for kept boxes, one of its lanes.
template <class T>
class Search {
 public:
  // `active` and all else is the same in the lanes of a box.
  __device__ Search(
      const Waves<T>& waves, const Progress& progress, int64_t image, const Box<T>& box, int64_t class_id, bool active)
      : waves_(waves),
        kept_(waves.kept + image * waves.slots),
        heads_(waves.heads + image * (waves.bucket_mask + int64_t{1})),
        box_(box),
        area_(area(box)),
        least_(static_cast<T>(waves.threshold * (1 - kIouMargin))),
        class_id_(class_id),
        num_kept_(progress.kept),
        lane_(threadIdx.x % kSearchLanes),
        group_(((1u << kSearchLanes) - 1) << (threadIdx.x % kWarp / kSearchLanes * kSearchLanes)) {
    const Extent extent = extent_of(box);
    const Kind kind = kind_of(box, extent);
    open_ = active && kind != Kind::kInert && num_kept_ > 0;
    all_ = !(waves.threshold > T(kLeastThreshold)) || kind != Kind::kRegular;
  }

  // Every lane of the warp calls it.
  __device__ bool suppressed(const uint32_t* irregular, int num_irregular, unsigned long long levels) {
    const bool searches = open_;
    each_of(all_ ? 0 : num_irregular, [&](int k) { return overlaps(irregular[k], nullptr); });
    if (__any_sync(kAllLanes, open_ && !all_)) search_levels(levels);
    each_of(all_ ? num_kept_ : 0, [&](int k) { return overlaps(k, nullptr); });
    return searches && !open_;
  }

 private:
  static constexpr int kFewCells = 64;

  // Until one of the numbers below count, shared out among the lanes of a box, is a hit.
  template <class Test>
  __device__ __forceinline__ void each_of(int count, const Test& test) {
    for (int k = lane_; __any_sync(kAllLanes, open_ && k - lane_ < count); k += kSearchLanes) {
      const bool hit = open_ && k < count && test(k);
      const unsigned hits = __ballot_sync(kAllLanes, hit) & group_;
      open_ = open_ && hits == 0;
    }
  }

  __device__ __forceinline__ bool overlaps(uint32_t number, uint32_t* next) const {
    const Entry<T>* entry = kept_ + number;
    const Box<T> rival = load_box(&entry->box);
    const bool over = overlaps_more(rival, area(rival), box_, area_, least_, waves_.threshold);
    if (next == nullptr && !(over && waves_.by_class)) return over;
    const auto tail = load_tail(entry);
    if (next != nullptr) *next = tail.next;
    return over && (!waves_.by_class || tail.class_id == class_id_);
  }

  __device__ void search_levels(unsigned long long levels) {
    const Extent extent = extent_of(box_);
    const Least least = least_of(waves_.threshold);
    const Levels range = levels_of(extent.longest(), least);
    const uint64_t seed = waves_.by_class ? class_seed(class_id_) : 0;
    unsigned long long bits = 0;
    if (open_ && !all_) bits = levels & ~0ull << range.lowest & ~0ull >> (kLevels - 1 - range.highest);
    int cells_left = kFewCells + num_kept_ / 8;  // beyond that, meeting all is faster
    while (__any_sync(kAllLanes, open_ && bits != 0)) {
      int64_t left = 0, top = 0;
      int level = 0, width = 1, cells = 0;
      if (open_ && bits != 0) {
        level = __ffsll(static_cast<long long>(bits)) - 1 - kLevelOffset;
        bits &= bits - 1;
        const double scale = cells_per_unit(level, waves_.log2_cells);
        const double reach_x = reach(extent.w, level, least), reach_y = reach(extent.h, level, least);
        left = cell_of(extent.cx - reach_x, scale);
        top = cell_of(extent.cy - reach_y, scale);
        const int64_t columns = cell_of(extent.cx + reach_x, scale) - left + 1;
        const int64_t rows = cell_of(extent.cy + reach_y, scale) - top + 1;
        all_ = columns > cells_left || rows > cells_left || columns * rows > cells_left;
        width = all_ ? 1 : static_cast<int>(columns);
        cells = all_ ? 0 : static_cast<int>(columns * rows);
        cells_left -= cells;
        if (all_) bits = 0;
      }
      each_of(cells, [&](int k) {
        const int row = k / width;
        const uint32_t hash = hash_row(top + row, level, seed) + static_cast<uint32_t>(left + (k - row * width));
        bool hit = false;
        for (uint32_t at = heads_[hash & waves_.bucket_mask]; at != 0 && !hit;) hit = overlaps(at - 1, &at);
        return hit;
      });
    }
  }

  const Waves<T>& waves_;
  const Entry<T>* kept_;
  const uint32_t* heads_;
  const Box<T> box_;
  const T area_, least_;
  const int64_t class_id_;
  const int num_kept_, lane_;
  const unsigned group_;
  bool open_, all_;
};

// Enters kept box `number` of the image, so that later launches find it. Returns its level as a bit; 0 if it has none.
template <class T>
__device__ unsigned long long enter(const Waves<T>& waves, int64_t image, uint32_t number, Entry<T> entry) {
  const Extent extent = extent_of(entry.box);
  const Kind kind = kind_of(entry.box, extent);
  unsigned long long level_bit = 0;
  entry.tail.next = 0;
  if (kind == Kind::kRegular) {
    const int level = level_of(extent.longest());
    const double scale = cells_per_unit(level, waves.log2_cells);
    const uint64_t seed = waves.by_class ? class_seed(entry.tail.class_id) : 0;
    const uint32_t hash =
        hash_row(cell_of(extent.cy, scale), level, seed) + static_cast<uint32_t>(cell_of(extent.cx, scale));
    uint32_t* head = waves.heads + image * (waves.bucket_mask + int64_t{1}) + (hash & waves.bucket_mask);
    entry.tail.next = atomicExch(head, number + 1);
    level_bit = 1ull << (level + kLevelOffset);
  } else if (kind == Kind::kIrregular) {
    waves.irregular[image * waves.slots + atomicAdd(&waves.progress[image].irregular, 1)] = number;
  }
  store_entry(waves.kept + image * waves.slots + number, entry);
  return level_bit;
}

}  // namespace tinyssd
