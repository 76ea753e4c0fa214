// Anchor assignment on CUDA, shared by assign_anchors and multibox_target: two launches for a whole batch. The first
// (match.cuh) writes every anchor's result as the threshold alone decides it; the second (claim.cuh) gives each box an
// anchor of its own. Between them lie tile_best, which no IoU of a box with the anchors of a tile exceeds, and holder, the
// box that holds an anchor. Where there are many anchors, a launch before them (reach.cuh) says which IoUs matter.
#pragma once

#include "claim.cuh"
#include "match.cuh"

#include <cstdlib>

namespace tinyssd {

// With few anchors, small tiles give all multiprocessors work.
#if defined(__CUDACC__)
constexpr int64_t kManyTiles = 4096;
#else
// tests/simt makes it so small that a few hundred anchors are many.
inline const int64_t kManyTiles = std::getenv("TINYSSD_OPS_SIMT_SMALL") == nullptr ? 4096 : 4;
#endif
constexpr int kFewPerLane = 1, kManyPerLane = 4;

template <int kPerLane, class T, class Write>
void assign_in_tiles(
    const DeviceScope& scope, const Tensor& anchors, int64_t num_anchors, const GroundTruth<T>& gts, int64_t num_images,
    double iou_threshold, const Write& write) {
  const int64_t blocks = ceil_div(num_anchors, kWarp * kPerLane * kMatchWarps), tiles = blocks * kMatchWarps;
  Scratch scratch;
  const auto tile_best = scratch.add<T>(num_images * gts.count * tiles);
  const auto reached = scratch.add<T>(kPerLane == kManyPerLane ? num_images * gts.count : 0);
  const auto holder = scratch.add<int>(num_images * num_anchors), anchor_of = scratch.add<int>(num_images * gts.count);
  scratch.allocate(anchors);
  const bool reaches = kPerLane == kManyPerLane && gts.count > 0;
  if (reaches) {
    scope.launch(
        reach_kernel<T>, ceil_div(num_images * gts.count, kReachWarps), kWarp * kReachWarps, 0, box_data<T>(anchors),
        num_anchors, gts, num_images * gts.count, scratch.get(reached));
  }
  scope.launch(
      match_kernel<T, kPerLane, Write>, num_images * blocks, kWarp * kMatchWarps, sizeof(MatchShared<T>),
      box_data<T>(anchors), num_anchors, gts, static_cast<T>(iou_threshold), blocks,
      reaches ? scratch.get(reached) : nullptr, scratch.get(tile_best), scratch.get(holder), write);
  if (gts.count == 0) return;
  const int64_t warps = smaller(gts.count, int64_t{kMostClaimWarps});
  scope.launch(
      claim_kernel<T, kPerLane, Write>, num_images, static_cast<unsigned>(kWarp * warps), 0, box_data<T>(anchors),
      num_anchors, gts, tiles, scratch.get(tile_best), scratch.get(holder), scratch.get(anchor_of), write);
}

// Assigns and stores every anchor's result. At least one image and one anchor.
template <class T, class Write>
void assign(
    const DeviceScope& scope, const Tensor& anchors, int64_t num_anchors, const GroundTruth<T>& gts, int64_t num_images,
    double iou_threshold, const Write& write) {
  const bool many = num_images * ceil_div(num_anchors, kWarp * kManyPerLane) >= kManyTiles;
  const auto run = many ? assign_in_tiles<kManyPerLane, T, Write> : assign_in_tiles<kFewPerLane, T, Write>;
  run(scope, anchors, num_anchors, gts, num_images, iou_threshold, write);
}

}  // namespace tinyssd
