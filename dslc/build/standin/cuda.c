/* A stand-in for the NVIDIA driver's library, for building on machines without one. TVM compiles
   CUDA kernels only where its CUDA runtime library loads, and that one needs these names. Each
   says "no device" (CUDA_ERROR_NO_DEVICE), so nothing can run through it. Built and loaded by
   dslc/build/cuda_drivers.py, only where there is no real driver; never part of an artifact. */
#define NO_DEVICE(name) int name(void) { return 100; }

NO_DEVICE(cuDeviceGetName)
NO_DEVICE(cuFuncSetAttribute)
NO_DEVICE(cuGetErrorName)
NO_DEVICE(cuGetErrorString)
NO_DEVICE(cuLaunchKernelEx)
NO_DEVICE(cuModuleGetFunction)
NO_DEVICE(cuModuleLoadData)
NO_DEVICE(cuModuleUnload)
NO_DEVICE(cuTensorMapEncodeTiled)
