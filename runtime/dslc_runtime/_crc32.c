/* Folds many bytes into 16 that have the same CRC-32, zlib's, at the speed of memory.
 *
 * Input: bytes, a multiple of 256. Output: 16 bytes; whoever called finishes the sum over them, and
 * over what is left (checksum.py). A sum of bits is a remainder of polynomials over {0, 1}, so 16
 * bytes may be taken from the front of a message if what they leave, times x^128 modulo the sum's
 * polynomial, is added to the next 16: two multiplications without carries. Four such chains hide
 * that each waits for itself. Gopal et al., Fast CRC Computation for Generic Polynomials Using
 * PCLMULQDQ, Intel 2009.
 *
 * Non-goals: CPUs without that instruction (the answer is 0, nothing is written).
 */
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* What is asked of memory before it is needed: by itself a CPU stops at the end of each page. */
#define AHEAD 2048

#define WITH_PRODUCTS __attribute__((target("pclmul,sse4.1")))
#define WITH_WIDE_PRODUCTS __attribute__((target("avx512f,vpclmulqdq")))

/* x^(bits - 32) and x^(bits + 32) modulo the polynomial, reflected: what 16 bytes are multiplied by
 * to stand 16, 64 or 256 bytes further on. */
#define BY_16 0x0ccaa009e, 0x1751997d0
#define BY_64 0x1c6e41596, 0x154442bd4
#define BY_256 0x1322d1430, 0x11542778a

WITH_PRODUCTS static __m128i load(const uint8_t *data) {
  return _mm_loadu_si128((const __m128i *)data);
}

WITH_PRODUCTS static __m128i folded(__m128i front, __m128i factors, __m128i next) {
  __m128i low = _mm_clmulepi64_si128(front, factors, 0x00);
  __m128i high = _mm_clmulepi64_si128(front, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

WITH_PRODUCTS static void fold(const uint8_t *data, uint64_t size, int start, uint8_t *result) {
  __m128i far = _mm_set_epi64x(BY_64), near = _mm_set_epi64x(BY_16);
  __m128i a = load(data), b = load(data + 16), c = load(data + 32), d = load(data + 48);
  a = _mm_xor_si128(a, _mm_cvtsi32_si128(start));
  for (const uint8_t *at = data + 64; at < data + size; at += 64) {
    _mm_prefetch(at + AHEAD, _MM_HINT_T0);
    a = folded(a, far, load(at));
    b = folded(b, far, load(at + 16));
    c = folded(c, far, load(at + 32));
    d = folded(d, far, load(at + 48));
  }
  d = folded(folded(folded(a, near, b), near, c), near, d);
  _mm_storeu_si128((__m128i *)result, d);
}

WITH_WIDE_PRODUCTS static __m512i wide_folded(__m512i front, __m512i factors, const void *next) {
  __m512i low = _mm512_clmulepi64_epi128(front, factors, 0x00);
  __m512i high = _mm512_clmulepi64_epi128(front, factors, 0x11);
  return _mm512_ternarylogic_epi64(low, high, _mm512_loadu_si512(next), 0x96); /* exclusive or */
}

/* Into 256 bytes, whose number that of the bytes must be a multiple of. */
WITH_WIDE_PRODUCTS static void fold_wide(const uint8_t *data, uint64_t size, uint8_t *result) {
  __m512i far = _mm512_broadcast_i32x4(_mm_set_epi64x(BY_256));
  __m512i a = _mm512_loadu_si512(data), b = _mm512_loadu_si512(data + 64);
  __m512i c = _mm512_loadu_si512(data + 128), d = _mm512_loadu_si512(data + 192);
  a = _mm512_xor_si512(a, _mm512_maskz_set1_epi32(1, -1));
  for (const uint8_t *at = data + 256; at < data + size; at += 256) {
    a = wide_folded(a, far, at);
    b = wide_folded(b, far, at + 64);
    c = wide_folded(c, far, at + 128);
    d = wide_folded(d, far, at + 192);
  }
  _mm512_storeu_si512(result, a);
  _mm512_storeu_si512(result + 64, b);
  _mm512_storeu_si512(result + 128, c);
  _mm512_storeu_si512(result + 192, d);
}

int dslc_crc32_fold(const uint8_t *data, uint64_t size, uint8_t *result) {
  if (size == 0 || size % 256 || !__builtin_cpu_supports("pclmul")) return 0;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")) {
    uint8_t rest[256];
    fold_wide(data, size, rest);
    fold(rest, sizeof rest, 0, result);
  } else {
    fold(data, size, -1, result); /* -1: what the sum begins with */
  }
  return 1;
}
#else
int dslc_crc32_fold(const uint8_t *data, uint64_t size, uint8_t *result) {
  (void)data, (void)size, (void)result;
  return 0;
}
#endif
