// Argument checks shared by every backend: the same sentences as tinyssd_ops/_checks.py, raised as std::invalid_argument,
// which Python sees as a ValueError. And the few helpers for tensors that every op needs.
#pragma once

#include "box.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cctype>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tinyssd {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
void expect(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// A size that a shape must have: a number, or a word for any size.
struct Dim {
  Dim(int64_t size) : size(size) {}      // NOLINT(google-explicit-constructor)
  Dim(const char* word) : word(word) {}  // NOLINT(google-explicit-constructor)
  int64_t size = -1;
  const char* word = nullptr;
};

enum class Leading { kNone, kAny };

inline std::string shape_string(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

// None arrives as a tensor that is undefined. (Python's wrappers raise a TypeError before it comes to that.)
inline void expect_tensor(const char* name, const Tensor& tensor) {
  expect(tensor.defined(), name, ": expected a torch.Tensor, got NoneType");
}

inline void expect_shape(
    const char* name, const Tensor& tensor, std::initializer_list<Dim> shape, Leading leading = Leading::kNone) {
  expect_tensor(name, tensor);
  const int64_t extra = tensor.dim() - static_cast<int64_t>(shape.size());
  bool fits = leading == Leading::kAny ? extra >= 0 : extra == 0;
  int64_t i = extra;
  for (const Dim& dim : shape) {
    fits = fits && (dim.word != nullptr || tensor.size(i) == dim.size);
    ++i;
  }
  if (fits) return;
  std::string wanted = leading == Leading::kAny ? "..." : "";
  for (const Dim& dim : shape) {
    wanted += (wanted.empty() ? "" : ", ") + (dim.word != nullptr ? std::string(dim.word) : std::to_string(dim.size));
  }
  expect(false, name, ": expected shape [", wanted, "], got ", shape_string(tensor));
}

inline void expect_threshold(const char* name, double value) {
  const double shown = value == value ? value : std::numeric_limits<double>::quiet_NaN();  // not "-nan"
  expect(value >= 0 && value <= 1, name, ": expected a number between 0 and 1, got ", shown);
}

inline void expect_count(const char* name, int64_t value) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  expect(value >= 0 && value <= kMost, name, ": expected a number from 0 to ", kMost, ", got ", value);
}

inline void expect_number(const char* name, double value) {
  expect(value == value, name, ": expected a number, got nan");
}

// The boxes, anchors or candidates of one image are numbered with 32 bits.
inline void expect_numbered(const char* name, int64_t size) {
  expect(size < int64_t{1} << 31, name, ": expected fewer than 2**31 an image, got ", size);
}

inline std::string dtype_string(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return "torch.uint8";
    case ScalarType::Char: return "torch.int8";
    case ScalarType::Short: return "torch.int16";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::Bool: return "torch.bool";
    case ScalarType::ComplexHalf: return "torch.complex32";
    case ScalarType::ComplexFloat: return "torch.complex64";
    case ScalarType::ComplexDouble: return "torch.complex128";
    default: break;
  }
  std::string name = torch::headeronly::toString(dtype);
  for (char& letter : name) letter = static_cast<char>(std::tolower(letter));
  return "torch." + name;
}

inline std::string device_string(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  const std::string type = tensor.is_cuda() ? "cuda" : "another kind";
  return type + ":" + std::to_string(tensor.get_device_index());
}

inline void expect_device(const char* name, const Tensor& tensor, const Tensor& like) {
  const std::string device = device_string(tensor), wanted = device_string(like);
  expect(device == wanted, name, ": expected device ", wanted, ", got ", device);
}

inline void expect_integer(const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  const bool good = dtype == ScalarType::Byte || dtype == ScalarType::Char || dtype == ScalarType::Short ||
                    dtype == ScalarType::Int || dtype == ScalarType::Long || dtype == ScalarType::UInt16 ||
                    dtype == ScalarType::UInt32 || dtype == ScalarType::UInt64;
  expect(good, name, ": expected an integer dtype, got ", dtype_string(dtype));
}

struct Named {
  const char* name;
  const Tensor& tensor;
};

// float64 if a tensor is float64, else float32; checks that all hold floats and share the first one's device.
inline ScalarType compute_dtype(std::initializer_list<Named> inputs) {
  ScalarType result = ScalarType::Float;
  for (const auto& [name, tensor] : inputs) {
    const ScalarType dtype = tensor.scalar_type();
    const bool good = dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
                      dtype == ScalarType::Double;
    expect(good, name, ": expected a floating-point dtype, got ", dtype_string(dtype));
    expect_device(name, tensor, inputs.begin()->tensor);
    if (dtype == ScalarType::Double) result = dtype;
  }
  return result;
}

