// The launches of a wave. meet_kernel: eight lanes own a candidate and look for a kept box that suppresses it; the last
// block of an image lists those that are left. rivals_kernel: a thread owns one of these and compares it with 32 that
// rank above it, as bits. resolve_kernel: a block owns an image and goes through its survivors by rank, 32 at a time.
// The first wave has met nobody: its survivors are the first ranks. Each part is also a function of a block that owns an
// image alone, for the launch that finishes what the waves left (suppress.cu).
#pragma once

#include "suppress_search.cuh"

#include <cub/block/block_scan.cuh>

namespace tinyssd {

constexpr int kMeetThreads = 256, kRivalThreads = 128, kImageThreads = 1024;
constexpr int kFlags = 16;  // that a thread loads at once

// How many candidates the next wave has; those before `carried` have waited.
struct Span {
  int carried, positions;
  __device__ explicit Span(const Progress& progress)
      : carried(progress.waiting - progress.current),
        positions(carried + smaller(progress.count - progress.next, larger(progress.span - carried, 0))) {}
};

template <class T>
__device__ __forceinline__ uint32_t
rank_at(const Waves<T>& waves, const Progress& progress, const Span& span, int64_t image, int position) {
  if (position >= span.carried) return static_cast<uint32_t>(progress.next + position - span.carried);
  return waves.lists[progress.list][image * waves.stride + progress.current + position];
}

// Flags the candidates of the wave from `first` on, one in `step`, that no kept box suppresses. Warps stay together.
template <class T>
__device__ void meet(
    const Candidates<T>& in, const Waves<T>& waves, const Progress& progress, const Span& span, int64_t image,
    int first, int step) {
  const uint32_t* irregular = waves.irregular + image * waves.slots;
  for (int position = first; __any_sync(kAllLanes, position < span.positions); position += step) {
    const bool active = position < span.positions;
    Box<T> box = {0, 0, 0, 0};
    int64_t class_id = 0;
    if (active) {
      const uint32_t candidate = waves.order[image * waves.stride + rank_at(waves, progress, span, image, position)];
      box = in.box(image, candidate);
      if (waves.by_class) class_id = in.class_id(image, candidate);
    }
    Search<T> search(waves, progress, image, box, class_id, active);
    const bool gone = search.suppressed(irregular, progress);
    if (active && threadIdx.x % kSearchLanes == 0) waves.alive[image * waves.alive_stride + position] = !gone;
  }
}

template <int kThreads>
struct ListShared {
  using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  typename Scan::TempStorage scan;
  int last;
};

// Lists the flagged candidates of the wave by rank, and lets the first `limit` go on. For a block.
template <int kThreads, class T>
__device__ void list_survivors(
    const Waves<T>& waves, const Span& span, int64_t image, int limit, ListShared<kThreads>& shared) {
  Progress& progress = waves.progress[image];
  const Progress before = progress;
  uint32_t* list = waves.lists[1 - before.list] + image * waves.stride;
  const uint8_t* alive = waves.alive + image * waves.alive_stride;
  int listed = 0;
  for (int base = 0; base < span.positions; base += kThreads * kFlags) {
    const int position = base + static_cast<int>(threadIdx.x) * kFlags;
    Pack<uint8_t, kFlags> flags = {};
    if (position < span.positions) flags = *reinterpret_cast<const Pack<uint8_t, kFlags>*>(alive + position);
    unsigned bits = 0;
    TINYSSD_UNROLL
    for (int i = 0; i < kFlags; ++i)
      bits |= static_cast<unsigned>(flags.values[i] & (position + i < span.positions)) << i;
    int offset, all;
    __syncthreads();
    typename ListShared<kThreads>::Scan(shared.scan).ExclusiveSum(__popc(bits), offset, all);
    for (offset += listed; bits != 0; bits &= bits - 1, ++offset) {
      list[offset] = rank_at(waves, before, span, image, position + __ffs(static_cast<int>(bits)) - 1);
    }
    listed += all;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  progress.next = before.next + span.positions - span.carried;
  progress.list = 1 - before.list;
  progress.waiting = listed;
  progress.current = smaller(listed, limit);
  // Wider and wider waves, until their survivors do not fit.
  progress.span = listed > 2 * limit ? larger(before.span / 2, limit) : listed > limit ? before.span : 2 * before.span;
}

template <class T>
__global__ void __launch_bounds__(kMeetThreads, 3)  // left alone, ptxas aims at four blocks and spills
    meet_kernel(const Candidates<T> in, const Waves<T> waves, int blocks_an_image) {
  auto& shared = shared_memory<ListShared<kMeetThreads>>();
  const int64_t image = blockIdx.x / blocks_an_image;
  const int block = static_cast<int>(blockIdx.x % blocks_an_image);
  const Progress progress = waves.progress[image];
  if (progress.done) return;
  const Span span(progress);
  constexpr int kBoxes = kMeetThreads / kSearchLanes;
  meet(
      in, waves, progress, span, image, block * kBoxes + static_cast<int>(threadIdx.x) / kSearchLanes,
      blocks_an_image * kBoxes);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // behind the barrier, so that it covers what the whole block wrote
    shared.last = atomicAdd(&waves.tickets[image], 1) == blocks_an_image - 1;
    if (shared.last) waves.tickets[image] = 0;
    __threadfence();
  }
  __syncthreads();
  if (!shared.last) return;
  list_survivors<kMeetThreads>(waves, span, image, static_cast<int>(waves.capacity), shared);
}

// -- Who overlaps whom

template <class T>
struct RivalShared {
  Box<T> boxes[kWarp];
  T areas[kWarp];
  int64_t classes[kWarp];
};

// How many survivors are compared in this wave. The first wave takes the first ranks.
template <class T>
__device__ __forceinline__ int num_current(const Waves<T>& waves, const Progress& progress, bool first_wave) {
  return first_wave ? smaller(progress.count, static_cast<int>(waves.capacity)) : progress.current;
}

template <class T>
__device__ Entry<T> survivor(
    const Candidates<T>& in, const Waves<T>& waves, const Progress& progress, int64_t image, bool first_wave, int i) {
  const int64_t rank = first_wave ? i : waves.lists[progress.list][image * waves.stride + i];
  const uint32_t candidate = waves.order[image * waves.stride + rank];
  return {in.box(image, candidate), {waves.by_class ? in.class_id(image, candidate) : 0, candidate, 0}};
}

// Compares survivors, a thread each from `first` on, with those of `chunk` and of every later one before `end`. For a block.
template <class T>
__device__ void compare(
    const Candidates<T>& in, const Waves<T>& waves, const Progress& progress, int64_t image, bool first_wave, int first,
    int chunk, int end, RivalShared<T>& shared) {
  const int size = num_current(waves, progress, first_wave);
  const int i = first + static_cast<int>(threadIdx.x);
  Entry<T> own = {};
  if (i < size) own = survivor(in, waves, progress, image, first_wave, i);
  if (i < size && chunk == 0) store_entry(waves.current + image * waves.capacity + i, own);
  const T own_area = area(own.box), least = static_cast<T>(waves.threshold * (1 - kIouMargin));
  uint32_t* rivals = waves.rivals + image * (waves.capacity / kWarp) * waves.capacity;
  for (; chunk < end; ++chunk) {
    __syncthreads();
    const int k = chunk * kWarp + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kWarp) {
      const Entry<T> rival = k < size ? survivor(in, waves, progress, image, first_wave, k) : Entry<T>{};
      shared.boxes[threadIdx.x] = rival.box;
      shared.areas[threadIdx.x] = area(rival.box);
      shared.classes[threadIdx.x] = rival.tail.class_id;
    }
    __syncthreads();
    const int above = i - chunk * kWarp;  // so many of the chunk rank above it
    if (i >= size || above < 0) continue;
    uint32_t bits = 0;
    TINYSSD_UNROLL
    for (int bit = 0; bit < kWarp; ++bit) {
      const bool over =
          overlaps_more(shared.boxes[bit], shared.areas[bit], own.box, own_area, least, waves.threshold) &&
          (!waves.by_class || shared.classes[bit] == own.tail.class_id);
      bits |= static_cast<uint32_t>(over) << bit;
    }
    rivals[chunk * waves.capacity + i] = above < kWarp ? bits & ((1u << above) - 1) : bits;
  }
}

