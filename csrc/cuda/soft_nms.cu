// soft_nms on CUDA: one launch, a block an image. Thread t owns the candidates t, t + kThreads, ...; for each kept box it
// lets their scores decay and notes the best of them, and the block takes the best of all. So the depth grows with the
// number of boxes kept, and an image keeps its multiprocessor busy alone.
#include "../rank.h"
#include "../soft_nms.h"
#include "suppress.cuh"

namespace tinyssd {
namespace {

constexpr int kThreads = 512;

template <class T>
struct SoftShared {
  Standing<T> best[kThreads];
};

// The scores of one image as they decay, and which boxes are out: kept, or below the least score.
template <class T>
struct SoftScores {
  T* scores;     // [N]
  uint8_t* out;  // [N]
  bool filtered;
  T least;

  // Takes a new score; what stands for it among the others.
  __device__ Standing<T> set(int64_t i, T score) {
    scores[i] = score;
    const bool is_out = filtered && !(score >= least);
    out[i] = is_out;
    return standing<T>(is_out ? kNoCandidate<T> : rank_key(score), i);
  }
};

template <class T>
__device__ Standing<T> best_of_block(SoftShared<T>& shared, Standing<T> own) {
  shared.best[threadIdx.x] = own;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      const Standing<T> other = shared.best[threadIdx.x + half];
      if (other < shared.best[threadIdx.x]) shared.best[threadIdx.x] = other;
    }
  }
  __syncthreads();
  const Standing<T> best = shared.best[0];
  __syncthreads();  // before the next round writes
  return best;
}

template <class T>
__global__ void __launch_bounds__(kThreads) soft_nms_kernel(
    const Box<T>* __restrict__ boxes,     // [B, N]
    const T* __restrict__ scores,         // [B, N]
    const int64_t* __restrict__ classes,  // [B, N] or nullptr
    int64_t size, int64_t most, const Decay<T> decay, bool filtered, T least,
    T* __restrict__ current,         // [B, N]
    uint8_t* __restrict__ out,       // [B, N]
    int64_t* __restrict__ keep,      // [B, K]
    T* __restrict__ kept_scores,     // [B, K]
    int64_t* __restrict__ counts) {  // [B]
  SoftShared<T>& shared = shared_memory<SoftShared<T>>();
  const int64_t image = blockIdx.x, first = image * size;
  const Standing<T> none = standing<T>(kNoCandidate<T>, 0);
  SoftScores<T> left = {current + first, out + first, filtered, least};
  Standing<T> own = none;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) own = smaller(own, left.set(i, scores[first + i]));
  int64_t kept = 0;
  for (; kept < most; ++kept) {
    const Standing<T> best = best_of_block(shared, own);
    if (best >= none) break;
    const auto chosen = static_cast<int64_t>(static_cast<uint32_t>(best));
    const Box<T> box = load_box(boxes + first + chosen);
    const T box_area = area(box);
    own = none;
    for (int64_t i = threadIdx.x; i < size; i += kThreads) {
      if (i == chosen) {
        keep[image * most + kept] = chosen;
        kept_scores[image * most + kept] = left.scores[i];
        left.out[i] = 1;
      }
      if (left.out[i] != 0) continue;
      T score = left.scores[i];
      if (classes == nullptr || classes[first + i] == classes[first + chosen]) {
        const Box<T> other = load_box(boxes + first + i);
        score = decay(score, iou(box, box_area, other, area(other)));
      }
      own = smaller(own, left.set(i, score));
    }
  }
  for (int64_t i = kept + threadIdx.x; i < most; i += kThreads) {
    keep[image * most + i] = -1;
    kept_scores[image * most + i] = 0;
  }
  if (threadIdx.x == 0) counts[image] = kept;
}

std::tuple<Tensor, Tensor, Tensor> soft_nms(
    const Tensor& boxes, const Tensor& scores, bool gaussian, double iou_threshold, double sigma,
    const std::optional<Tensor>& class_ids, std::optional<double> score_threshold, std::optional<int64_t> max_output) {
  const ScalarType dtype = check_soft_nms(boxes, scores, iou_threshold, sigma, class_ids, score_threshold, max_output);
  const DeviceScope scope(boxes);
  const int64_t num_images = boxes.size(0), size = boxes.size(1), most = max_output.value_or(size);
  const Tensor b = boxes_as(boxes, dtype), s = contiguous_as(scores, dtype);
  const std::optional<Tensor> ids = contiguous_as(class_ids, ScalarType::Long);
  const Tensor keep = new_tensor(b, {num_images, most}, ScalarType::Long);
  const Tensor kept_scores = new_tensor(b, {num_images, most}, dtype);
  const Tensor counts = new_tensor(b, {num_images}, ScalarType::Long);
  if (num_images == 0) return {keep, kept_scores, counts};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    Scratch scratch;
    const auto current = scratch.add<T>(num_images * size);
    const auto out = scratch.add<uint8_t>(num_images * size);
    scratch.allocate(b);
    const Decay<T> decay = {gaussian, static_cast<T>(iou_threshold), static_cast<T>(sigma)};
    scope.launch(
        soft_nms_kernel<T>, num_images, dim3(kThreads), sizeof(SoftShared<T>), box_data<T>(b), s.const_data_ptr<T>(),
        ids ? ids->const_data_ptr<int64_t>() : nullptr, size, most, decay, score_threshold.has_value(),
        static_cast<T>(score_threshold.value_or(0)), scratch.get(current), scratch.get(out),
        keep.mutable_data_ptr<int64_t>(), kept_scores.mutable_data_ptr<T>(), counts.mutable_data_ptr<int64_t>());
  });
  return {keep, kept_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace tinyssd
