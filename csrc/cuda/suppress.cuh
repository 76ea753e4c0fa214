// Greedy suppression on CUDA, shared by nms, batched_nms, nms_padded, multibox_detection and detect: what goes in, and
// what lies in device memory between the launches. Ranks are those of rank.h; equal scores keep the order of indices.
// Ranks are taken in waves. A wave is first met by the boxes that are kept already, which lie in a hashed grid
// (suppress_search.cuh): most of it ends there. The first of those left, up to the capacity of a wave, are then compared
// all with all and resolved in the order of rank (suppress_wave.cuh); the others wait for the next wave. Kept boxes are
// written in the order of rank and enter the grid. Images are taken side by side.
#pragma once

#include "../rank.h"
#include "suppress_grid.cuh"

namespace tinyssd {

// A rank key and, below it, the index of the candidate: unique, in the order of rank. Needs 64 or 96 bits.
template <class T>
using Standing = std::conditional_t<sizeof(T) == 4, unsigned long long, unsigned __int128>;
constexpr int kIndexBits = 32;

template <class T>
__device__ __forceinline__ Standing<T> standing(RankKey<T> key, int64_t candidate) {
  return static_cast<Standing<T>>(key) << kIndexBits | static_cast<uint32_t>(candidate);
}

// What is ranked and suppressed in each image of a batch.
template <class T>
struct Candidates {
  const Box<T>* boxes;               // [B, N / share]
  int64_t size;                      // N
  int64_t share;                     // so many candidates in a row share a box, and have a class each
  const RankKey<T>* keys = nullptr;  // [B, N]: rank_key of the score, or kNoCandidate
  const T* scores = nullptr;         // where there are no keys: [share, N / share] for each image
  int64_t scores_stride = 0;         // from one image's scores to the next one's
  const int64_t* classes = nullptr;  // [B, N]
  bool filtered = false;             // with scores: whether those below `least` are no candidates
  T least = 0;
  // The candidates once more, listed in any order: those of image b if list_sizes[b] is not above the capacity.
  const Standing<T>* list = nullptr;  // [B, list_capacity]
  const unsigned* list_sizes = nullptr;
  int64_t list_capacity = 0;

  __device__ RankKey<T> key(int64_t image, int64_t i) const {
    if (keys != nullptr) return keys[image * size + i];
    const int64_t at = share == 1 ? i : i % share * (size / share) + i / share;
    const T score = scores[image * scores_stride + at];
    return filtered && !(score >= least) ? kNoCandidate<T> : rank_key(score);
  }
  __device__ Box<T> box(int64_t image, int64_t i) const {
    return share == 1 ? load_box(boxes + image * size + i) : load_box(boxes + (image * size + i) / share);
  }
  __device__ __host__ bool has_classes() const { return classes != nullptr || share > 1; }
  __device__ int64_t class_id(int64_t image, int64_t i) const {
    return classes != nullptr ? classes[image * size + i] : share > 1 ? i % share : 0;
  }
};

// Sizes at which suppression changes its ways. No constants, so that the tests can make them small.
struct SuppressionSizes {
  int64_t one_image = 4096, few_images = 2048, many_images = 1024;  // the capacity of a wave
  int64_t waves = 128;              // launched for the whole batch; what is left is finished by a block an image
  int64_t batches = 2;              // likewise, where the best are chosen a batch at a time
  int64_t counted_pairs = 1 << 27;  // ranks are counted where comparing all with all takes no more comparisons
  int64_t counted_size = 8192;      // and no list is longer
  int64_t sorted_size = 8192;       // lists up to here are sorted by a block each, at most kSortThreads * kSortItems
  int64_t listed_share = 8, least_listed = 16384;  // a list holds this part of an image's candidates
};
extern const SuppressionSizes suppression_sizes;

// A survivor of a wave, or a kept box.
struct alignas(16) EntryTail {
  int64_t class_id;
  uint32_t candidate;
  uint32_t next;  // of the kept boxes in the same bucket: number + 1, or 0
};
template <class T>
struct alignas(16) Entry {
  Box<T> box;
  EntryTail tail;
};

// How far an image is.
struct Progress {
  int count;    // candidates that have a rank
  int next;     // the first rank that no wave has taken
  int waiting;  // survivors of the last wave, in the order of rank
  int current;  // so many of them, the first, are compared with each other
  int span;     // the next wave takes ranks until it has so many
  int list;     // which of the two lists of survivors is in use
  int kept, irregular;
  int done;
  unsigned long long levels_x, levels_y;  // of the kept regular boxes, as bits
};

// The arrays of a call. Ranks and lists are an image's own.
template <class T>
struct Waves {
  int64_t stride;        // N, or the size of a batch; of the arrays by rank
  int64_t alive_stride;  // the same, rounded up to 16
  int64_t capacity;      // of a wave, a multiple of 128
  int64_t slots;         // an image can keep so many: the smaller of N and `most`
  int64_t most;          // of which so many are wanted
  unsigned bucket_mask;
  Grid grid;
  T threshold;
  bool by_class;
  Progress* progress;   // [B]
  int* tickets;         // [B]: blocks of the launch that have met; 0 between launches
  uint32_t* order;      // [B, stride], by rank: the candidate
  uint8_t* alive;       // [B, alive_stride], by position in the wave: 1 if no kept box suppresses it
  uint32_t* lists[2];   // [B, stride]: ranks of survivors
  Entry<T>* current;    // [B, capacity]: those that are compared
  uint32_t* rivals;     // [B, capacity / 32, capacity]: bit k of (c, i): 32 * c + k ranks above i and overlaps it
  Entry<T>* kept;       // [B, slots], by rank; nullptr where one wave takes all
  uint32_t* heads;      // [B, bucket_mask + 1]: the first kept box of a bucket, number + 1, or 0
  uint32_t* irregular;  // [B, slots]: the numbers of kept irregular boxes
  Standing<T>* batch;   // [B, stride], unsorted; nullptr where all are sorted at once
  Standing<T>* floors;  // [B]: what stands before it has been in a batch
  int64_t* keep;        // [B, most]
  int64_t* counts;      // [B]
};

// Keeps the best of each image: of each row of keep the first `counts` are the kept candidates by falling score; the
// rest is not written. `like` is a tensor on the device. With a `list`, candidates are ranked a batch at a time, which is
// less work where few are wanted. No host sync, a number of launches that depends on the shapes alone.
template <class T>
void suppress(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, double iou_threshold,
    int64_t most, bool in_batches,
    int64_t* keep,     // [B, most]
    int64_t* counts);  // [B]

}  // namespace tinyssd