// Calls f with a value of the C++ type of a compute dtype.
template <class F>
auto with_type(ScalarType dtype, const F& f) {
  return dtype == ScalarType::Double ? f(double{}) : f(float{});
}

inline Tensor contiguous_as(const Tensor& tensor, ScalarType dtype) {
  const Tensor converted = tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
  const Tensor dense = converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
  // A view of a buffer may begin anywhere, but a number must be loaded from a multiple of its size.
  const bool aligned = reinterpret_cast<uintptr_t>(dense.data_ptr()) % dense.element_size() == 0;
  return aligned ? dense : torch::stable::clone(dense);
}

inline std::optional<Tensor> contiguous_as(const std::optional<Tensor>& tensor, ScalarType dtype) {
  return tensor ? std::optional(contiguous_as(*tensor, dtype)) : std::nullopt;
}

// A tensor of boxes [..., 4], contiguous and of the dtype.
template <class T>
const Box<T>* box_data(const Tensor& tensor) {
  return reinterpret_cast<const Box<T>*>(tensor.const_data_ptr<T>());
}

template <class T>
Box<T>* mutable_box_data(const Tensor& tensor) {
  return reinterpret_cast<Box<T>*>(tensor.mutable_data_ptr<T>());
}

// A new tensor on the device of `like`. The stable ABI drops torch's reason when an allocation fails: this says it.
inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  try {
    return torch::stable::new_empty(like, shape, dtype);
  } catch (const std::exception&) {
    std::string sizes;
    for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    throw std::runtime_error(
        "out of memory: no " + dtype_string(dtype) + " of shape [" + sizes + "] on " + device_string(like));
  }
}

inline ScalarType check_box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  expect_shape("boxes1", boxes1, {"N", 4}, Leading::kAny);
  expect_shape("boxes2", boxes2, {"M", 4}, Leading::kAny);
  return compute_dtype({{"boxes1", boxes1}, {"boxes2", boxes2}});
}

// Pairwise: [..., N, 4] and [..., M, 4] as for box_iou; aligned: [..., 4] and [..., 4] of one shape.
inline ScalarType check_iou_pairs(
    const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps, double eps) {
  expect(kind >= 0 && kind <= 3, "kind: expected a number from 0 to 3, got ", kind);
  expect_number("union_eps", union_eps);
  expect_number("eps", eps);
  if (!aligned) return check_box_iou(boxes1, boxes2);
  expect_shape("boxes1", boxes1, {4}, Leading::kAny);
  expect_shape("boxes2", boxes2, {4}, Leading::kAny);
  expect(
      shape_string(boxes1) == shape_string(boxes2), "boxes2: expected shape ", shape_string(boxes1), ", got ",
      shape_string(boxes2));
  return compute_dtype({{"boxes1", boxes1}, {"boxes2", boxes2}});
}

// Pairwise: [B, N, M], [B, N, 4], [B, M, 4]; aligned: [N], [N, 4], [N, 4].
inline ScalarType check_iou_pairs_backward(
    const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, int64_t kind, bool aligned, double union_eps,
    double eps) {
  if (aligned) {
    expect_shape("boxes1", boxes1, {"N", 4});
    expect_shape("grad", grad, {boxes1.size(0)});
  } else {
    expect_shape("boxes1", boxes1, {"B", "N", 4});
    expect_shape("boxes2", boxes2, {boxes1.size(0), "M", 4});
    expect_shape("grad", grad, {boxes1.size(0), boxes1.size(1), boxes2.size(1)});
  }
  check_iou_pairs(boxes1, boxes2, kind, aligned, union_eps, eps);
  return compute_dtype({{"boxes1", boxes1}, {"boxes2", boxes2}, {"grad", grad}});
}

inline ScalarType check_assign_anchors(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, double iou_threshold) {
  expect_shape("anchors", anchors, {"A", 4});
  expect_tensor("gt_boxes", gt_boxes);
  const bool single = gt_boxes.dim() == 2;
  single ? expect_shape("gt_boxes", gt_boxes, {"G", 4}) : expect_shape("gt_boxes", gt_boxes, {"B", "G", 4});
  const ScalarType dtype = compute_dtype({{"anchors", anchors}, {"gt_boxes", gt_boxes}});
  if (gt_valid) {
    expect_tensor("gt_valid", *gt_valid);
    const ScalarType valid = gt_valid->scalar_type();
    expect(valid == ScalarType::Bool, "gt_valid: expected dtype torch.bool, got ", dtype_string(valid));
    single ? expect_shape("gt_valid", *gt_valid, {gt_boxes.size(0)})
           : expect_shape("gt_valid", *gt_valid, {gt_boxes.size(0), gt_boxes.size(1)});
    expect_device("gt_valid", *gt_valid, anchors);
  }
  expect_threshold("iou_threshold", iou_threshold);
  expect_numbered("anchors", anchors.size(0));
  expect_numbered("gt_boxes", gt_boxes.size(gt_boxes.dim() - 2));
  return dtype;
}

