// detect on CUDA: decode (decode.cuh), suppress (suppress.cuh), then rows: a thread owns a row of the output. A
// candidate is an (anchor, object class); its index orders equal scores by anchor, then class.
#include "decode.cuh"

namespace tinyssd {
namespace {

template <class T>
__global__ void __launch_bounds__(kDecodeThreads) detect_rows_kernel(
    const T* __restrict__ probs,       // [B, C, A]
    const Box<T>* __restrict__ boxes,  // [B, A]
    const int* __restrict__ best,      // [B, A]: where the best class of an anchor is its only candidate
    int64_t num_images, int64_t num_classes, int64_t num_anchors, int64_t most,
    const int64_t* __restrict__ keep,    // [B, K]
    const int64_t* __restrict__ counts,  // [B]
    Row<T>* __restrict__ rows) {         // [B, K]
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= num_images * most) return;
  const int64_t image = i / most;
  if (i - image * most >= counts[image]) {
    rows[i] = {T(-1), T(0), {0, 0, 0, 0}};
    return;
  }
  const int64_t candidate = keep[i], anchor = best != nullptr ? candidate : candidate / (num_classes - 1);
  const int64_t class_id = best != nullptr ? best[image * num_anchors + anchor] : candidate % (num_classes - 1) + 1;
  const T score = probs[(image * num_classes + class_id) * num_anchors + anchor];
  rows[i] = {static_cast<T>(class_id), score, load_box(boxes + image * num_anchors + anchor)};
}

// The tensors and sizes of a call.
template <class T>
struct Predictions {
  const T* probs;
  const Box<T>* offsets;
  const Box<T>* anchors;
  int64_t num_images, num_classes, num_anchors;
  T least;
};

// Every object class of an anchor is a candidate. The list holds a part of them; where more score enough, suppression
// looks through the scores again.
template <class T>
void detect_classes(
    const DeviceScope& scope, const Tensor& like, const Predictions<T>& p, double nms_threshold, int64_t most,
    Row<T>* rows, int64_t* counts) {
  const int64_t total = p.num_images * p.num_anchors, share = p.num_classes - 1, size = p.num_anchors * share;
  const SuppressionSizes& sizes = suppression_sizes;
  const int64_t capacity = smaller(size, larger(sizes.least_listed, size / sizes.listed_share));
  Scratch scratch;
  const auto boxes = scratch.add<Box<T>>(total);
  const auto list = scratch.add<Standing<T>>(p.num_images * capacity);
  const auto listed = scratch.add<unsigned>(p.num_images);
  const auto keep = scratch.add<int64_t>(p.num_images * most);
  scratch.allocate(like);
  if (size > 0) {
    scope.fill_bytes(scratch.get(listed), 0, p.num_images * sizeof(unsigned));
    const int64_t of_anchors = ceil_div(p.num_anchors, kDecodeThreads), of_classes = ceil_div(share, kClassesEach);
    scope.launch(
        list_candidates_kernel<T>, p.num_images * of_anchors * of_classes, kDecodeThreads, 0, p.probs, p.offsets,
        p.anchors, p.num_classes, p.num_anchors, of_anchors, of_classes, p.least, capacity, scratch.get(boxes),
        scratch.get(list), scratch.get(listed));
  }
  Candidates<T> in = {scratch.get(boxes), size, share};
  in.scores = p.probs + p.num_anchors;
  in.scores_stride = p.num_classes * p.num_anchors;
  in.filtered = true;
  in.least = p.least;
  in.list = scratch.get(list);
  in.list_sizes = scratch.get(listed);
  in.list_capacity = capacity;
  suppress(scope, like, in, p.num_images, nms_threshold, most, true, scratch.get(keep), counts);
  if (most == 0) return;
  scope.launch(
      detect_rows_kernel<T>, ceil_div(p.num_images * most, kDecodeThreads), kDecodeThreads, 0, p.probs,
      scratch.get(boxes), nullptr, p.num_images, p.num_classes, p.num_anchors, most, scratch.get(keep), counts, rows);
}

// The best object class of an anchor is its only candidate.
template <class T>
void detect_best(
    const DeviceScope& scope, const Tensor& like, const Predictions<T>& p, double nms_threshold, int64_t most,
    Row<T>* rows, int64_t* counts) {
  const int64_t total = p.num_images * p.num_anchors;
  Scratch scratch;
  const auto boxes = scratch.add<Box<T>>(total);
  const auto keys = scratch.add<RankKey<T>>(total);
  const auto classes = scratch.add<int>(total);
  const auto keep = scratch.add<int64_t>(p.num_images * most);
  scratch.allocate(like);
  const Decoded<T> decoded = {scratch.get(boxes), scratch.get(keys), scratch.get(classes), nullptr};
  if (total > 0) {
    scope.launch(
        decode_best_kernel<T>, ceil_div(total, kDecodeThreads), kDecodeThreads, 0, p.probs, p.offsets, p.anchors,
        p.num_images, p.num_classes, p.num_anchors, 1, true, p.least, decoded);
  }
  const Candidates<T> in = {decoded.boxes, p.num_anchors, 1, decoded.keys};
  suppress(scope, like, in, p.num_images, nms_threshold, most, true, scratch.get(keep), counts);
  if (most == 0) return;
  scope.launch(
      detect_rows_kernel<T>, ceil_div(p.num_images * most, kDecodeThreads), kDecodeThreads, 0, p.probs, decoded.boxes,
      decoded.classes, p.num_images, p.num_classes, p.num_anchors, most, scratch.get(keep), counts, rows);
}

std::tuple<Tensor, Tensor> detect(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double score_threshold, int64_t max_detections, bool class_agnostic) {
  const ScalarType dtype =
      check_detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections);
  const DeviceScope scope(cls_probs);
  const int64_t num_images = cls_probs.size(0), num_classes = cls_probs.size(1), num_anchors = cls_probs.size(2);
  const Tensor p = contiguous_as(cls_probs, dtype), d = boxes_as(offset_preds, dtype), a = boxes_as(anchors, dtype);
  const Tensor out = new_tensor(p, {num_images, max_detections, 6}, dtype);
  const Tensor counts = new_tensor(p, {num_images}, ScalarType::Long);
  if (num_images == 0) return {out, counts};
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Predictions<T> predictions = {
        p.const_data_ptr<T>(),          box_data<T>(d), box_data<T>(a), num_images, num_classes, num_anchors,
        static_cast<T>(score_threshold)};
    auto* rows = reinterpret_cast<Row<T>*>(out.mutable_data_ptr<T>());
    const auto run = class_agnostic && num_classes > 1 ? detect_best<T> : detect_classes<T>;
    run(scope, p, predictions, nms_threshold, max_detections, rows, counts.mutable_data_ptr<int64_t>());
  });
  return {out, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tinyssd_ops, CUDA, m) { m.impl("detect", TORCH_BOX(&detect)); }

}  // namespace tinyssd
