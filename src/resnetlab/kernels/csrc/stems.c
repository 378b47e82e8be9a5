/* A 3x3 convolution of images without a padding, and the ReLU behind it: few channels in, so that the time is that of
   writing what comes out, which is done once. */

#include "vectors.h"

/* ReLU of some pixels that follow each other in a row; lines: three rows of the image, as floats, from there on. */
INLINE void rectified_pixels(const float *lines, int64_t line, const float *weight, uint16_t *y, int64_t channels,
                             int64_t out, const int pixels, const int vectors) {
    floats sums[4][2] = {{{0}}};
    for (int64_t row = 0; row < 3; row++)
        for (int64_t k = 0; k < 3 * channels; k++) {
            const float *by = weight + (row * 3 * channels + k) * out;
            for (int p = 0; p < pixels; p++)
                for (int v = 0; v < vectors; v++)
                    sums[p][v] += lines[row * line + p * channels + k] * vector(by + v * LANES);
        }
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++) store(y + p * out + v * LANES, relu(sums[p][v]));
}

/* x (images, height, width, channels) and kernels (3, 3, channels, out), float, to (images, height - 2, width - 2, out);
   out is a multiple of 16. */
void stem_convolve(const uint16_t *x, const float *weight, uint16_t *y, int64_t images, int64_t height, int64_t width,
                   int64_t channels, int64_t out) {
    const int64_t rows = height - 2, columns = width - 2, line = width * channels;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < images * rows; at++) {
        const uint16_t *from = x + (at / rows * height + at % rows) * line;
        float lines[3 * line];
        for (int64_t i = 0; i < 3 * line; i++) {
            union { uint32_t bits; float number; } wide = {(uint32_t)from[i] << 16};
            lines[i] = wide.number;
        }
        for (int64_t c = 0; c < out; c += 2 * LANES) {
            const int both = c + LANES < out;
            for (int64_t column = 0; column < columns;) {
                const float *seen = lines + column * channels;
                uint16_t *to = y + (at * columns + column) * out + c;
                const int four = column + 4 <= columns;
                if (four && both) rectified_pixels(seen, line, weight + c, to, channels, out, 4, 2);
                else if (four) rectified_pixels(seen, line, weight + c, to, channels, out, 4, 1);
                else if (both) rectified_pixels(seen, line, weight + c, to, channels, out, 1, 2);
                else rectified_pixels(seen, line, weight + c, to, channels, out, 1, 1);
                column += four ? 4 : 1;
            }
        }
    }
}
