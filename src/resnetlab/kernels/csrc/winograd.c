/* The transforms of Winograd's minimal 3x3 convolution F(2x2, 3x3) (Lavin and Gray 2015, Section 4.1) for the gradient
   of a wide layer's weights, for bfloat16 maps (images, size, size, channels) with a padding of 1.

   A map is cut into tiles of 2x2 pixels; with an odd size the last ones reach beyond it. Each tile's 4x4 surroundings
   become sixteen numbers a channel, kept as sixteen planes (tiles, channels), and so do its 2x2 gradients; the product
   of two planes over all tiles is torch's. */

#include "vectors.h"

static const uint16_t nothing[8192]; /* a pixel of the padding, with the largest number of channels */

/* x (images, size, size, channels) to planes (16, tiles, channels): B'dB of every tile's 4x4 pixels. */
void winograd_input(const uint16_t *x, uint16_t *planes, int64_t images, int64_t size, int64_t channels) {
    int64_t half = (size + 1) / 2, tiles = images * half * half;
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t top = tile / half % half * 2 - 1, left = tile % half * 2 - 1;
        const uint16_t *map = x + tile / (half * half) * size * size * channels, *from[4][4];
        uint16_t *to[4][4];
        for (int row = 0; row < 4; row++)
            for (int column = 0; column < 4; column++) {
                int64_t y = top + row, z = left + column;
                int outside = y < 0 || y >= size || z < 0 || z >= size;
                from[row][column] = outside ? nothing : map + (y * size + z) * channels;
                to[row][column] = planes + ((4 * row + column) * tiles + tile) * channels;
            }
        for (int64_t c = 0; c < channels; c += LANES) {
            floats d[4][4];
            for (int column = 0; column < 4; column++) {
                floats a = load(from[0][column] + c), b = load(from[1][column] + c);
                floats e = load(from[2][column] + c), f = load(from[3][column] + c);
                d[0][column] = a - e, d[1][column] = b + e, d[2][column] = e - b, d[3][column] = b - f;
            }
            for (int row = 0; row < 4; row++) {
                store(to[row][0] + c, d[row][0] - d[row][2]);
                store(to[row][1] + c, d[row][1] + d[row][2]);
                store(to[row][2] + c, d[row][2] - d[row][1]);
                store(to[row][3] + c, d[row][1] - d[row][3]);
            }
        }
    }
}

/* grad (images, size, size, channels) to planes (16, tiles, channels): AgA' of every tile's 2x2 pixels. */
void winograd_spread(const uint16_t *grad, uint16_t *planes, int64_t images, int64_t size, int64_t channels) {
    int64_t half = (size + 1) / 2, tiles = images * half * half;
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t top = tile / half % half * 2, left = tile % half * 2;
        const uint16_t *map = grad + tile / (half * half) * size * size * channels, *from[2][2];
        for (int row = 0; row < 2; row++)
            for (int column = 0; column < 2; column++) {
                int outside = top + row >= size || left + column >= size;
                from[row][column] = outside ? nothing : map + ((top + row) * size + left + column) * channels;
            }
        for (int64_t c = 0; c < channels; c += LANES) {
            floats g[4][2];
            for (int column = 0; column < 2; column++) {
                floats a = load(from[0][column] + c), b = load(from[1][column] + c);
                g[0][column] = a, g[1][column] = a + b, g[2][column] = a - b, g[3][column] = -b;
            }
            for (int row = 0; row < 4; row++) {
                uint16_t *to = planes + (4 * row * tiles + tile) * channels + c;
                store(to, g[row][0]);
                store(to + tiles * channels, g[row][0] + g[row][1]);
                store(to + 2 * tiles * channels, g[row][0] - g[row][1]);
                store(to + 3 * tiles * channels, -g[row][1]);
            }
        }
    }
}

/* planes (16, kernels, channels), added to weight (kernels, 3, 3, channels), float: G'uG of every kernel. */
void winograd_kernels_back(const uint16_t *planes, float *weight, int64_t kernels, int64_t channels) {
#pragma omp parallel for schedule(static)
    for (int64_t kernel = 0; kernel < kernels; kernel++)
        for (int64_t c = 0; c < channels; c += LANES) {
            floats g[3][4];
            for (int column = 0; column < 4; column++) {
                floats u[4];
                for (int row = 0; row < 4; row++)
                    u[row] = load(planes + ((4 * row + column) * kernels + kernel) * channels + c);
                floats sum = (u[1] + u[2]) / 2;
                g[0][column] = u[0] + sum, g[1][column] = (u[1] - u[2]) / 2, g[2][column] = sum + u[3];
            }
            for (int row = 0; row < 3; row++) {
                floats sum = (g[row][1] + g[row][2]) / 2;
                loose *to = (loose *)(weight + (9 * kernel + 3 * row) * channels + c);
                to[0] += g[row][0] + sum;
                *(loose *)((float *)to + channels) += (g[row][1] - g[row][2]) / 2;
                *(loose *)((float *)to + 2 * channels) += sum + g[row][3];
            }
        }
}
