/* Images of bytes (images, height, width, channels): bilinear samples, mirrored images, normalised images. Torch takes
   several passes over memory for each of them. The results are torch's, to the bit. */

#include <string.h>

#include "vectors.h"

#define ROUNDS 12582912.0f /* added to 0..255: rounds to the nearest, ties to even, and leaves the byte in the last bits */

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

typedef float quad __attribute__((vector_size(16)));
typedef float loose_quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t words4 __attribute__((vector_size(16)));

INLINE quad multiply_add(quad a, float b, quad c) {
    quad sum;
    for (int i = 0; i < 4; i++) sum[i] = MULTIPLY_ADD(a[i], b, c[i]);
    return sum;
}

INLINE uint8_t byte(float value) {
    union { float number; uint32_t bits; } rounded = {value + ROUNDS};
    return (uint8_t)rounded.bits;
}

/* The place in pixels of a place from -1 to 1, where those are the outer edges; outside, the border continues. */
INLINE float place(float at, int64_t pixels) {
    float found = (at + 1) * ((float)pixels / 2) - 0.5f;
    float last = (float)(pixels - 1);
    found = found > 0 ? found : 0; /* NaN becomes 0 */
    return found < last ? found : last;
}

INLINE void widen(const uint8_t *from, float *to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

/* Bilinear samples. Torch samples colours one after the other, from a copy in float; here three colours are computed at
   once, from two rows in float at a time. The sums have torch's order, and are fused where torch's are.
   The places of columns and rows, from -1 to 1: x, y (images, size); to (images, size, size, channels). */
void crop_sample(const uint8_t *images, const float *x, const float *y, uint8_t *to, int64_t count, int64_t height,
                 int64_t width, int64_t channels, int64_t size) {
    const int64_t line = width * channels;
#pragma omp parallel for schedule(static)
    for (int64_t image = 0; image < count; image++) {
        const uint8_t *from = images + image * height * line;
        int64_t left[size], right[size];
        float wests[size], easts[size];
        float rows[2][line + 4]; /* four floats are read for the three of the last pixel */
        int64_t held[2] = {-1, -1};
        for (int64_t i = 0; i < size; i++) {
            float at = place(x[image * size + i], width);
            int64_t column = (int64_t)at;
            left[i] = column * channels;
            right[i] = column + 1 < width ? left[i] + channels : left[i]; /* its weight is 0 there */
            easts[i] = at - (float)column;
            wests[i] = 1 - easts[i];
        }
        for (int i = 0; i < 4; i++) rows[0][line + i] = rows[1][line + i] = 0;
        for (int64_t row = 0; row < size; row++) {
            float at = place(y[image * size + row], height);
            int64_t above = (int64_t)at, below = above + 1 < height ? above + 1 : above;
            float south = at - (float)above, north = 1 - south;
            int upper = held[1] == above, lower;
            if (held[upper] != above) widen(from + above * line, rows[upper], line), held[upper] = above;
            lower = below == above ? upper : !upper;
            if (held[lower] != below) widen(from + below * line, rows[lower], line), held[lower] = below;
            const float *up = rows[upper], *low = rows[lower];
            uint8_t *out = to + (image * size + row) * size * channels;
            for (int64_t i = 0; i < size; i++, out += channels) {
                float nw = wests[i] * north, ne = easts[i] * north, sw = wests[i] * south, se = easts[i] * south;
                if (channels == 3) {
                    quad sum = *(const loose_quad *)(up + left[i]) * nw;
                    sum = multiply_add(*(const loose_quad *)(up + right[i]), ne, sum);
                    sum = multiply_add(*(const loose_quad *)(low + left[i]), sw, sum);
                    sum = multiply_add(*(const loose_quad *)(low + right[i]), se, sum);
                    words4 bits = (words4)(sum + ROUNDS);
                    out[0] = (uint8_t)bits[0], out[1] = (uint8_t)bits[1], out[2] = (uint8_t)bits[2];
                } else {
                    for (int64_t c = 0; c < channels; c++) {
                        float sum = up[left[i] + c] * nw;
                        sum = MULTIPLY_ADD(up[right[i] + c], ne, sum);
                        sum = MULTIPLY_ADD(low[left[i] + c], sw, sum);
                        out[c] = byte(MULTIPLY_ADD(low[right[i] + c], se, sum));
                    }
                }
            }
        }
    }
}

/* Mirror the images, left to right, for which `chosen` is not 0, and copy the others. */
void mirror_images(const uint8_t *images, const uint8_t *chosen, uint8_t *to, int64_t count, int64_t height,
                   int64_t width, int64_t channels) {
    const int64_t line = width * channels;
#pragma omp parallel for schedule(static)
    for (int64_t image = 0; image < count; image++) {
        const uint8_t *from = images + image * height * line;
        uint8_t *out = to + image * height * line;
        if (!chosen[image]) {
            memcpy(out, from, height * line);
        } else if (channels == 3) {
            for (int64_t row = 0; row < height; row++, from += line, out += line)
                for (int64_t i = 0; i < line; i += 3)
                    for (int c = 0; c < 3; c++) out[i + c] = from[line - 3 - i + c];
        } else {
            for (int64_t row = 0; row < height; row++, from += line, out += line)
                for (int64_t i = 0; i < line; i += channels)
                    for (int64_t c = 0; c < channels; c++) out[i + c] = from[line - channels - i + c];
        }
    }
}

/* Divide by 255, subtract `mean` and divide by `std`, both for each value of a line. The images and the lines of an
   image are `image_step` and `line_step` bytes apart; those of the result lie back to back. */
void normalize_images(const uint8_t *images, const float *mean, const float *std, float *to, int64_t count,
                      int64_t height, int64_t line, int64_t image_step, int64_t line_step) {
#pragma omp parallel for schedule(static)
    for (int64_t image = 0; image < count; image++) {
        for (int64_t row = 0; row < height; row++) {
            const uint8_t *restrict from = images + image * image_step + row * line_step;
            float *restrict out = to + (image * height + row) * line;
            for (int64_t i = 0; i < line; i++) out[i] = ((float)from[i] / 255 - mean[i]) / std[i];
        }
    }
}
