// The leading sizes of two tensors of boxes, broadcast against each other: which matrices of the inputs make which
// matrix of the output. Plain data, so that it also travels as a kernel's argument.
#pragma once

#include "box.h"
#include "checks.h"

#include <vector>

namespace tinyssd {

struct Broadcast {
  static constexpr int64_t kMostDims = 64;  // torch's limit

  int64_t rank = 0;
  int64_t sizes[kMostDims];
  int64_t strides1[kMostDims], strides2[kMostDims];  // in matrices; 0 where an input is repeated
  int64_t count = 1;

  struct Sources {
    int64_t first, second;
  };
  // Which matrix of each input belongs to matrix b of the output.
  TINYSSD_INLINE Sources sources(int64_t b) const {
    Sources result = {0, 0};
    for (int64_t d = rank - 1; d >= 0; --d) {
      result.first += b % sizes[d] * strides1[d];
      result.second += b % sizes[d] * strides2[d];
      b /= sizes[d];
    }
    return result;
  }
};

inline std::string leading_string(const Tensor& boxes, int64_t own_dims) {
  std::string text = "[";
  for (int64_t d = 0; d + own_dims < boxes.dim(); ++d) text += (d > 0 ? ", " : "") + std::to_string(boxes.size(d));
  return text + "]";
}

// `own_dims` are the last sizes, which take no part: 2 for [..., N, 4], 1 for [..., 4].
inline Broadcast broadcast(const Tensor& boxes1, const Tensor& boxes2, int64_t own_dims = 2) {
  const int64_t lead1 = boxes1.dim() - own_dims, lead2 = boxes2.dim() - own_dims;
  Broadcast result;
  result.rank = larger(lead1, lead2);
  int64_t stride1 = 1, stride2 = 1;
  for (int64_t d = result.rank - 1; d >= 0; --d) {
    const int64_t d1 = d - (result.rank - lead1), d2 = d - (result.rank - lead2);
    const int64_t size1 = d1 < 0 ? 1 : boxes1.size(d1), size2 = d2 < 0 ? 1 : boxes2.size(d2);
    expect(
        size1 == size2 || size1 == 1 || size2 == 1, "boxes1, boxes2: expected leading sizes that broadcast, got ",
        leading_string(boxes1, own_dims), " and ", leading_string(boxes2, own_dims));
    result.sizes[d] = size1 == 1 ? size2 : size1;
    result.strides1[d] = size1 == 1 ? 0 : stride1;
    result.strides2[d] = size2 == 1 ? 0 : stride2;
    stride1 *= size1;
    stride2 *= size2;
    result.count *= result.sizes[d];
  }
  return result;
}

inline std::vector<int64_t> leading_shape(const Broadcast& batch) {
  return std::vector<int64_t>(batch.sizes, batch.sizes + batch.rank);
}

// The shape of the output: the leading sizes, then rows and columns.
inline std::vector<int64_t> matrix_shape(const Broadcast& batch, int64_t rows, int64_t columns) {
  std::vector<int64_t> shape = leading_shape(batch);
  shape.insert(shape.end(), {rows, columns});
  return shape;
}

}  // namespace tinyssd
