/* Philox4x32-10: counters to random numbers in [0, 1), as `philox.py` says.
 *
 * Input: the key and the counter's parts. Output: 4 floats for each block from `first` on, the upper
 * 24 bits of the block's words times 2^-24. Blocks don't depend on each other: eight at a time, each
 * step a loop over them, which a compiler turns into vectors. Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011.
 */
#include <stdint.h>

#define TOGETHER 8
#define EACH for (int i = 0; i < TOGETHER; i++)

static void eight(float *out, uint64_t first, uint32_t stream, uint32_t step, uint64_t key) {
  uint32_t a[TOGETHER], b[TOGETHER], c[TOGETHER], d[TOGETHER];
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  EACH {
    uint64_t block = first + (uint64_t)i;
    a[i] = (uint32_t)block, b[i] = (uint32_t)(block >> 32), c[i] = stream, d[i] = step;
  }
  for (int round = 0; round < 10; round++) {
    EACH {
      uint64_t p = (uint64_t)0xD2511F53u * a[i], q = (uint64_t)0xCD9E8D57u * c[i];
      a[i] = (uint32_t)(q >> 32) ^ b[i] ^ k0, b[i] = (uint32_t)q;
      c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1, d[i] = (uint32_t)p;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  EACH {
    out[4 * i] = (float)(int32_t)(a[i] >> 8) * 0x1p-24f;
    out[4 * i + 1] = (float)(int32_t)(b[i] >> 8) * 0x1p-24f;
    out[4 * i + 2] = (float)(int32_t)(c[i] >> 8) * 0x1p-24f;
    out[4 * i + 3] = (float)(int32_t)(d[i] >> 8) * 0x1p-24f;
  }
}

void dslc_philox_units(float *out, uint64_t key, uint32_t stream, uint32_t step, uint64_t first,
                       uint64_t blocks) {
  uint64_t done = 0;
  for (; done + TOGETHER <= blocks; done += TOGETHER)
    eight(out + 4 * done, first + done, stream, step, key);
  float rest[4 * TOGETHER];
  if (done < blocks) eight(rest, first + done, stream, step, key);
  for (uint64_t i = 0; i < 4 * (blocks - done); i++) out[4 * done + i] = rest[i];
}
