// The launches of suppression: ranks, then waves, then a block an image for what the waves left.
#include "suppress_rank.cuh"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

#include <cstdlib>

namespace tinyssd {

#if defined(__CUDACC__)
const SuppressionSizes suppression_sizes;
#else
// tests/simt makes them so small that a few hundred boxes take every way.
const SuppressionSizes suppression_sizes = std::getenv("TINYSSD_OPS_SIMT_SMALL") == nullptr
                                               ? SuppressionSizes{}
                                               : SuppressionSizes{128, 128, 128, 3, 1, 1 << 14, 128, 300, 8, 20};
#endif

namespace {

constexpr int kFinishThreads = 512;  // more would not have the registers

template <class T>
union FinishShared {
  ListShared<kFinishThreads> list;
  RivalShared<T> rivals;
  ResolveShared resolve;
  ChooseShared<T, kFinishThreads> choose;
  Standing<T> batch[kFinishThreads];
};

// The next batch, ranked, by a block alone.
template <class T>
__device__ void rank_batch(const Candidates<T>& in, const Waves<T>& waves, int64_t image, FinishShared<T>& shared) {
  choose<kFinishThreads>(in, waves, image, kFinishThreads, shared.choose);
  __syncthreads();
  const int size = waves.progress[image].count, i = static_cast<int>(threadIdx.x);
  const Standing<T> own = i < size ? waves.batch[image * waves.stride + i] : 0;
  shared.batch[i] = own;
  __syncthreads();
  if (i < size) {
    const int rank = count_before<T>(shared.batch, 0, size, own);
    waves.order[image * waves.stride + rank] = static_cast<uint32_t>(own);
  }
  __syncthreads();
}

// Goes on until an image is done.
template <class T>
__global__ void __launch_bounds__(kFinishThreads, 1) finish_kernel(const Candidates<T> in, const Waves<T> waves) {
  auto& shared = shared_memory<FinishShared<T>>();
  const int64_t image = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  while (!waves.progress[image].done) {
    if (Span(waves.progress[image]).positions == 0) {
      rank_batch(in, waves, image, shared);
      if (waves.progress[image].done) return;  // there were no candidates left
    }
    const Span span(waves.progress[image]);
    meet(in, waves, waves.progress[image], span, image, thread / kSearchLanes, kFinishThreads / kSearchLanes);
    __syncthreads();
    const int limit = smaller(static_cast<int>(waves.capacity), kFinishThreads);
    list_survivors<kFinishThreads>(waves, span, image, limit, shared.list);
    __syncthreads();
    const int chunks = (waves.progress[image].current + kWarp - 1) / kWarp;
    compare(in, waves, waves.progress[image], image, false, 0, 0, chunks, shared.rivals);
    __syncthreads();
    resolve<kFinishThreads>(waves, image, false, shared.resolve);
    __syncthreads();
  }
}

// A device-wide algorithm of CUB is called twice, for the size of its memory and to run.
template <class T>
class DeviceSort {
 public:
  DeviceSort(const DeviceScope& scope, int64_t num_images, int64_t size)
      : stream_(scope.stream()), total_(num_images * size), images_(num_images) {
    expect(total_ < INT32_MAX, "expected fewer than 2**31 - 1 candidates in a batch, got ", total_);
  }

  void add_to(Scratch& scratch) {
    keys_in_ = scratch.add<RankKey<T>>(total_);
    keys_ = scratch.add<RankKey<T>>(total_);
    candidates_ = scratch.add<uint32_t>(total_);
    offsets_ = scratch.add<int>(images_ + 1);
    size_t bytes = 0;
    check_cuda(sort(scratch, nullptr, bytes, nullptr));
    bytes_ = static_cast<int64_t>(bytes);
    memory_ = scratch.add<unsigned char>(bytes_);
  }

  void run(const DeviceScope& scope, const Scratch& scratch, const Candidates<T>& in, const Waves<T>& waves) const {
    scope.launch(
        list_kernel<T>, ceil_div(total_, kListThreads), kListThreads, 0, in, waves, total_, scratch.get(keys_in_),
        scratch.get(candidates_), scratch.get(offsets_));
    auto bytes = static_cast<size_t>(bytes_);
    check_cuda(sort(scratch, scratch.get(memory_), bytes, waves.order));
  }