inline ScalarType check_multibox_target(const Tensor& anchors, const Tensor& labels, double iou_threshold) {
  expect_tensor("anchors", anchors);
  anchors.dim() == 2 ? expect_shape("anchors", anchors, {"A", 4}) : expect_shape("anchors", anchors, {1, "A", 4});
  expect_shape("labels", labels, {"B", "G", 5});
  const ScalarType dtype = compute_dtype({{"anchors", anchors}, {"labels", labels}});
  expect_threshold("iou_threshold", iou_threshold);
  expect_numbered("anchors", anchors.size(anchors.dim() - 2));
  expect_numbered("labels", labels.size(1));
  return dtype;
}

inline ScalarType check_nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  expect_shape("boxes", boxes, {"N", 4});
  expect_shape("scores", scores, {boxes.size(0)});
  const ScalarType dtype = compute_dtype({{"boxes", boxes}, {"scores", scores}});
  expect_threshold("iou_threshold", iou_threshold);
  expect_numbered("boxes", boxes.size(0));
  return dtype;
}

inline ScalarType check_batched_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  const ScalarType dtype = check_nms(boxes, scores, iou_threshold);
  expect_shape("idxs", idxs, {boxes.size(0)});
  expect_integer("idxs", idxs);
  expect_device("idxs", idxs, boxes);
  return dtype;
}

inline ScalarType check_nms_padded(
    const Tensor& boxes, const Tensor& scores, double iou_threshold, const std::optional<Tensor>& class_ids,
    std::optional<double> score_threshold, std::optional<int64_t> max_output) {
  expect_shape("boxes", boxes, {"B", "N", 4});
  expect_shape("scores", scores, {boxes.size(0), boxes.size(1)});
  const ScalarType dtype = compute_dtype({{"boxes", boxes}, {"scores", scores}});
  expect_threshold("iou_threshold", iou_threshold);
  if (class_ids) {
    expect_shape("class_ids", *class_ids, {boxes.size(0), boxes.size(1)});
    expect_integer("class_ids", *class_ids);
    expect_device("class_ids", *class_ids, boxes);
  }
  if (score_threshold) expect_number("score_threshold", *score_threshold);
  if (max_output) expect_count("max_output", *max_output);
  expect_numbered("boxes", boxes.size(1));
  return dtype;
}

inline ScalarType check_predictions(const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors) {
  expect_shape("cls_probs", cls_probs, {"B", "C", "A"});
  const int64_t num_anchors = cls_probs.size(2);
  expect(cls_probs.size(1) >= 1, "cls_probs: expected at least 1 class, the background, got 0");
  expect_shape("offset_preds", offset_preds, {cls_probs.size(0), 4 * num_anchors});
  expect_tensor("anchors", anchors);
  anchors.dim() == 2 ? expect_shape("anchors", anchors, {num_anchors, 4})
                     : expect_shape("anchors", anchors, {1, num_anchors, 4});
  expect_numbered("cls_probs", cls_probs.size(1) * larger(num_anchors, int64_t{1}));
  return compute_dtype({{"cls_probs", cls_probs}, {"offset_preds", offset_preds}, {"anchors", anchors}});
}

inline ScalarType check_multibox_detection(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double pos_threshold) {
  const ScalarType dtype = check_predictions(cls_probs, offset_preds, anchors);
  expect_threshold("nms_threshold", nms_threshold);
  expect_number("pos_threshold", pos_threshold);
  return dtype;
}

inline ScalarType check_detect(
    const Tensor& cls_probs, const Tensor& offset_preds, const Tensor& anchors, double nms_threshold,
    double score_threshold, int64_t max_detections) {
  const ScalarType dtype = check_predictions(cls_probs, offset_preds, anchors);
  expect_threshold("nms_threshold", nms_threshold);
  expect_number("score_threshold", score_threshold);
  expect_count("max_detections", max_detections);
  return dtype;
}

}  // namespace tinyssd
