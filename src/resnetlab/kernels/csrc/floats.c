/* Winograd's 3x3 convolution F(4x4, 3x3) in float, for inference: 36 products for a tile of 4x4 pixels instead of 144.

   A block of tiles is transformed, multiplied and transformed back while it lies in a core's own cache; the bias, the
   addition and the ReLU that follow the convolution are done before its result is written. Lavin and Gray, "Fast
   Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), Section 4.3. Compiled where a core has registers of
   sixteen floats (AVX-512); else `floats_there` returns 0. Bits do not depend on the number of threads. */

#include <stdlib.h>

#include "vectors.h"

#if defined(__AVX512F__)

#define TILES 32 /* in a block */
#define COLUMNS 64 /* channels out that are multiplied at once */
#define UNROLL _Pragma("GCC unroll 36")

int floats_there(void) { return 1; }

INLINE void keep(float *at, floats values) { *(loose *)at = values; }

/* The transforms for the points 0, +-A, +-B and infinity, with half the rounding error of the usual 0, +-1, +-2. */
#define A 0.70710678118654752f /* the root of 1/2 */
#define B 1.41421356237309505f /* the root of 2 */

/* B'd of six numbers. */
INLINE void input6(const floats d[6], floats t[6]) {
    floats even = d[4] - 2 * d[2], odd = A * (d[3] - 2 * d[1]);
    floats other_even = d[4] - 0.5f * d[2], other_odd = B * (d[3] - 0.5f * d[1]);
    t[0] = d[0] - 2.5f * d[2] + d[4], t[1] = even + odd, t[2] = even - odd;
    t[3] = other_even + other_odd, t[4] = other_even - other_odd, t[5] = d[1] - 2.5f * d[3] + d[5];
}

/* A'm of six numbers. */
INLINE void output4(const floats m[6], floats y[4]) {
    floats even = m[1] + m[2], odd = A * (m[1] - m[2]), other_even = m[3] + m[4], other_odd = B * (m[3] - m[4]);
    y[0] = m[0] + even + other_even, y[1] = odd + other_odd;
    y[2] = 0.5f * even + 2 * other_even, y[3] = 0.5f * odd + 2 * other_odd + m[5];
}

/* Gg of three numbers. */
INLINE void kernel6(floats a, floats b, floats c, floats u[6]) {
    floats even = (a + 0.5f * c) / -1.5f, odd = A / -1.5f * b, other_even = (a + 2 * c) / 6, other_odd = B / 6 * b;
    u[0] = a, u[1] = even + odd, u[2] = even - odd, u[3] = other_even + other_odd, u[4] = other_even - other_odd;
    u[5] = c;
}

/* B'dB of sixteen channels, d being the 6x6 pixels that a tile depends on, into 36 planes. */
INLINE void transform_input(const float *x, int64_t top, int64_t left, int64_t size, int64_t channels, float *to,
                            int64_t plane) {
    const float *corner = x + (top * size + left) * channels;
    const int inside = top >= 0 && left >= 0 && top + 5 < size && left + 5 < size;
    floats half[6][6];
    UNROLL for (int j = 0; j < 6; j++) {
        floats d[6], t[6];
        UNROLL for (int i = 0; i < 6; i++) {
            const int there = inside || (top + i >= 0 && top + i < size && left + j >= 0 && left + j < size);
            d[i] = there ? vector(corner + (i * size + j) * channels) : (floats){0};
        }
        input6(d, t);
        UNROLL for (int i = 0; i < 6; i++) half[i][j] = t[i];
    }
    UNROLL for (int i = 0; i < 6; i++) {
        floats t[6];
        input6(half[i], t);
        UNROLL for (int j = 0; j < 6; j++) keep(to + (6 * i + j) * plane, t[j]);
    }
}

/* A'mA of sixteen channels, + bias (+ add) (and a ReLU), into the 4x4 pixels of a tile. */
INLINE void transform_output(const float *m, int64_t plane, floats bias, const float *add, float *y, int64_t top,
                             int64_t left, int64_t size, int64_t channels, int rectify) {
    floats half[4][6];
    UNROLL for (int j = 0; j < 6; j++) {
        floats column[6], t[4];
        UNROLL for (int i = 0; i < 6; i++) column[i] = vector(m + (6 * i + j) * plane);
        output4(column, t);
        UNROLL for (int i = 0; i < 4; i++) half[i][j] = t[i];
    }
    UNROLL for (int i = 0; i < 4; i++) {
        floats row[4];
        output4(half[i], row);
        if (top + i >= size) continue;
        UNROLL for (int j = 0; j < 4; j++) {
            if (left + j >= size) continue;
            const int64_t at = ((top + i) * size + left + j) * channels;
            floats value = row[j] + bias;
            if (add) value += vector(add + at);
            keep(y + at, rectify ? relu(value) : value);
        }
    }
}