 private:
  cudaError_t sort(const Scratch& scratch, void* memory, size_t& bytes, uint32_t* order) const {
    constexpr int kBits = 8 * sizeof(RankKey<T>);
    const int count = static_cast<int>(total_), segments = static_cast<int>(images_);
    const int* begins = scratch.get(offsets_);
    const int* ends = begins == nullptr ? nullptr : begins + 1;
    return segments == 1 ? cub::DeviceRadixSort::SortPairs(
                               memory, bytes, scratch.get(keys_in_), scratch.get(keys_), scratch.get(candidates_),
                               order, count, 0, kBits, stream_)
                         : cub::DeviceSegmentedRadixSort::SortPairs(
                               memory, bytes, scratch.get(keys_in_), scratch.get(keys_), scratch.get(candidates_),
                               order, count, segments, begins, ends, 0, kBits, stream_);
  }

  cudaStream_t stream_;
  int64_t total_, images_, bytes_ = 0;
  Scratch::Array<RankKey<T>> keys_in_{}, keys_{};
  Scratch::Array<uint32_t> candidates_{};
  Scratch::Array<int> offsets_{};
  Scratch::Array<unsigned char> memory_{};
};

// What is launched for these shapes.
struct Plan {
  int64_t num_images, size, most;
  bool in_batches;
  int64_t capacity, stride, waves;  // waves: or batches