template <class T>
__global__ void __launch_bounds__(kRivalThreads)
    rivals_kernel(const Candidates<T> in, const Waves<T> waves, bool first_wave) {
  auto& shared = shared_memory<RivalShared<T>>();
  const int chunks = static_cast<int>(waves.capacity / kWarp);
  const int tiles = chunks * static_cast<int>(waves.capacity / kRivalThreads);
  const int64_t image = blockIdx.x / tiles;
  const int tile = static_cast<int>(blockIdx.x % tiles);
  const int first = tile / chunks * kRivalThreads, chunk = tile % chunks;
  if (chunk * kWarp >= first + kRivalThreads) return;
  const Progress progress = waves.progress[image];
  if ((!first_wave && progress.done) || first >= num_current(waves, progress, first_wave)) return;
  compare(in, waves, progress, image, first_wave, first, chunk, chunk + 1, shared);
}

// -- Who is kept

constexpr int kMostCapacity = 4096;

struct ResolveShared {
  unsigned long long levels_x, levels_y;
  uint32_t kept[kMostCapacity / kWarp];   // survivors, as bits
  int before[kMostCapacity / kWarp + 1];  // how many are kept before those of a word
};

// Those of the lanes `open` that are kept: rivals are the bits of lanes before. A round for each link of the longest
// chain of overlaps.
__device__ __forceinline__ uint32_t resolve_warp(uint32_t open, uint32_t rivals) {
  const uint32_t own = 1u << (threadIdx.x % kWarp);
  uint32_t kept = 0;
  for (;;) {
    const uint32_t waiting = __ballot_sync(kAllLanes, (open & own) != 0 && (rivals & open) != 0);
    const uint32_t safe = open & ~waiting;
    kept |= safe;
    if (waiting == 0) return kept;
    open = __ballot_sync(kAllLanes, (waiting & own) != 0 && (rivals & safe) == 0);
  }
}

