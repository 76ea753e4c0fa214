// assign_atss on CUDA: a block for each box finds its nearest anchors level by level and, from their IoUs, its
// threshold; then a thread for each anchor finds its box among those whose candidate it is.
#include "assigners.cuh"

namespace tinyssd {
namespace {

template <class T, int kWarps>
struct NearestShared {
  Lists<T, kWarps> lists;
  T ious[Levels::kMost * kMostTopk];
};

template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) nearest_kernel(
    const GtView<T> gts,
    const Box<T>* __restrict__ anchors,  // [A]
    const Levels levels, int topk,
    Candidate<T>* __restrict__ last,  // [B, G, levels], its value the squared distance
    Spread* __restrict__ spreads) {   // [B, G], of the candidates' IoUs
  auto& shared = shared_memory<NearestShared<T, kWarps>>();
  const int64_t i = blockIdx.x;
  if (!gts.is_valid(i) || gts.is_ignored(i)) return;
  const Box<T> box = load_box(gts.boxes + i);
  const T box_area = area(box), x = center_x(box), y = center_y(box);
  int count = 0;
  for (int level = 0; level < levels.count; ++level) {
    const auto begin = static_cast<int>(levels.starts[level]), end = static_cast<int>(levels.starts[level + 1]);
    select(shared.lists, topk, begin, end, [&](int anchor) -> Candidate<T> {
      const Box<T> own = load_box(anchors + anchor);
      return {squared_distance(center_x(own), center_y(own), x, y), anchor};
    });
    const int found = smaller(topk, end - begin);
    for (int k = threadIdx.x; k < found; k += kWarps * kWarp) {
      const Box<T> own = load_box(anchors + shared.lists.of[0][k].anchor);
      shared.ious[count + k] = iou(own, area(own), box, box_area);
    }
    if (threadIdx.x == 0) last[i * levels.count + level] = shared.lists.of[0][topk - 1];
    count += found;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    spreads[i] = Spread::of(count, [&](int k) { return static_cast<double>(shared.ious[k]); });
  }
}

template <class T>
struct NearestRule {
  struct Asked {
    Spread spread;
    int64_t index;  // of the box in the batch
  };
  struct Anchor {
    Box<T> box;
    T area, x, y, best;
    int index, level, best_box;
  };

  const Box<T>* anchors;  // [A]
  Levels levels;
  int64_t num_anchors;
  const Candidate<T>* last;  // [B, G, levels]
  const Spread* spreads;     // [B, G]
  int64_t* assigned;         // [B, A]

  __device__ Asked asked(int64_t i) const { return {spreads[i], i}; }
  __device__ Anchor anchor(int64_t, int index) const {
    const Box<T> own = load_box(anchors + index);
    int level = 0;
    while (index >= levels.starts[level + 1]) ++level;
    return {own, area(own), center_x(own), center_y(own), -1, index, level, -1};
  }
  template <class Met>
  __device__ void meet(Anchor& own, const Met& met, int g) const {
    if (!contains(met.box, own.x, own.y)) return;
    const T value = iou(own.box, own.area, met.box, met.area);
    if (!(value > own.best) || !met.asked.spread.reached_by(value)) return;
    const T distance = squared_distance(own.x, own.y, center_x(met.box), center_y(met.box));
    if (last[met.asked.index * levels.count + own.level].before(Candidate<T>{distance, own.index})) return;
    own.best = value;
    own.best_box = g;
  }
  __device__ void write(const Anchor& own, int64_t image, int anchor, bool crowd) const {
    assigned[image * num_anchors + anchor] = crowd ? kIgnored : own.best_box;
  }
};

Tensor assign_atss(
    const Tensor& anchors, std::vector<int64_t> level_sizes, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk) {
  const ScalarType dtype = check_assign_atss(anchors, level_sizes, gt_boxes, gt_valid, gt_ignored, topk);
  const DeviceScope scope(anchors);
  const int64_t num_images = gt_boxes.dim() == 2 ? 1 : gt_boxes.size(0), num_anchors = anchors.size(0);
  const Tensor a = boxes_as(anchors, dtype);
  const DeviceGt gt(gt_boxes, gt_valid, gt_ignored, dtype);
  const Tensor out = new_assignment(a, gt_boxes, num_anchors);
  if (out.numel() == 0) return out;
  const Levels levels(level_sizes);
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> gts = gt.view<T>();
    const int64_t num_boxes = num_images * gts.count;
    Scratch scratch;
    const auto last = scratch.add<Candidate<T>>(num_boxes * levels.count);
    const auto spreads = scratch.add<Spread>(num_boxes);
    scratch.allocate(a);
    if (num_boxes > 0) {
      with_warps(num_boxes, num_anchors, [&](auto warps) {
        constexpr int kWarps = decltype(warps)::value;
        scope.launch(
            nearest_kernel<T, kWarps>, num_boxes, kWarps * kWarp, sizeof(NearestShared<T, kWarps>), gts, box_data<T>(a),
            levels, topk, scratch.get(last), scratch.get(spreads));
      });
    }
    const NearestRule<T> rule = {
        box_data<T>(a), levels, num_anchors, scratch.get(last), scratch.get(spreads), out.mutable_data_ptr<int64_t>()};
    resolve(scope, gts, num_images, num_anchors, rule);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assign_atss", TORCH_BOX(&assign_atss)); }

}  // namespace tinyssd