/* to[r, v] = sum over k of rows[r, k] * columns[k, v], for a few rows and vectors. */
INLINE void multiply(const float *rows, const float *columns, int64_t depth, float *to, const int height,
                     const int vectors) {
    floats sum[16] = {{0}};
    for (int64_t k = 0; k < depth; k++) {
        floats column[4];
        UNROLL for (int v = 0; v < vectors; v++) column[v] = vector(columns + k * vectors * LANES + v * LANES);
        UNROLL for (int r = 0; r < height; r++)
            UNROLL for (int v = 0; v < vectors; v++) sum[r * vectors + v] += rows[r * depth + k] * column[v];
    }
    UNROLL for (int i = 0; i < height * vectors; i++)
        keep(to + i / vectors * COLUMNS + i % vectors * LANES, sum[i]);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* weight (out, 3, 3, channels) to GgG', (out / COLUMNS, 36, channels, COLUMNS); the last columns may be fewer. */
void floats_pack(const float *weight, float *packed, int64_t out, int64_t channels) {
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < channels; c += LANES)
        for (int64_t o = 0; o < out; o++) {
            const int64_t from = o / COLUMNS * COLUMNS, wide = least(COLUMNS, out - from);
            const float *g = weight + 9 * o * channels + c;
            floats half[6][3];
            for (int j = 0; j < 3; j++) {
                floats t[6];
                kernel6(vector(g + j * channels), vector(g + (3 + j) * channels), vector(g + (6 + j) * channels), t);
                for (int i = 0; i < 6; i++) half[i][j] = t[i];
            }
            for (int i = 0; i < 6; i++) {
                floats u[6];
                kernel6(half[i][0], half[i][1], half[i][2], u);
                for (int j = 0; j < 6; j++) {
                    float *to = packed + 36 * channels * from + ((6 * i + j) * channels + c) * wide + o - from;
                    for (int k = 0; k < LANES; k++) to[k * wide] = u[j][k];
                }
            }
        }
}

/* x (images, size, size, channels) and packed weights to y (images, size, size, out), plus bias (out), plus add, of the
   shape of y or NULL, with a ReLU or without. Returns 0; 1 without memory. */
int floats_convolve(const float *x, const float *packed, const float *bias, const float *add, float *y, int64_t images,
                    int64_t size, int64_t channels, int64_t out, int rectify, int64_t threads) {
    const int64_t side = (size + 3) / 4, tiles = images * side * side, blocks = (tiles + TILES - 1) / TILES;
    const int64_t strips = (out + COLUMNS - 1) / COLUMNS, wanted = (2 * threads + blocks - 1) / blocks;
    const int64_t shares = wanted < strips ? wanted : strips; /* of the channels out, where there are few blocks */
    const int64_t plane = TILES * channels + LANES, sums_plane = TILES * COLUMNS + LANES; /* apart by no power of two */
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        float *planes = aligned_alloc(64, 36 * plane * sizeof(float));
        float *sums = aligned_alloc(64, 36 * sums_plane * sizeof(float));
        failed = !planes || !sums;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < blocks * shares; task++) {
            if (failed) continue;
            const int64_t first = task / shares * TILES, count = least(TILES, tiles - first), share = task % shares;
            for (int64_t tile = 0; tile < count; tile++) {
                const int64_t image = (first + tile) / (side * side), at = (first + tile) % (side * side);
                const int64_t top = at / side * 4 - 1, left = at % side * 4 - 1;
                for (int64_t c = 0; c < channels; c += LANES)
                    transform_input(x + image * size * size * channels + c, top, left, size, channels,
                                    planes + tile * channels + c, plane);
            }
            for (int64_t strip = share * strips / shares; strip < (share + 1) * strips / shares; strip++) {
                const int64_t from = strip * COLUMNS, wide = least(COLUMNS, out - from);
                for (int64_t p = 0; p < 36; p++) { /* whole blocks: what stands behind the last tile is not used */
                    const float *rows = planes + p * plane, *columns = packed + 36 * channels * from + p * channels * wide;
                    float *to = sums + p * sums_plane;
#define STRIP(vectors)                                                                                                 \
    if (wide == vectors * LANES)                                                                                       \
        for (int64_t t = 0; t < count; t += 4)                                                                         \
            multiply(rows + t * channels, columns, channels, to + t * COLUMNS, 4, vectors);
                    STRIP(4) STRIP(3) STRIP(2) STRIP(1)
                }
                for (int64_t tile = 0; tile < count; tile++) {
                    const int64_t image = (first + tile) / (side * side), at = (first + tile) % (side * side);
                    const int64_t map = image * size * size * out;
                    for (int64_t c = 0; c < wide; c += LANES)
                        transform_output(sums + tile * COLUMNS + c, sums_plane, vector(bias + from + c),
                                         add ? add + map + from + c : NULL, y + map + from + c, at / side * 4,
                                         at % side * 4, size, out, rectify);
                }
            }
        }
        free(planes);
        free(sums);
    }
    return failed;
}

#else

int floats_there(void) { return 0; }

#endif
