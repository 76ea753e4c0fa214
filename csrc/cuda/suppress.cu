// The choice between one launch in shared memory and many in global memory.
#include "suppress_large.cuh"
#include "suppress_small.cuh"

namespace tinyssd {

template <class T>
void suppress(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, double iou_threshold,
    int64_t most, int64_t* keep, int64_t* counts) {
  if (num_images == 0) return;
  if (in.size == 0) {
    scope.fill_bytes(keep, -1, num_images * most * sizeof(int64_t));
    scope.fill_bytes(counts, 0, num_images * sizeof(int64_t));
    return;
  }
  const auto threshold = static_cast<T>(iou_threshold);
  const int64_t limit = scope.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (suppress_small<T, 256, 1>(scope, in, num_images, threshold, most, keep, counts, limit)) return;
  if (suppress_small<T, 512, 2>(scope, in, num_images, threshold, most, keep, counts, limit)) return;
  if (suppress_small<T, 512, 8>(scope, in, num_images, threshold, most, keep, counts, limit)) return;
  if constexpr (sizeof(T) == 4) {
    // Beyond about 4,096 candidates one multiprocessor an image takes too long, but few of a detector's are candidates.
    const bool few = in.keys != nullptr || in.filtered;
    if (few && suppress_small<T, 512, 16>(scope, in, num_images, threshold, most, keep, counts, limit)) return;
  }
  suppress_large(scope, like, in, num_images, threshold, most, keep, counts);
}

template void suppress(
    const DeviceScope&, const Tensor&, const Candidates<float>&, int64_t, double, int64_t, int64_t*, int64_t*);
template void suppress(
    const DeviceScope&, const Tensor&, const Candidates<double>&, int64_t, double, int64_t, int64_t*, int64_t*);

}  // namespace tinyssd
