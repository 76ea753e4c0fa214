// The IoU family, host and device: IoU, GIoU, DIoU and CIoU of two boxes, and the slopes of each, which make the gradient.
// In step with tinyssd_ops/_iou.py, operation by operation: the same bits.
// A term without a finite, positive denominator is 0, as a constant. Slopes at a tie: an edge that both boxes share gets
// half; edges that touch count as overlapping. A slope steeper than kSteepest is cut to it, and one that is undefined is
// 0, so that a gradient is finite whatever the boxes are. CIoU's weight is a constant to the gradient.
#pragma once

#include "box.h"

namespace tinyssd {

enum class IouKind : int64_t { kIou, kGiou, kDiou, kCiou };

template <class T>
struct IouEps {
  T united, hull;  // what is added to the union, and to the other denominators
};

// What pairs need of a box; the angle is CIoU's alone.
template <class T>
struct Measured {
  Box<T> box;
  T area, angle;
};

template <class T>
TINYSSD_INLINE bool is_finite(T x) {
  return x - x == T(0);
}

// The angle of the diagonal, from the y axis. In double, so that its rounding to float is the same on every backend.
template <class T>
TINYSSD_INLINE T diagonal_angle(const Box<T>& box) {
  const T w = box.x2 - box.x1, h = box.y2 - box.y1;
  if (w == T(0) && h == T(0)) return T(0);
  return static_cast<T>(std::atan(static_cast<double>(w / h)));
}

template <IouKind kKind, class T>
TINYSSD_INLINE Measured<T> measure(const Box<T>& box) {
  return {box, area(box), kKind == IouKind::kCiou ? diagonal_angle(box) : T(0)};
}

// All that value and slopes have in common.
template <class T>
struct PairTerms {
  T w, h, united, iou;  // of the intersection
  T hull_w, hull_h;     // of the smallest box around both
  T penalty, dx, dy;    // GIoU's or DIoU's term; from centre to centre
  T denominator;        // of the penalty
  bool has_iou, has_penalty;
  T turn, weight;  // CIoU: the difference of angles, and alpha
};

// 4 / pi**2
constexpr double kAngleScale = 0.40528473456935108577551785283891;

template <IouKind kKind, class T>
TINYSSD_INLINE PairTerms<T> pair_terms(const Measured<T>& a, const Measured<T>& b, const IouEps<T>& eps) {
  TINYSSD_COUNT_PAIR();
  PairTerms<T> t = {};
  const Box<T>&p = a.box, &q = b.box;
  t.w = larger(smaller(p.x2, q.x2) - larger(p.x1, q.x1), T(0));
  t.h = larger(smaller(p.y2, q.y2) - larger(p.y1, q.y1), T(0));
  const T inter = t.w * t.h;
  t.united = a.area + b.area - inter;
  const T divisor = t.united + eps.united;
  t.has_iou = divisor > T(0) && is_finite(divisor);
  t.iou = t.has_iou ? inter / divisor : T(0);
  if constexpr (kKind == IouKind::kIou) return t;
  t.hull_w = larger(larger(p.x2, q.x2) - smaller(p.x1, q.x1), T(0));
  t.hull_h = larger(larger(p.y2, q.y2) - smaller(p.y1, q.y1), T(0));
  T numerator;
  if constexpr (kKind == IouKind::kGiou) {
    const T hull = t.hull_w * t.hull_h;
    numerator = hull - t.united;
    t.denominator = hull + eps.hull;
  } else {
    t.dx = (p.x1 + p.x2) / T(2) - (q.x1 + q.x2) / T(2);
    t.dy = (p.y1 + p.y2) / T(2) - (q.y1 + q.y2) / T(2);
    numerator = t.dx * t.dx + t.dy * t.dy;
    t.denominator = t.hull_w * t.hull_w + t.hull_h * t.hull_h + eps.hull;
  }
  t.has_penalty = t.denominator > T(0) && is_finite(t.denominator) && is_finite(numerator);
  t.penalty = t.has_penalty ? numerator / t.denominator : T(0);
  if constexpr (kKind == IouKind::kCiou) {
    const T turn = a.angle - b.angle;
    t.turn = is_finite(turn) ? turn : T(0);  // A box with a NaN has no angle.
    const T v = T(kAngleScale) * (t.turn * t.turn), rest = T(1) - t.iou + v + eps.hull;
    t.weight = rest != T(0) ? v / rest : T(0);
  }
  return t;
}

template <IouKind kKind, class T>
TINYSSD_INLINE T iou_value(const Measured<T>& a, const Measured<T>& b, const IouEps<T>& eps) {
  const PairTerms<T> t = pair_terms<kKind>(a, b, eps);
  T value = t.iou - t.penalty;
  if constexpr (kKind == IouKind::kCiou) value = value - t.weight * (T(kAngleScale) * (t.turn * t.turn));
  return value;
}

// float: 2**96, double: 2**992; 2**31 of them have a finite sum.
template <class T>
constexpr T kSteepest = std::is_same_v<T, float> ? T(0x1p96) : T(0x1p992);

template <class T>
TINYSSD_INLINE T limit_slope(T slope) {
  const T cut = slope > kSteepest<T> ? kSteepest<T> : slope < -kSteepest<T> ? -kSteepest<T> : slope;
  return slope == slope ? cut : T(0);
}

// How much of an edge's slope a box gets: all if its edge alone bounds the overlap, half at a tie.
template <class T>
TINYSSD_INLINE T edge_share(bool bounds, bool tie) {
  return bounds ? T(1) : tie ? T(0.5) : T(0);
}

// The slope along one edge of box a. `inter`, `area` and `hull` say how intersection, own area and the hull's side on
// this axis grow as the edge moves; the rest are the pair's terms on this axis.
template <IouKind kKind, class T>
TINYSSD_INLINE T edge_slope(
    const PairTerms<T>& t, const IouEps<T>& eps, T inter, T area, T hull, T hull_side, T hull_cross, T distance,
    T angle) {
  const T by_iou = (inter * (T(1) + t.iou) - area * t.iou) / (t.united + eps.united);
  T slope = t.has_iou ? by_iou : T(0);
  if constexpr (kKind == IouKind::kGiou) {
    const T by_hull = (hull * hull_cross * (T(1) - t.penalty) - (area - inter)) / t.denominator;
    slope = slope - (t.has_penalty ? by_hull : T(0));
  } else if constexpr (kKind != IouKind::kIou) {
    const T by_distance = (distance - t.penalty * (T(2) * hull_side * hull)) / t.denominator;
    slope = slope - (t.has_penalty ? by_distance : T(0));
  }
  if constexpr (kKind == IouKind::kCiou) slope = slope - t.weight * (T(2 * kAngleScale) * t.turn) * angle;
  return limit_slope(slope);
}

// The slopes of the family's value along the four edges of box a.
template <IouKind kKind, class T>
TINYSSD_INLINE Box<T> iou_slopes(const Measured<T>& a, const Measured<T>& b, const IouEps<T>& eps) {
  const PairTerms<T> t = pair_terms<kKind>(a, b, eps);
  const Box<T>&p = a.box, &q = b.box;
  const T width = p.x2 - p.x1, height = p.y2 - p.y1;
  const bool meet_x = smaller(p.x2, q.x2) - larger(p.x1, q.x1) >= T(0);
  const bool meet_y = smaller(p.y2, q.y2) - larger(p.y1, q.y1) >= T(0);
  const T inter_x = meet_x ? t.h : T(0), inter_y = meet_y ? t.w : T(0);
  T hull_x = 0, hull_y = 0, angle_x = 0, angle_y = 0;
  if constexpr (kKind != IouKind::kIou) {
    hull_x = larger(p.x2, q.x2) - smaller(p.x1, q.x1) >= T(0) ? T(1) : T(0);
    hull_y = larger(p.y2, q.y2) - smaller(p.y1, q.y1) >= T(0) ? T(1) : T(0);
  }
  if constexpr (kKind == IouKind::kCiou) {
    const T square = width * width + height * height;
    angle_x = square > T(0) ? height / square : T(0);
    angle_y = square > T(0) ? -width / square : T(0);
  }
  const T same_x1 = edge_share<T>(p.x1 > q.x1, p.x1 == q.x1), far_x1 = edge_share<T>(p.x1 < q.x1, p.x1 == q.x1);
  const T same_y1 = edge_share<T>(p.y1 > q.y1, p.y1 == q.y1), far_y1 = edge_share<T>(p.y1 < q.y1, p.y1 == q.y1);
  const T same_x2 = edge_share<T>(p.x2 < q.x2, p.x2 == q.x2), far_x2 = edge_share<T>(p.x2 > q.x2, p.x2 == q.x2);
  const T same_y2 = edge_share<T>(p.y2 < q.y2, p.y2 == q.y2), far_y2 = edge_share<T>(p.y2 > q.y2, p.y2 == q.y2);
  return {
      edge_slope<kKind>(t, eps, -same_x1 * inter_x, -height, -far_x1 * hull_x, t.hull_w, t.hull_h, t.dx, -angle_x),
      edge_slope<kKind>(t, eps, -same_y1 * inter_y, -width, -far_y1 * hull_y, t.hull_h, t.hull_w, t.dy, -angle_y),
      edge_slope<kKind>(t, eps, same_x2 * inter_x, height, far_x2 * hull_x, t.hull_w, t.hull_h, t.dx, angle_x),
      edge_slope<kKind>(t, eps, same_y2 * inter_y, width, far_y2 * hull_y, t.hull_h, t.hull_w, t.dy, angle_y),
  };
}

// A box's gradient is a sum over the other boxes: in 32 interleaved sums, each in order, then by halves, so that every
// backend returns the same bits.
constexpr int kGradientLanes = 32;

// Calls f with the kind as a compile-time constant.
template <class F>
auto with_kind(int64_t kind, const F& f) {
  switch (static_cast<IouKind>(kind)) {
    case IouKind::kGiou: return f(std::integral_constant<IouKind, IouKind::kGiou>{});
    case IouKind::kDiou: return f(std::integral_constant<IouKind, IouKind::kDiou>{});
    case IouKind::kCiou: return f(std::integral_constant<IouKind, IouKind::kCiou>{});
    default: return f(std::integral_constant<IouKind, IouKind::kIou>{});
  }
}

}  // namespace tinyssd
