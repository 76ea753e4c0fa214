// assign_task_aligned on CUDA: a block for each box finds its k-th point; a thread for each point finds its box among
// those that chose it, and raises that box's largest alignment and IoU; a last pass scales the targets by them.
#include "assigners.cuh"

namespace tinyssd {
namespace {

template <class T>
struct Predictions {
  PredictionView<T> view;
  const T* points;        // [A, 2]
  const int64_t* labels;  // [B, G]
  Alignment alignment;

  // The alignment of a point with a box, or 0: only one above 0 counts.
  __device__ T align(int64_t image, int anchor, const Box<T>& box, int64_t label, T iou) const {
    if (!view.knows(label) || !contains(box, points[2 * int64_t{anchor}], points[2 * int64_t{anchor} + 1])) return 0;
    const T value = alignment(view.scores_of(image, anchor)[label], iou);
    return value > T(0) ? value : T(0);
  }
};

template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) last_choice_kernel(
    const GtView<T> gts, const Predictions<T> predictions, int topk,
    Candidate<T>* __restrict__ last) {  // [B, G], its value the negative alignment
  auto& lists = shared_memory<Lists<T, kWarps>>();
  const int64_t i = blockIdx.x, image = i / gts.count;
  if (!gts.is_valid(i) || gts.is_ignored(i)) return;
  const Box<T> box = load_box(gts.boxes + i);
  const T box_area = area(box);
  const int64_t label = predictions.labels[i], num_anchors = predictions.view.num_anchors;
  select(lists, topk, 0, static_cast<int>(num_anchors), [&](int anchor) -> Candidate<T> {
    const T* point = predictions.points + 2 * int64_t{anchor};
    if (!contains(box, point[0], point[1])) return no_candidate<T>();
    const Box<T> own = load_box(predictions.view.boxes + image * num_anchors + anchor);
    const T value = predictions.align(image, anchor, box, label, iou(own, area(own), box, box_area));
    return value > T(0) ? Candidate<T>{-value, anchor} : no_candidate<T>();
  });
  if (threadIdx.x == 0) last[i] = lists.of[0][topk - 1];
}

// No alignment and no IoU is negative, so their bits order like them.
__device__ __forceinline__ void raise(float* address, float value) {
  int bits;
  memcpy(&bits, &value, sizeof(bits));
  atomicMax(reinterpret_cast<int*>(address), bits);
}
__device__ __forceinline__ void raise(double* address, double value) {
  long long bits;
  memcpy(&bits, &value, sizeof(bits));
  atomicMax(reinterpret_cast<long long*>(address), bits);
}

template <class T>
struct AlignedRule {
  struct Asked {
    Candidate<T> last;
    int64_t label;
  };
  struct Anchor {
    Box<T> box;
    T area;
    int64_t image;
    int index, best_box;
    T best, alignment;
  };

  Predictions<T> predictions;
  int64_t num_gt;
  const Candidate<T>* last;            // [B, G]
  T *largest_alignment, *largest_iou;  // [B, G]
  int64_t* assigned;                   // [B, A]
  T* targets;                          // [B, A]

