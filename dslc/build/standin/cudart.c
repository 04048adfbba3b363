/* A stand-in for the CUDA runtime library: as cuda.c, every call says "no device"
   (cudaErrorNoDevice). The names carry the version of the real library (cudart.map). */
#define NO_DEVICE(name) int name(void) { return 100; }

NO_DEVICE(cudaDeviceGetAttribute)
NO_DEVICE(cudaEventCreate)
NO_DEVICE(cudaEventDestroy)
NO_DEVICE(cudaEventElapsedTime)
NO_DEVICE(cudaEventRecord)
NO_DEVICE(cudaEventSynchronize)
NO_DEVICE(cudaFree)
NO_DEVICE(cudaFreeHost)
NO_DEVICE(cudaGetDevice)
NO_DEVICE(cudaGetDeviceCount)
NO_DEVICE(cudaGetDeviceProperties)
NO_DEVICE(cudaGetLastError)
NO_DEVICE(cudaGraphDestroy)
NO_DEVICE(cudaGraphExecDestroy)
NO_DEVICE(cudaGraphInstantiate)
NO_DEVICE(cudaGraphLaunch)
NO_DEVICE(cudaMalloc)
NO_DEVICE(cudaMallocHost)
NO_DEVICE(cudaMemGetInfo)
NO_DEVICE(cudaMemcpyAsync)
NO_DEVICE(cudaMemcpyPeerAsync)
NO_DEVICE(cudaPeekAtLastError)
NO_DEVICE(cudaSetDevice)
NO_DEVICE(cudaStreamBeginCapture)
NO_DEVICE(cudaStreamCreate)
NO_DEVICE(cudaStreamCreateWithFlags)
NO_DEVICE(cudaStreamDestroy)
NO_DEVICE(cudaStreamEndCapture)
NO_DEVICE(cudaStreamSynchronize)
NO_DEVICE(cudaStreamWaitEvent)

const char *cudaGetErrorName(int error) { return "cudaErrorNoDevice"; }
const char *cudaGetErrorString(int error) { return "this is a build-time stand-in, not a driver"; }
