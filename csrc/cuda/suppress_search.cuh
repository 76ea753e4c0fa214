// Whether a kept box suppresses a candidate, and where kept boxes lie: in hashed cells (suppress_grid.cuh) that are linked
// lists. Eight lanes share a candidate's search, a column of cells each, row by row. A box that would look into too many
// cells, an irregular box, and any box at a threshold near 0 meets all kept boxes instead. The lanes of a warp stay
// together: `open` says whether a lane still has something to find.
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
        spot_(box, waves.grid),
        box_(box),
        area_(area(box)),
        least_(static_cast<T>(waves.threshold * (1 - kIouMargin))),
        class_id_(class_id),
        num_kept_(progress.kept),
        lane_(threadIdx.x % kSearchLanes),
        group_(((1u << kSearchLanes) - 1) << (threadIdx.x % kWarp / kSearchLanes * kSearchLanes)) {
    open_ = active && spot_.kind != Kind::kInert && num_kept_ > 0;
    all_ = !waves.grid.searchable || spot_.kind != Kind::kRegular;
  }

  // Every lane of the warp calls it.
  __device__ bool suppressed(const uint32_t* irregular, const Progress& progress) {
    const bool searches = open_;
    each_of(all_ ? 0 : progress.irregular, [&](int k) { return overlaps(irregular[k], nullptr); });
    if (__any_sync(kAllLanes, open_ && !all_)) search_cells(progress.levels_x, progress.levels_y);
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

  // Sets own to the column-th column of cells, counted through the levels; returns how many there are.
  __device__ int64_t find_column(unsigned long long bits, int64_t column, Axis& own) const {
    Axis axis = {spot_.extent.cx, spot_.extent.w};
    int64_t columns = 0;
    for (; bits != 0; bits &= bits - 1) {
      const int64_t cells = axis.enter(waves_.grid, __ffsll(static_cast<long long>(bits)) - 1);
      if (column >= columns && column < columns + cells) {
        own = axis;
        own.first += column - columns;
      }
      columns += cells;
    }
    return columns;
  }

  __device__ void search_cells(unsigned long long levels_x, unsigned long long levels_y) {
    const Grid& grid = waves_.grid;
    const uint64_t seed = waves_.by_class ? class_seed(class_id_) : 0;
    Axis own = {spot_.extent.cx, spot_.extent.w}, rows = {spot_.extent.cy, spot_.extent.h};
    const bool searches = open_ && !all_;
    const unsigned long long bits_x = searches ? own.levels(grid, levels_x) : 0;
    const unsigned long long bits_y = searches ? rows.levels(grid, levels_y) : 0;
    const int64_t most_cells = kFewCells + num_kept_ / 8;  // beyond that, meeting all is faster
    int64_t columns = find_column(bits_x, lane_, own), met = 0;
    all_ = all_ || columns > most_cells;
    for (int64_t base = 0; __any_sync(kAllLanes, open_ && !all_ && base < columns); base += kSearchLanes) {
      if (base > 0 && open_ && !all_) find_column(bits_x, base + lane_, own);
      const bool exists = base + lane_ < columns;
      unsigned long long bits = bits_y;
      int64_t left = 0;  // rows of this level
      while (__any_sync(kAllLanes, open_ && !all_ && (left > 0 || bits != 0))) {
        if (open_ && !all_ && left == 0 && bits != 0) {
          // First the level of its own, where what suppresses it is likeliest.
          const int like = spot_.level_y + kSideOffset;
          const int bit = (bits >> like & 1) != 0 ? like : __ffsll(static_cast<long long>(bits)) - 1;
          bits &= ~(1ull << bit);
          left = rows.enter(grid, bit);
          met += left * kSearchLanes;
          all_ = met > most_cells + kSearchLanes * kFewCells;
        }
        bool hit = false;
        if (open_ && !all_ && left > 0) {
          if (exists) {
            const uint32_t hash = Grid::hash(own.level, own.first, rows.level, rows.first, seed);
            for (uint32_t at = heads_[hash & waves_.bucket_mask]; at != 0 && !hit;) hit = overlaps(at - 1, &at);
          }
          ++rows.first;
          --left;
        }
        const unsigned hits = __ballot_sync(kAllLanes, hit) & group_;
        open_ = open_ && hits == 0;
      }
    }
  }

  const Waves<T>& waves_;
  const Entry<T>* kept_;
  const uint32_t* heads_;
  const Spot spot_;
  const Box<T> box_;
  const T area_, least_;
  const int64_t class_id_;
  const int num_kept_, lane_;
  const unsigned group_;
  bool open_, all_;
};

// Enters kept box `number` of the image, so that later launches find it. Adds its levels to those of a thread.
template <class T>
__device__ void enter(
    const Waves<T>& waves, int64_t image, uint32_t number, Entry<T> entry, unsigned long long* levels_x,
    unsigned long long* levels_y) {
  const Spot spot(entry.box, waves.grid);
  entry.tail.next = 0;
  if (spot.kind == Kind::kRegular) {
    const uint64_t seed = waves.by_class ? class_seed(entry.tail.class_id) : 0;
    const uint32_t hash = Grid::hash(
        spot.level_x, waves.grid.cell(spot.extent.cx, spot.level_x), spot.level_y,
        waves.grid.cell(spot.extent.cy, spot.level_y), seed);
    uint32_t* head = waves.heads + image * (waves.bucket_mask + int64_t{1}) + (hash & waves.bucket_mask);
    entry.tail.next = atomicExch(head, number + 1);
    *levels_x |= 1ull << (spot.level_x + kSideOffset);
    *levels_y |= 1ull << (spot.level_y + kSideOffset);
  } else if (spot.kind == Kind::kIrregular) {
    waves.irregular[image * waves.slots + atomicAdd(&waves.progress[image].irregular, 1)] = number;
  }
  store_entry(waves.kept + image * waves.slots + number, entry);
}

}  // namespace tinyssd
