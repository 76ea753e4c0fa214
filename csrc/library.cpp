// The whole native interface: every op, defined once. What the ops mean stands in tinyssd_ops/ops.py; the kernels
// register themselves, cpu/<op>.cpp for the CPU and cuda/<op>.cu for CUDA.
// A anchors, G ground-truth boxes an image, B images, C classes (0 is the background), N and M boxes, K kept.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(tinyssd_ops, m) {
  // [..., N, 4], [..., M, 4] -> [..., N, M]
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  // [..., N, 4], [..., M, 4] -> [..., N, M], or aligned: [..., 4], [..., 4] -> [...]; kind: 0 IoU, 1 GIoU, 2 DIoU, 3 CIoU
  m.def("iou_pairs(Tensor boxes1, Tensor boxes2, int kind, bool aligned, float union_eps, float eps) -> Tensor");
  // [B, N, M], [B, N, 4], [B, M, 4] -> [B, N, 4], [B, M, 4], or aligned: [N], [N, 4], [N, 4] -> [N, 4], [N, 4]
  m.def(
      "iou_pairs_backward(Tensor grad, Tensor boxes1, Tensor boxes2, int kind, bool aligned, float union_eps, "
      "float eps) -> (Tensor, Tensor)");
  // [A, 4], [B, G, 4] or [G, 4], bool [B, G] or [G] -> int64 [B, A] or [A]
  m.def("assign_anchors(Tensor anchors, Tensor gt_boxes, Tensor? gt_valid=None, float iou_threshold=0.5) -> Tensor");
  // [1, A, 4] or [A, 4], [B, G, 5] -> offsets [B, 4A], mask [B, 4A], classes int64 [B, A]
  m.def("multibox_target(Tensor anchors, Tensor labels, float iou_threshold=0.5) -> (Tensor, Tensor, Tensor)");
  // [A, 4], [B, G, 4] or [G, 4], bool [B, G] or [G] twice -> int64 [B, A] or [A]
  m.def(
      "assign_threshold(Tensor anchors, Tensor gt_boxes, Tensor? gt_valid=None, Tensor? gt_ignored=None, "
      "float high_threshold=0.5, float low_threshold=0.4, bool allow_low_quality=False, bool match_every_box=False) "
      "-> Tensor");
  // [A, 4], L sizes, [B, G, 4] or [G, 4], bool [B, G] or [G] twice -> int64 [B, A] or [A]
  m.def(
      "assign_atss(Tensor anchors, int[] level_sizes, Tensor gt_boxes, Tensor? gt_valid=None, "
      "Tensor? gt_ignored=None, int topk=9) -> Tensor");
  // [B, A, C], [B, A, 4], [A, 2], integer [B, G], [B, G, 4], bool [B, G] twice -> int64 [B, A], [B, A]
  m.def(
      "assign_task_aligned(Tensor scores, Tensor boxes, Tensor points, Tensor gt_labels, Tensor gt_boxes, "
      "Tensor? gt_valid=None, Tensor? gt_ignored=None, int topk=13, float alpha=1.0, float beta=6.0) "
      "-> (Tensor, Tensor)");
  // [B, A, C], [B, A, 4], [A, 2], [A], integer [B, G], [B, G, 4], bool [B, G] twice -> int64 [B, A], [B, A]
  m.def(
      "assign_simota(Tensor scores, Tensor boxes, Tensor points, Tensor strides, Tensor gt_labels, Tensor gt_boxes, "
      "Tensor? gt_valid=None, Tensor? gt_ignored=None, float radius=2.5, int topk=10) -> (Tensor, Tensor)");
  // int64 [B, A], integer [B, G], [B, G, 4], [A, 4] -> targets [B, 4A], mask [B, 4A], classes int64 [B, A]
  m.def(
      "assignment_target(Tensor assigned, Tensor gt_labels, Tensor gt_boxes, Tensor? anchors=None) "
      "-> (Tensor, Tensor, Tensor)");
  // [N, 4], [N] -> int64 [K]
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  // [N, 4], [N], integer [N] -> int64 [K]
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  // [B, N, 4], [B, N], integer [B, N] -> int64 [B, K], int64 [B]
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, float iou_threshold, Tensor? class_ids=None, "
      "float? score_threshold=None, int? max_output=None) -> (Tensor, Tensor)");
  // [B, N, 4], [B, N], integer [B, N] -> int64 [B, K], [B, K], int64 [B]
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, bool gaussian=False, float iou_threshold=0.3, float sigma=0.5, "
      "Tensor? class_ids=None, float? score_threshold=0.001, int? max_output=None) -> (Tensor, Tensor, Tensor)");
  // [B, C, A], [B, 4A], [1, A, 4] or [A, 4] -> [B, A, 6]
  m.def(
      "multibox_detection(Tensor cls_probs, Tensor offset_preds, Tensor anchors, float nms_threshold=0.5, "
      "float pos_threshold=0.01) -> Tensor");
  // [B, C, A], [B, 4A], [1, A, 4] or [A, 4] -> [B, K, 6], int64 [B]
  m.def(
      "detect(Tensor cls_probs, Tensor offset_preds, Tensor anchors, float nms_threshold=0.5, "
      "float score_threshold=0.01, int max_detections=100, bool class_agnostic=False) -> (Tensor, Tensor)");
}