  Plan(int64_t num_images, int64_t size, int64_t most, bool in_batches)
      : num_images(num_images), size(size), most(most), in_batches(in_batches) {
    constexpr int64_t kFewImages = 8;
    const SuppressionSizes& sizes = suppression_sizes;
    const int64_t whole = ceil_div(size, kRivalThreads) * kRivalThreads;
    const int64_t wanted = in_batches || num_images > kFewImages ? sizes.many_images
                           : num_images > 1                      ? sizes.few_images
                                                                 : sizes.one_image;
    capacity = smaller(whole, wanted);
    stride = in_batches ? smaller(capacity, size) : size;
    // What finish_kernel takes at once needs no wave of its own, which most inputs would leave idle.
    const int64_t left = size - smaller<int64_t>(capacity, kFinishThreads);
    waves = in_batches ? sizes.batches : smaller(ceil_div(larger<int64_t>(left, 1), capacity), sizes.waves);
  }
  // Whether the first wave takes all.
  bool at_once() const { return !in_batches && size <= capacity; }
  bool counts() const {
    const SuppressionSizes& sizes = suppression_sizes;
    return in_batches || (size <= sizes.counted_size && num_images * size * size <= sizes.counted_pairs);
  }
};

template <class T>
void launch_waves(
    const DeviceScope& scope, const Candidates<T>& in, const Waves<T>& waves, const Plan& plan,
    int64_t blocks_to_count) {
  constexpr int64_t kBlocksAtOnce = 2112;  // more than a GPU runs at a time
  constexpr int64_t kBoxes = kMeetThreads / kSearchLanes;
  const int64_t tiles = plan.capacity / kWarp * (plan.capacity / kRivalThreads);
  for (int64_t wave = 0; wave < plan.waves; ++wave) {
    const bool first = wave == 0;
    if (plan.in_batches) {
      scope.launch(choose_kernel<T>, plan.num_images, kImageThreads, sizeof(ChooseShared<T, kImageThreads>), in, waves);
      scope.launch(
          count_kernel<T>, plan.num_images * blocks_to_count, kCountThreads, sizeof(CountShared<T>), in, waves,
          blocks_to_count);
    }
    if (!first) {
      const int64_t most = smaller(plan.stride, plan.capacity << smaller(wave, int64_t{32}));
      const int64_t blocks = smaller(ceil_div(most, kBoxes), ceil_div(kBlocksAtOnce, plan.num_images));
      scope.launch(
          meet_kernel<T>, plan.num_images * blocks, kMeetThreads, sizeof(ListShared<kMeetThreads>), in, waves, blocks);
    }
    scope.launch(rivals_kernel<T>, plan.num_images * tiles, kRivalThreads, sizeof(RivalShared<T>), in, waves, first);
    scope.launch(resolve_kernel<T>, plan.num_images, kImageThreads, sizeof(ResolveShared), waves, first);
  }
  if (!plan.at_once()) {
    scope.launch(finish_kernel<T>, plan.num_images, kFinishThreads, sizeof(FinishShared<T>), in, waves);
  }
}

}  // namespace

template <class T>
void suppress(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, double iou_threshold,
    int64_t most, bool in_batches, int64_t* keep, int64_t* counts) {
  if (num_images == 0) return;
  if (in.size == 0 || most == 0) {
    scope.fill_bytes(counts, 0, num_images * sizeof(int64_t));
    return;
  }
  const Plan plan(num_images, in.size, most, in_batches);
  const bool counts_ranks = plan.counts();
  const bool sorts_in_blocks = kBlockSorts<T> && !counts_ranks &&
                               in.size <= smaller<int64_t>(suppression_sizes.sorted_size, kSortThreads * kSortItems);
  const bool at_once = plan.at_once();
  const int64_t slots = at_once ? 0 : smaller(most, in.size);
  constexpr int64_t kMostBuckets = int64_t{1} << 20;
  int64_t buckets = at_once ? 0 : 256;
  while (buckets < 2 * slots && buckets < kMostBuckets) buckets *= 2;
  const int64_t flags = (plan.stride + kFlags - 1) / kFlags * kFlags;

  Scratch scratch;
  DeviceSort<T> sort(scope, counts_ranks || sorts_in_blocks ? 0 : num_images, in.size);
  // What begins as 0: the heads, then progress, floors and tickets, cleared together.
  const int64_t progress_at = num_images * buckets * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t floors_at = progress_at + ceil_div(num_images * sizeof(Progress), 16) * 16;
  const int64_t tickets_at = floors_at + num_images * static_cast<int64_t>(sizeof(Standing<T>));
  const int64_t clear_bytes = tickets_at + num_images * static_cast<int64_t>(sizeof(int));
  const auto cleared = scratch.add<unsigned char>(clear_bytes);
  const auto order = scratch.add<uint32_t>(num_images * plan.stride);
  const auto alive = scratch.add<uint8_t>(at_once ? 0 : num_images * flags);
  const auto list = scratch.add<uint32_t>(at_once ? 0 : num_images * plan.stride);
  const auto other_list = scratch.add<uint32_t>(at_once ? 0 : num_images * plan.stride);
  const auto current = scratch.add<Entry<T>>(num_images * plan.capacity);
  const auto rivals = scratch.add<uint32_t>(num_images * plan.capacity / kWarp * plan.capacity);
  const auto kept = scratch.add<Entry<T>>(num_images * slots);
  const auto irregular = scratch.add<uint32_t>(num_images * slots);
  const auto batch = scratch.add<Standing<T>>(in_batches ? num_images * plan.stride : 0);
  if (!counts_ranks && !sorts_in_blocks) sort.add_to(scratch);
  scratch.allocate(like);

  unsigned char* zeros = scratch.get(cleared);
  const Waves<T> waves = {
      plan.stride,
      flags,
      plan.capacity,
      slots,
      most,
      static_cast<unsigned>(buckets - 1),
      Grid(iou_threshold),
      static_cast<T>(iou_threshold),
      in.has_classes(),
      reinterpret_cast<Progress*>(zeros + progress_at),
      reinterpret_cast<int*>(zeros + tickets_at),
      scratch.get(order),
      scratch.get(alive),
      {scratch.get(list), scratch.get(other_list)},
      scratch.get(current),
      scratch.get(rivals),
      at_once ? nullptr : scratch.get(kept),
      reinterpret_cast<uint32_t*>(zeros),
      scratch.get(irregular),
      in_batches ? scratch.get(batch) : nullptr,
      reinterpret_cast<Standing<T>*>(zeros + floors_at),
      keep,
      counts};
  // A call that is one wave of counted ranks needs no zeros.
  if (!at_once || !counts_ranks) scope.fill_bytes(zeros, 0, clear_bytes);
  const int64_t blocks_to_count = ceil_div(plan.stride, kWarp);
  if (!in_batches && counts_ranks) {
    scope.launch(
        count_kernel<T>, num_images * blocks_to_count, kCountThreads, sizeof(CountShared<T>), in, waves,
        blocks_to_count);
  } else if (sorts_in_blocks) {
    if constexpr (kBlockSorts<T>) {
      scope.launch(sort_kernel<T>, num_images, kSortThreads, sizeof(typename BlockSort<T>::TempStorage), in, waves);
    }
  } else if (!in_batches) {
    sort.run(scope, scratch, in, waves);
  }
  launch_waves(scope, in, waves, plan, blocks_to_count);
}

template void suppress(
    const DeviceScope&, const Tensor&, const Candidates<float>&, int64_t, double, int64_t, bool, int64_t*, int64_t*);
template void suppress(
    const DeviceScope&, const Tensor&, const Candidates<double>&, int64_t, double, int64_t, bool, int64_t*, int64_t*);

}  // namespace tinyssd
