/* Sixteen bfloat16 numbers at a time, computed in float. */

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t masks __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE floats load(const uint16_t *at) {
    return (floats)(__builtin_convertvector(*(const halves *)at, words) << 16);
}

INLINE void store(uint16_t *at, floats values) { /* rounds to the nearest, ties to even; NaN stays NaN */
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh((__m512)values));
#else
    words bits = (words)values;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    masks is_nan = values != values;
    rounded = ((words)is_nan & 0x7fc0) | (~(words)is_nan & rounded);
    *(halves *)at = __builtin_convertvector(rounded, halves);
#endif
}

INLINE floats keep_where(masks mask, floats values) { return (floats)((words)mask & (words)values); }
INLINE floats vector(const float *at) { return *(const loose *)at; }
INLINE floats relu(floats z) { return keep_where(~(z < 0), z); } /* NaN passes, as in torch */
