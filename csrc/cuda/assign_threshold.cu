// assign_threshold on CUDA: where boxes keep anchors, a block for each box finds its largest IoU and the first anchor
// that has it; then a thread for each anchor takes its best box, by the thresholds and by what the boxes keep.
#include "assigners.cuh"

namespace tinyssd {
namespace {

template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) best_anchor_kernel(
    const GtView<T> gts,
    const Box<T>* __restrict__ anchors,  // [A]
    int num_anchors,
    Candidate<T>* __restrict__ best) {  // [B, G], its value the negative IoU
  auto& lists = shared_memory<Lists<T, kWarps>>();
  const int64_t i = blockIdx.x;
  if (!gts.is_valid(i) || gts.is_ignored(i)) return;
  const Box<T> box = load_box(gts.boxes + i);
  const T box_area = area(box);
  select(lists, 1, 0, num_anchors, [&](int anchor) -> Candidate<T> {
    const Box<T> own = load_box(anchors + anchor);
    return {-iou(own, area(own), box, box_area), anchor};
  });
  if (threadIdx.x == 0) best[i] = lists.of[0][0];
}

template <class T>
struct ThresholdRule {
  using Asked = Candidate<T>;
  struct Anchor {
    Box<T> box;
    T area;
    T best;
    int index, best_box, claimed;
    bool ties;
  };

  const Box<T>* anchors;     // [A]
  const Candidate<T>* best;  // [B, G], or nullptr: boxes keep nothing
  int64_t num_anchors;
  T high, low;
  bool allow_low_quality, match_every_box;
  int64_t* assigned;  // [B, A]

  __device__ Asked asked(int64_t i) const { return best == nullptr ? no_candidate<T>() : best[i]; }
  __device__ Anchor anchor(int64_t, int index) const {
    const Box<T> own = load_box(anchors + index);
    return {own, area(own), -1, index, -1, -1, false};
  }
  template <class Met>
  __device__ void meet(Anchor& own, const Met& met, int g) const {
    const T value = iou(own.box, own.area, met.box, met.area);
    if (value > own.best) {
      own.best = value;
      own.best_box = g;
    }
    own.ties = own.ties || -value == met.asked.value;
    if (own.index == met.asked.anchor) own.claimed = g;
  }
  __device__ void write(const Anchor& own, int64_t image, int anchor, bool crowd) const {
    int64_t result = own.best < low ? kBackground : own.best < high ? kIgnored : own.best_box;
    if (allow_low_quality && own.ties) result = own.best_box;
    if (match_every_box && own.claimed >= 0) result = own.claimed;
    assigned[image * num_anchors + anchor] = crowd ? kIgnored : result;
  }
};

Tensor assign_threshold(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid,
    const std::optional<Tensor>& gt_ignored, double high_threshold, double low_threshold, bool allow_low_quality,
    bool match_every_box) {
  const ScalarType dtype =
      check_assign_threshold(anchors, gt_boxes, gt_valid, gt_ignored, high_threshold, low_threshold);
  const DeviceScope scope(anchors);
  const int64_t num_images = gt_boxes.dim() == 2 ? 1 : gt_boxes.size(0), num_anchors = anchors.size(0);
  const Tensor a = boxes_as(anchors, dtype);
  const DeviceGt gt(gt_boxes, gt_valid, gt_ignored, dtype);
  const Tensor out = new_assignment(a, gt_boxes, num_anchors);
  if (out.numel() == 0) return out;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> gts = gt.view<T>();
    const int64_t num_boxes = num_images * gts.count;
    const bool keeps = (allow_low_quality || match_every_box) && num_boxes > 0;
    Scratch scratch;
    const auto best = scratch.add<Candidate<T>>(keeps ? num_boxes : 0);
    scratch.allocate(a);
    Candidate<T>* kept = keeps ? scratch.get(best) : nullptr;
    if (keeps) {
      with_warps(num_boxes, num_anchors, [&](auto warps) {
        constexpr int kWarps = decltype(warps)::value;
        scope.launch(
            best_anchor_kernel<T, kWarps>, num_boxes, kWarps * kWarp, sizeof(Lists<T, kWarps>), gts, box_data<T>(a),
            num_anchors, kept);
      });
    }
    const ThresholdRule<T> rule = {
        box_data<T>(a),
        kept,
        num_anchors,
        static_cast<T>(high_threshold),
        static_cast<T>(low_threshold),
        allow_low_quality,
        match_every_box,
        out.mutable_data_ptr<int64_t>()};
    resolve(scope, gts, num_images, num_anchors, rule);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assign_threshold", TORCH_BOX(&assign_threshold)); }

}  // namespace tinyssd