// Sets shared.kept and shared.before, chunk by chunk until `most` are kept. Returns how many words that are.
template <int kThreads, class T>
__device__ int resolve_words(const Waves<T>& waves, int64_t image, int size, ResolveShared& shared) {
  constexpr int kChunks = kThreads / kWarp;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  for (int base = 0; base < size; base += kThreads) {
    // Loads without conditions, all under way together: threads beyond the end load what the last one does.
    const int i = smaller(base + thread, size - 1), chunks = base / kWarp, own = i / kWarp - chunks;
    const uint32_t* rivals = waves.rivals + image * (waves.capacity / kWarp) * waves.capacity + i;
    uint32_t words[kChunks];  // one for each chunk of these threads
    TINYSSD_UNROLL
    for (int c = 0; c < kChunks; ++c) words[c] = rivals[(chunks + smaller(c, own)) * waves.capacity];
    bool gone = base + thread >= size;
    for (int before = 0; before < chunks; before += kChunks) {
      uint32_t hits = 0;
      TINYSSD_UNROLL
      for (int c = 0; c < kChunks; ++c) hits |= rivals[(before + c) * waves.capacity] & shared.kept[before + c];
      gone = gone || hits != 0;
    }
    TINYSSD_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      const int word = chunks + c;
      if (word * kWarp >= size) break;
      if (warp == c) {
        const uint32_t kept = resolve_warp(__ballot_sync(kAllLanes, !gone), words[c]);
        if (thread % kWarp == 0) {
          shared.kept[word] = kept;
          shared.before[word + 1] = shared.before[word] + __popc(kept);
        }
      }
      __syncthreads();
      if (shared.before[word + 1] >= waves.most) return word + 1;
      gone = gone || (words[c] & shared.kept[word]) != 0;  // once decided, a lane has no use for it
    }
  }
  return static_cast<int>(ceil_div(size, kWarp));
}

// Decides a wave and writes what it keeps. For a block.
template <int kThreads, class T>
__device__ void resolve(const Waves<T>& waves, int64_t image, bool first_wave, ResolveShared& shared) {
  Progress& progress = waves.progress[image];
  const int size = num_current(waves, progress, first_wave);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (threadIdx.x == 0) {
    shared.levels_x = shared.levels_y = 0;
    shared.before[0] = first_wave ? 0 : progress.kept;
  }
  __syncthreads();
  const int num_words = resolve_words<kThreads>(waves, image, size, shared);
  unsigned long long levels_x = 0, levels_y = 0;
  for (int i = static_cast<int>(threadIdx.x); i / kWarp < num_words; i += kThreads) {
    const uint32_t word = shared.kept[i / kWarp];
    if ((word >> lane & 1) == 0) continue;
    const int number = shared.before[i / kWarp] + __popc(word & ((1u << lane) - 1));
    if (number >= waves.most) continue;
    const Entry<T> entry = load_entry(waves.current + image * waves.capacity + i);
    waves.keep[image * waves.most + number] = entry.tail.candidate;
    if (waves.kept != nullptr) enter(waves, image, static_cast<uint32_t>(number), entry, &levels_x, &levels_y);
  }
  if (levels_x != 0) {
    atomicOr(&shared.levels_x, levels_x);
    atomicOr(&shared.levels_y, levels_y);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int kept = static_cast<int>(smaller<int64_t>(shared.before[num_words], waves.most));
  waves.counts[image] = kept;
  progress.kept = kept;
  if (first_wave) {
    progress.next = progress.waiting = progress.current = size;
    progress.span = 2 * static_cast<int>(waves.capacity);
  }
  if (waves.kept != nullptr) {
    progress.levels_x |= shared.levels_x;
    progress.levels_y |= shared.levels_y;
  }
  const bool left = progress.waiting > progress.current || progress.next < progress.count;
  progress.done = kept >= waves.most || (!left && waves.batch == nullptr);
}

template <class T>
__global__ void __launch_bounds__(kImageThreads, 1) resolve_kernel(const Waves<T> waves, bool first_wave) {
  auto& shared = shared_memory<ResolveShared>();
  if (!first_wave && waves.progress[blockIdx.x].done) return;
  resolve<kImageThreads>(waves, blockIdx.x, first_wave, shared);
}

}  // namespace tinyssd