  __device__ Asked asked(int64_t i) const { return {last[i], predictions.labels[i]}; }
  __device__ Anchor anchor(int64_t image, int index) const {
    const Box<T> own = load_box(predictions.view.boxes + image * predictions.view.num_anchors + index);
    return {own, area(own), image, index, -1, -1, 0};
  }
  template <class Met>
  __device__ void meet(Anchor& own, const Met& met, int g) const {
    const T* point = predictions.points + 2 * int64_t{own.index};
    if (!contains(met.box, point[0], point[1])) return;
    const T value = iou(own.box, own.area, met.box, met.area);
    if (!(value > own.best)) return;
    const T alignment = predictions.align(own.image, own.index, met.box, met.asked.label, value);
    if (!(alignment > T(0)) || met.asked.last.before(Candidate<T>{-alignment, own.index})) return;
    own.best = value;
    own.alignment = alignment;
    own.best_box = g;
  }
  __device__ void write(const Anchor& own, int64_t image, int anchor, bool crowd) const {
    const int64_t slot = image * predictions.view.num_anchors + anchor;
    const bool matched = own.best_box >= 0 && !crowd;
    assigned[slot] = crowd ? kIgnored : own.best_box;
    targets[slot] = matched ? own.alignment : T(0);
    if (!matched) return;
    raise(largest_alignment + image * num_gt + own.best_box, own.alignment);
    raise(largest_iou + image * num_gt + own.best_box, own.best);
  }
};

template <class T>
__global__ void __launch_bounds__(kResolveThreads) scale_targets_kernel(
    int64_t size, int64_t num_anchors, int64_t num_gt,
    const int64_t* __restrict__ assigned,     // [B, A]
    const T* __restrict__ largest_alignment,  // [B, G]
    const T* __restrict__ largest_iou,        // [B, G]
    T* __restrict__ targets) {                // [B, A], alignments before
  const int64_t slot = blockIdx.x * int64_t{kResolveThreads} + threadIdx.x;
  if (slot >= size || assigned[slot] < 0) return;
  const int64_t i = slot / num_anchors * num_gt + assigned[slot];
  targets[slot] = targets[slot] * largest_iou[i] / largest_alignment[i];
}

std::tuple<Tensor, Tensor> assign_task_aligned(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& gt_labels, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk, double alpha,
    double beta) {
  const ScalarType dtype =
      check_assign_task_aligned(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored, topk, alpha, beta);
  const DeviceScope scope(scores);
  const int64_t num_images = scores.size(0), num_anchors = scores.size(1);
  const Tensor s = contiguous_as(scores, dtype), b = boxes_as(boxes, dtype), p = contiguous_as(points, dtype);
  const Tensor labels = contiguous_as(gt_labels, ScalarType::Long);
  const DeviceGt gt(gt_boxes, gt_valid, gt_ignored, dtype);
  const Tensor out = new_tensor(s, {num_images, num_anchors}, ScalarType::Long);
  const Tensor targets = new_tensor(s, {num_images, num_anchors}, dtype);
  if (out.numel() == 0) return {out, targets};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> gts = gt.view<T>();
    const int64_t num_boxes = num_images * gts.count;
    Scratch scratch;
    const auto last = scratch.add<Candidate<T>>(num_boxes);
    const auto largest_alignment = scratch.add<T>(num_boxes), largest_iou = scratch.add<T>(num_boxes);
    scratch.allocate(s);
    const Predictions<T> predictions = {
        {s.const_data_ptr<T>(), box_data<T>(b), num_anchors, scores.size(2)},
        p.const_data_ptr<T>(),
        labels.const_data_ptr<int64_t>(),
        {static_cast<int>(2 * alpha), static_cast<int>(2 * beta)}};
    int64_t* assigned = out.mutable_data_ptr<int64_t>();
    T* target_data = targets.mutable_data_ptr<T>();
    const int64_t bytes = num_boxes * static_cast<int64_t>(sizeof(T));
    scope.fill_bytes(scratch.get(largest_alignment), 0, bytes);
    scope.fill_bytes(scratch.get(largest_iou), 0, bytes);
    if (num_boxes > 0) {
      with_warps(num_boxes, num_anchors, [&](auto warps) {
        constexpr int kWarps = decltype(warps)::value;
        scope.launch(
            last_choice_kernel<T, kWarps>, num_boxes, kWarps * kWarp, sizeof(Lists<T, kWarps>), gts, predictions, topk,
            scratch.get(last));
      });
    }
    const AlignedRule<T> rule = {
        predictions, gts.count,  scratch.get(last), scratch.get(largest_alignment), scratch.get(largest_iou),
        assigned,    target_data};
    resolve(scope, gts, num_images, num_anchors, rule);
    scope.launch(
        scale_targets_kernel<T>, ceil_div(out.numel(), kResolveThreads), kResolveThreads, 0, out.numel(), num_anchors,
        gts.count, assigned, scratch.get(largest_alignment), scratch.get(largest_iou), target_data);
  });
  return {out, targets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assign_task_aligned", TORCH_BOX(&assign_task_aligned)); }

}  // namespace tinyssd
