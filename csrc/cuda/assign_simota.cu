// assign_simota on CUDA. A thread for each point sees whether it is a candidate and adds up what its absent classes cost.
// A block for each box counts the points that it gets and finds the last of them, inside and outside its centre. Then a
// thread for each point finds its box among those that took it.
#include "../simota.h"
#include "assigners.cuh"

namespace tinyssd {
namespace {

template <class T>
struct Head {
  PredictionView<T> view;
  const T* points;        // [A, 2]
  const T* strides;       // [A]
  const int64_t* labels;  // [B, G]
  T radius;
  T* absent;  // [B, A]; NaN: no candidate

  __device__ bool inside(int64_t anchor, const Box<T>& box) const {
    return contains(box, points[2 * anchor], points[2 * anchor + 1]);
  }
  __device__ bool near(int64_t anchor, const Box<T>& box) const {
    return near_center(box, points[2 * anchor], points[2 * anchor + 1], radius * strides[anchor]);
  }
  __device__ T cost(int64_t image, int64_t anchor, int64_t label, T iou) const {
    return simota_cost(absent[image * view.num_anchors + anchor], view.scores_of(image, anchor)[label], iou);
  }
};

template <class T>
__global__ void __launch_bounds__(kResolveThreads)
    candidates_kernel(const GtView<T> gts, const Head<T> head, unsigned tiles) {
  struct Shared {
    MetBox<T, int> boxes[kResolveChunk];
  };
  auto& shared = shared_memory<Shared>();
  const int64_t image = blockIdx.x / tiles;
  const int64_t anchor = int64_t{blockIdx.x % tiles} * kResolveThreads + threadIdx.x;
  const bool exists = anchor < head.view.num_anchors;
  bool candidate = false;
  for (int64_t start = 0; start < gts.count; start += kResolveChunk) {
    const int size = static_cast<int>(smaller(int64_t{kResolveChunk}, gts.count - start));
    if (threadIdx.x < size) {
      const int64_t i = image * gts.count + start + threadIdx.x;
      store_box(&shared.boxes[threadIdx.x].box, load_box(gts.boxes + i));
      const bool counted = gts.is_valid(i) && !gts.is_ignored(i) && head.view.knows(head.labels[i]);
      shared.boxes[threadIdx.x].kind = counted ? kCounted : kPadding;
    }
    __syncthreads();
    for (int g = 0; g < size && exists && !candidate; ++g) {
      const auto& met = shared.boxes[g];
      candidate = met.kind == kCounted && (head.inside(anchor, met.box) || head.near(anchor, met.box));
    }
    __syncthreads();
  }
  if (!exists) return;
  T absent = candidate ? T(0) : std::numeric_limits<T>::quiet_NaN();
  if (candidate) {
    const T* scores = head.view.scores_of(image, anchor);
    for (int64_t c = 0; c < head.view.num_classes; ++c) absent = absent - exact_log(T(1) - scores[c]);
  }
  head.absent[image * head.view.num_anchors + anchor] = absent;
}

// The last points that a box takes, of those inside and near its centre, and of the others.
template <class T>
struct Taken {
  Candidate<T> inside, outside;
};

template <class T>
__device__ Candidate<T> before_all() {
  return {-std::numeric_limits<T>::infinity(), -1};
}

template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) take_kernel(
    const GtView<T> gts, const Head<T> head, int topk,
    Taken<T>* __restrict__ taken) {  // [B, G]
  auto& lists = shared_memory<Lists<T, kWarps>>();
  const int64_t i = blockIdx.x, image = i / gts.count, label = head.labels[i], num_anchors = head.view.num_anchors;
  if (!gts.is_valid(i) || gts.is_ignored(i)) return;
  if (!head.view.knows(label)) {
    if (threadIdx.x == 0) taken[i] = {before_all<T>(), before_all<T>()};
    return;
  }
  const Box<T> box = load_box(gts.boxes + i);
  const T box_area = area(box);
  const auto size = static_cast<int>(num_anchors);
  const auto iou_of = [&](int anchor) {
    const Box<T> own = load_box(head.view.boxes + image * num_anchors + anchor);
    return iou(own, area(own), box, box_area);
  };
  const auto is_candidate = [&](int anchor) {
    const T absent = head.absent[image * num_anchors + anchor];
    return absent == absent;
  };
  select(lists, topk, 0, size, [&](int anchor) -> Candidate<T> {
    const T value = is_candidate(anchor) ? iou_of(anchor) : T(0);
    return value > T(0) ? Candidate<T>{-value, anchor} : no_candidate<T>();
  });
  const Candidate<T>* list = lists.of[0];
  int found = 0;
  while (found < topk && list[found].value <= T(0)) ++found;
  int wanted = dynamic_k<T>(found, topk, [&](int k) { return -list[k].value; });
  Taken<T> result = {before_all<T>(), before_all<T>()};
  for (int tier = 0; tier < 2 && wanted > 0; ++tier) {
    select(lists, wanted, 0, size, [&](int anchor) -> Candidate<T> {
      if (!is_candidate(anchor)) return no_candidate<T>();
      const bool outside = !(head.inside(anchor, box) && head.near(anchor, box));
      return outside == (tier == 1) ? Candidate<T>{head.cost(image, anchor, label, iou_of(anchor)), anchor}
                                    : no_candidate<T>();
    });
    found = 0;
    while (found < wanted && list[found].before(no_candidate<T>())) ++found;
    const Candidate<T> last = found > 0 ? list[found - 1] : before_all<T>();
    (tier == 0 ? result.inside : result.outside) = last;
    wanted -= found;
  }
  if (threadIdx.x == 0) taken[i] = result;
}

template <class T>
struct SimotaRule {
  struct Asked {
    Taken<T> taken;
    int64_t label;
  };
  struct Anchor {
    Box<T> box;
    T area;
    int64_t image;
    int index, best_box;
    bool candidate, outside;
    T cost, iou;
  };

