/* Max pooling of 2x2 pixels, for bfloat16 maps (images, height, width, channels): an odd last row or column is left out.

   torch keeps where each maximum was, in eight bytes; here it is looked up again. Of equal pixels the first one, row by
   row, is the maximum, as in torch; so is NaN, wherever there is one. */

#include <string.h>

#include "vectors.h"

INLINE masks beats(floats value, floats best) { return (value > best) | (value != value); }
INLINE floats choose(masks mask, floats yes, floats no) {
    return (floats)(((words)mask & (words)yes) | (~(words)mask & (words)no));
}

void pool_forward(const uint16_t *x, uint16_t *y, int64_t images, int64_t height, int64_t width, int64_t channels) {
    int64_t rows = height / 2, columns = width / 2;
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < images * rows; line++) {
        const uint16_t *from = x + (line / rows * height + line % rows * 2) * width * channels;
        uint16_t *to = y + line * columns * channels;
        for (int64_t column = 0; column < columns; column++)
            for (int64_t c = 0; c < channels; c += LANES) {
                const uint16_t *at = from + column * 2 * channels + c;
                floats best = load(at), next = load(at + channels);
                best = choose(beats(next, best), next, best);
                next = load(at + width * channels);
                best = choose(beats(next, best), next, best);
                next = load(at + (width + 1) * channels);
                best = choose(beats(next, best), next, best);
                store(to + column * channels + c, best);
            }
    }
}

void pool_backward(const uint16_t *grad, const uint16_t *x, uint16_t *grad_x, int64_t images, int64_t height,
                   int64_t width, int64_t channels) {
    int64_t rows = height / 2, columns = width / 2, line_size = width * channels;
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < images * rows; line++) {
        int64_t row = line % rows * 2, start = (line / rows * height + row) * line_size;
        for (int64_t column = 0; column < columns; column++)
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t at = start + column * 2 * channels + c, below = at + line_size;
                floats g = load(grad + (line * columns + column) * channels + c);
                floats best = load(x + at), next = load(x + at + channels);
                masks second = beats(next, best);
                best = choose(second, next, best);
                next = load(x + below);
                masks third = beats(next, best);
                best = choose(third, next, best);
                next = load(x + below + channels);
                masks fourth = beats(next, best);
                store(grad_x + at, keep_where(~(second | third | fourth), g));
                store(grad_x + at + channels, keep_where(second & ~(third | fourth), g));
                store(grad_x + below, keep_where(third & ~fourth, g));
                store(grad_x + below + channels, keep_where(fourth, g));
            }
        if (width % 2) {
            memset(grad_x + start + (width - 1) * channels, 0, 2 * channels);
            memset(grad_x + start + line_size + (width - 1) * channels, 0, 2 * channels);
        }
        if (height % 2 && row == height - 3) memset(grad_x + start + 2 * line_size, 0, 2 * line_size);
    }
}
