/* A driver for tests on machines without a GPU: device memory is host memory, and a launch is
   logged to the file $FAKE_CUDA_LOG and, when a library of emulated kernels ($FAKE_CUDA_KERNELS,
   made by tests/cuda/emulator.py) is given, carried out on the CPU. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream, *attributes;
  unsigned attribute_count;
} Launch;

typedef void (*Kernel)(const unsigned *grid, const unsigned *block, void **arguments);

static void say(const char *what, const char *name, const Launch *l) {
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *log = path ? fopen(path, "a") : NULL;
  if (!log) return;
  fprintf(log, "%s %s", what, name);
  if (l)
    fprintf(log, " %u %u %u %u %u %u %u", l->grid[0], l->grid[1], l->grid[2], l->block[0],
            l->block[1], l->block[2], l->shared);
  fprintf(log, "\n");
  fclose(log);
}

static int emulate(const char *name, const Launch *l, void **arguments) {
  const char *path = getenv("FAKE_CUDA_KERNELS");
  if (!path) return 0;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  char symbol[512];
  snprintf(symbol, sizeof symbol, "emulate_%s", name);
  Kernel kernel = library ? (Kernel)dlsym(library, symbol) : NULL;
  if (!kernel) return 500; /* CUDA_ERROR_NOT_FOUND */
  kernel(l->grid, l->block, arguments);
  return 0;
}

int cuLaunchKernelEx(const Launch *l, void *function, void **arguments, void **extra) {
  say("launch", function, l);
  for (int i = 0; i < 3; i++)
    if (l->grid[i] == 0 || l->block[i] == 0) return 1; /* CUDA_ERROR_INVALID_VALUE */
  if (l->block[0] * l->block[1] * l->block[2] > 1024 || l->shared > 48 * 1024) return 1;
  return emulate(function, l, arguments);
}

int cuModuleLoadData(void **module, const void *image) {
  char magic[9];
  snprintf(magic, sizeof magic, "%08x", *(const unsigned *)image);
  say("load", magic, NULL);
  *module = (void *)1;
  return 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = strdup(name);
  return 0;
}

int cuModuleUnload(void *module) { return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuTensorMapEncodeTiled(void) { return 801; /* CUDA_ERROR_NOT_SUPPORTED */ }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "fake") < 0; }
int cuGetErrorName(int error, const char **name) { *name = "FAKE_CUDA_ERROR"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "the fake driver refused"; return 0; }
