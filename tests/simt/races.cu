// Faults that the race detector or weak memory must show, each beside the same kernel without it. See faults.cu.
#include "faults.h"

namespace {

// -- A message whose flag may arrive before it: volatile accesses are never a race, but without fences nothing orders them.

__global__ void message_kernel(int fence, volatile int* data, volatile int* flag, volatile int* answer) {
  if (threadIdx.x == 0) {
    *data = 3;
    if (fence) __threadfence_block();
    *flag = 1;
    while (*answer < 0) {
    }
  } else if (threadIdx.x == 40) {
    while (*flag != 1) {
    }
    if (fence) __threadfence_block();
    *answer = *data + 2;
  }
}

std::vector<long> late_store(bool good) {
  Array<int> data(1), flag(1), answer(1);
  data.values[0] = 0;
  launch(1, 0, message_kernel, good, data.data(), flag.data(), answer.data());
  return {answer.values[0]};
}

// -- The block that comes last adds up what all have left.

__global__ void last_block_kernel(int fence, int* partial, unsigned* count, int* out) {
  auto& last = *shared_as<int>();
  const int thread = static_cast<int>(threadIdx.x);
  partial[blockIdx.x * kThreads + threadIdx.x] = thread;
  __syncthreads();
  if (thread == 0) {
    if (fence) __threadfence();
    last = atomicAdd(count, 1u) == gridDim.x - 1;
    if (fence) __threadfence();
  }
  __syncthreads();
  if (!last) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i * kThreads + threadIdx.x];
  out[thread] = sum;
}

std::vector<long> fence(bool good) {
  Array<int> partial(kBlocks * kThreads), out(kThreads);
  Array<unsigned> count(1);
  count.values[0] = 0;
  launch(kBlocks, sizeof(int), last_block_kernel, good, partial.data(), count.data(), out.data());
  return {out.values[5]};
}

// -- A fence of the block's scope between blocks.

__global__ void scope_kernel(int device, int* data, unsigned* count, int* out) {
  if (threadIdx.x != 0) return;
  data[blockIdx.x] = 1;
  device ? __threadfence() : __threadfence_block();
  if (atomicAdd(count, 1u) != gridDim.x - 1) return;
  device ? __threadfence() : __threadfence_block();
  *out = data[0] + data[1];
}

std::vector<long> scope(bool good) {
  Array<int> data(2), out(1);
  Array<unsigned> count(1);
  count.values[0] = 0;
  launch(2, 0, scope_kernel, good, data.data(), count.data(), out.data());
  return {out.values[0]};
}

// -- A warp that shares what its lanes have stored.

__global__ void neighbour_kernel(int sync, int* out) {
  int* values = shared_as<int>();
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (sync) {
    __syncwarp();
  } else {
    __shfl_sync(kAll, 0, 0);  // brings the lanes together, but orders no memory
  }
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

std::vector<long> syncwarp(bool good) {
  Array<int> out(kThreads);
  launch(1, kThreads * sizeof(int), neighbour_kernel, good, out.data());
  return {out.values[6], out.values[127]};
}

// -- Two blocks, one word: no run that finishes one before the other would show it.

__global__ void other_block_kernel(int own, const int* in, int* data, int* out) {
  if (threadIdx.x != 0) return;
  data[blockIdx.x] = in[0];
  out[blockIdx.x] = data[own ? blockIdx.x : 0];
}

std::vector<long> other_block(bool good) {
  Array<int> in(1), data(64), out(64);
  in.values[0] = 7;
  launch(64, 0, other_block_kernel, good, in.data(), data.data(), out.data());
  return {out.values[0], out.values[63]};
}

__global__ void increment_kernel(int atomic, int* count) {
  if (threadIdx.x != 0) return;
  if (atomic) {
    atomicAdd(count, 1);
  } else {
    *count = *count + 1;
  }
}

std::vector<long> increment(bool good) {
  Array<int> count(1);
  count.values[0] = 0;
  launch(64, 0, increment_kernel, good, count.data());
  return {count.values[0]};
}

// -- A flag that is waited for.

__global__ void wait_kernel(int fresh, int* flag, int* data) {
  if (threadIdx.x == 40) {
    *data = 3;
    __threadfence_block();
    atomicExch(flag, 1);
  } else if (threadIdx.x == 0) {
    if (fresh) {
      while (__ldcg(flag) != 1) {
      }
    } else {
      while (*flag != 1) {
      }
    }
    __threadfence_block();
    *data += 1;
  }
}

std::vector<long> stale_read(bool good) {
  Array<int> flag(1), data(1);
  launch(1, 0, wait_kernel, good, flag.data(), data.data());
  return {data.values[0]};
}

// -- A shuffle of some lanes whose mask names all.

__global__ void shuffle_kernel(int good, int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int value = lane;
  if (lane < 16) value = __shfl_xor_sync(good ? 0xffffu : kAll, value, 1);
  __syncthreads();
  out[threadIdx.x] = value;
}

std::vector<long> shuffle(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, shuffle_kernel, good, out.data());
  return {out.values[4], out.values[20]};
}

}  // namespace

int main(int, char** arguments) {
  simt_watch_races(1);
  const Cases cases = {
      {"fence", fence}, {"increment", increment}, {"late_store", late_store}, {"other_block", other_block},
      {"scope", scope}, {"shuffle", shuffle},     {"stale_read", stale_read}, {"syncwarp", syncwarp},
  };
  return run_case(cases, arguments);
}
