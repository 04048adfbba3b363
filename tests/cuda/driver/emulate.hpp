// What CUDA C++ that TVM writes for plain kernels needs to be a host program: one thread after
// the other, block by block; where threads meet at barriers, each is a coroutine.
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__
#define alignas(n)  // stands where C++ wants it after `static`

typedef _Float16 half;
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;

struct float4 { float x, y, z, w; };
struct float2 { float x, y; };
struct double2 { double x, y; };
struct uint4 { unsigned x, y, z, w; };
struct ushort2 { ushort x, y; };
struct ushort4 { ushort x, y, z, w; };
struct uint2 { unsigned x, y; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static double2 make_double2(double x, double y) { return {x, y}; }
static ushort4 make_ushort4(ushort x, ushort y, ushort z, ushort w) { return {x, y, z, w}; }
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index3 { unsigned x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

template <class T> static T min(T a, T b) { return b < a ? b : a; }
template <class T> static T max(T a, T b) { return a < b ? b : a; }
static float min(float a, float b) { return fminf(a, b); }
static float max(float a, float b) { return fmaxf(a, b); }
static float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static half __float2half_rn(float x) { return (half)x; }
static double rsqrt(double x) { return 1.0 / sqrt(x); }
static float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
static double __longlong_as_double(int64_t x) { double y; memcpy(&y, &x, 8); return y; }

#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF HUGE_VAL
#define CUDART_NAN ((double)NAN)

namespace emulation {

// A context starts a thread on its stack; from then on jumps change threads, which unlike contexts
// ask the kernel for nothing.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  std::vector<char> stack;
  Index3 thread;
  bool started, done;
};
static jmp_buf scheduler;
static Fiber *current;
static std::function<void()> body;

static void enter() {
  body();
  current->done = true;
  _longjmp(scheduler, 1);
}

static void barrier() {
  Index3 mine = threadIdx;
  if (!_setjmp(current->place)) _longjmp(scheduler, 1);
  threadIdx = mine;
}

// Runs a thread to its next barrier or its end.
static void go_on(Fiber &f) {
  current = &f;
  threadIdx = f.thread;
  if (_setjmp(scheduler)) return;
  if (f.started) _longjmp(f.place, 1);
  f.started = true;
  setcontext(&f.context);
}

static void each_thread(const unsigned *block, const std::function<void()> &run) {
  for (unsigned z = 0; z < block[2]; z++)
    for (unsigned y = 0; y < block[1]; y++)
      for (unsigned x = 0; x < block[0]; x++) threadIdx = {x, y, z}, run();
}

// Threads run in turns from barrier to barrier; all must finish in the same turn.
static void run_block(const unsigned *block) {
  static std::vector<Fiber> fibers;  // kept from block to block: their stacks are large
  fibers.resize(block[0] * block[1] * block[2]);
  size_t i = 0;
  each_thread(block, [&] {
    Fiber &f = fibers[i++];
    f.thread = threadIdx;
    f.started = f.done = false;
    if (f.stack.empty()) f.stack.resize(64 << 10);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    makecontext(&f.context, enter, 0);
  });
  for (bool going = true; going;) {
    going = false;
    for (Fiber &f : fibers) {
      if (f.done) continue;
      go_on(f);
      going = going || !f.done;
    }
    for (Fiber &f : fibers)
      if (going && f.done) abort();  // a barrier that not all threads reach
  }
}

static void run(const unsigned *grid, const unsigned *block, bool barriers,
                const std::function<void()> &kernel) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  body = kernel;
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0]; x++) {
        blockIdx = {x, y, z};
        if (barriers) run_block(block);
        else each_thread(block, kernel);
      }
}

// What threads of a warp exchange; all threads of the block do so at the same places.
static unsigned char exchanged[1024][16];

template <class T> static T exchange(T value, unsigned source) {
  memcpy(exchanged[threadIdx.x], &value, sizeof value);
  barrier();
  T found;
  memcpy(&found, exchanged[source], sizeof found);
  barrier();
  return found;
}

}  // namespace emulation

template <class T> static T __shfl_xor_sync(unsigned, T value, int distance) {
  return emulation::exchange(value, threadIdx.x ^ distance);
}

template <class T> static T __shfl_sync(unsigned, T value, int lane) {
  return emulation::exchange(value, threadIdx.x / 32 * 32 + lane);
}

#define __syncthreads() emulation::barrier()
