/* The CUDA runtime of the fake driver (cuda.c): one device of compute capability 9.0 whose memory
   is the host's, poisoned when allocated; streams and events are immediate. */
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 1, SHARED = 8, WARP = 10, PROCESSORS = 16, MAJOR = 75, MINOR = 76 };

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case SHARED: *value = 49152; break;
    case WARP: *value = 32; break;
    case PROCESSORS: *value = 132; break;
    case MAJOR: *value = 9; break;
    case MINOR: *value = 0; break;
    case MAX_THREADS: default: *value = 1024;
  }
  return 0;
}

int cudaMalloc(void **p, size_t n) {
  n = (n + 255) / 256 * 256;
  *p = aligned_alloc(256, n ? n : 256);
  if (*p) memset(*p, 0xA5, n);
  return *p ? 0 : 2;
}
int cudaMallocHost(void **p, size_t n) { return (*p = malloc(n)) ? 0 : 2; }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = (size_t)8 << 30; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  memcpy(to, from, n);
  return 0;
}
int cudaMemcpyPeerAsync(void *to, int d, const void *from, int s, size_t n, void *stream) {
  memcpy(to, from, n);
  return 0;
}

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return device ? 101 : 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDeviceProperties(void *p, int device) { memset(p, 0, 512); return 0; }
const char *cudaGetErrorName(int error) { return "fakeError"; }
const char *cudaGetErrorString(int error) { return "the fake runtime refused"; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }

static int handle(void **p) { *p = (void *)1; return 0; }
int cudaEventCreate(void **event) { return handle(event); }
int cudaEventDestroy(void *event) { return 0; }
int cudaEventElapsedTime(float *ms, void *from, void *to) { *ms = 1; return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaStreamCreate(void **stream) { return handle(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return handle(stream); }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { return 801; }
int cudaStreamEndCapture(void *stream, void **graph) { return 801; }
int cudaGraphInstantiate(void **out, void *graph, unsigned long long flags) { return 801; }
int cudaGraphLaunch(void *graph, void *stream) { return 801; }
int cudaGraphDestroy(void *graph) { return 0; }
int cudaGraphExecDestroy(void *graph) { return 0; }