  Head<T> head;
  const Taken<T>* taken;  // [B, G]
  int64_t* assigned;      // [B, A]
  T* ious;                // [B, A]

  __device__ Asked asked(int64_t i) const { return {taken[i], head.labels[i]}; }
  __device__ Anchor anchor(int64_t image, int index) const {
    const int64_t slot = image * head.view.num_anchors + index;
    const Box<T> own = load_box(head.view.boxes + slot);
    const T absent = head.absent[slot];
    return {own, area(own), image, index, -1, absent == absent, true, 0, 0};
  }
  template <class Met>
  __device__ void meet(Anchor& own, const Met& met, int g) const {
    if (!own.candidate) return;
    const bool outside = !(head.inside(own.index, met.box) && head.near(own.index, met.box));
    const Candidate<T>& last = outside ? met.asked.taken.outside : met.asked.taken.inside;
    if (last.anchor < 0 || (outside && !own.outside)) return;
    const T value = iou(own.box, own.area, met.box, met.area);
    const T cost = head.cost(own.image, own.index, met.asked.label, value);
    if (last.before(Candidate<T>{cost, own.index})) return;
    if (own.best_box >= 0 && outside == own.outside && !(cost < own.cost)) return;
    own.best_box = g;
    own.outside = outside;
    own.cost = cost;
    own.iou = value;
  }
  __device__ void write(const Anchor& own, int64_t image, int anchor, bool crowd) const {
    const int64_t slot = image * head.view.num_anchors + anchor;
    assigned[slot] = crowd ? kIgnored : own.best_box;
    ious[slot] = crowd ? T(0) : own.iou;
  }
};

std::tuple<Tensor, Tensor> assign_simota(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& strides, const Tensor& gt_labels,
    const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored,
    double radius, int64_t topk) {
  const ScalarType dtype =
      check_assign_simota(scores, boxes, points, strides, gt_labels, gt_boxes, gt_valid, gt_ignored, radius, topk);
  const DeviceScope scope(scores);
  const int64_t num_images = scores.size(0), num_anchors = scores.size(1);
  const Tensor s = contiguous_as(scores, dtype), b = boxes_as(boxes, dtype), p = contiguous_as(points, dtype);
  const Tensor st = contiguous_as(strides, dtype), labels = contiguous_as(gt_labels, ScalarType::Long);
  const DeviceGt gt(gt_boxes, gt_valid, gt_ignored, dtype);
  const Tensor out = new_tensor(s, {num_images, num_anchors}, ScalarType::Long);
  const Tensor ious = new_tensor(s, {num_images, num_anchors}, dtype);
  if (out.numel() == 0) return {out, ious};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const GtView<T> gts = gt.view<T>();
    const int64_t num_boxes = num_images * gts.count;
    Scratch scratch;
    const auto absent = scratch.add<T>(num_images * num_anchors);
    const auto taken = scratch.add<Taken<T>>(num_boxes);
    scratch.allocate(s);
    const Head<T> head = {
        {s.const_data_ptr<T>(), box_data<T>(b), num_anchors, scores.size(2)},
        p.const_data_ptr<T>(),
        st.const_data_ptr<T>(),
        labels.const_data_ptr<int64_t>(),
        static_cast<T>(radius),
        scratch.get(absent)};
    const int64_t tiles = ceil_div(num_anchors, kResolveThreads);
    scope.launch(
        candidates_kernel<T>, num_images * tiles, kResolveThreads, sizeof(MetBox<T, int>) * kResolveChunk, gts, head,
        tiles);
    if (num_boxes > 0) {
      with_warps(num_boxes, num_anchors, [&](auto warps) {
        constexpr int kWarps = decltype(warps)::value;
        scope.launch(
            take_kernel<T, kWarps>, num_boxes, kWarps * kWarp, sizeof(Lists<T, kWarps>), gts, head, topk,
            scratch.get(taken));
      });
    }
    const SimotaRule<T> rule = {head, scratch.get(taken), out.mutable_data_ptr<int64_t>(), ious.mutable_data_ptr<T>()};
    resolve(scope, gts, num_images, num_anchors, rule);
  });
  return {out, ious};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("assign_simota", TORCH_BOX(&assign_simota)); }

}  // namespace tinyssd
