/* Winograd's 3x3 convolution F(2x2, 3x3) in one go: a block of tiles is transformed, multiplied and transformed back
   while it lies in a core's own cache. The transforms are those of winograd.c, whose planes, four times as large as the
   maps, go through memory.

   Numbers are multiplied as pairs of bfloat16 and added up in float (the instruction vdpbf16ps). Without it these
   kernels are not compiled, and `blocks_there` returns 0. Channels come in vectors of LANES. Bits do not depend on the number of
   threads: a gradient of weights is summed in the same pieces on every machine, which are added in order. */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#define TILES 32 /* in a block */
#define UNROLL _Pragma("GCC unroll 16")

int blocks_there(void) { return 1; }

typedef struct {
    int64_t image, row, column; /* counted in tiles of 2x2 pixels */
} place;

INLINE place place_of(int64_t tile, int64_t half) {
    return (place){tile / (half * half), tile / half % half, tile % half};
}

INLINE void next(place *at, int64_t half) {
    if (++at->column < half) return;
    at->column = 0;
    if (++at->row < half) return;
    at->row = 0;
    at->image++;
}

/* B'dB of sixteen channels, d being the 4x4 pixels that a tile depends on, from one above and one left of it. */
INLINE void transform_input(const uint16_t *x, place at, int64_t size, int64_t channels, floats v[4][4]) {
    int64_t top = 2 * at.row - 1, left = 2 * at.column - 1, line = size * channels;
    const uint16_t *corner = x + ((at.image * size + top) * size + left) * channels;
    floats d[4][4];
    if (top >= 0 && left >= 0 && top + 3 < size && left + 3 < size)
        UNROLL for (int i = 0; i < 16; i++) d[i / 4][i % 4] = load(corner + i / 4 * line + i % 4 * channels);
    else
        UNROLL for (int i = 0; i < 16; i++) {
            int64_t row = top + i / 4, column = left + i % 4;
            int padding = row < 0 || row >= size || column < 0 || column >= size;
            d[i / 4][i % 4] = padding ? (floats){0} : load(corner + i / 4 * line + i % 4 * channels);
        }
    floats e[4][4];
    UNROLL for (int j = 0; j < 4; j++) {
        e[0][j] = d[0][j] - d[2][j], e[1][j] = d[1][j] + d[2][j];
        e[2][j] = d[2][j] - d[1][j], e[3][j] = d[1][j] - d[3][j];
    }
    UNROLL for (int i = 0; i < 4; i++) {
        v[i][0] = e[i][0] - e[i][2], v[i][1] = e[i][1] + e[i][2];
        v[i][2] = e[i][2] - e[i][1], v[i][3] = e[i][1] - e[i][3];
    }
}

/* AgA' of sixteen channels, g being the 2x2 pixels of a tile. */
INLINE void transform_gradient(const uint16_t *grad, place at, int64_t size, int64_t channels, floats v[4][4]) {
    int64_t row = 2 * at.row, column = 2 * at.column;
    const uint16_t *corner = grad + ((at.image * size + row) * size + column) * channels;
    int right = column + 1 < size, below = row + 1 < size;
    floats zero = {0}, a = load(corner), b = right ? load(corner + channels) : zero;
    floats c = below ? load(corner + size * channels) : zero;
    floats d = right && below ? load(corner + (size + 1) * channels) : zero;
    floats g[4][2] = {{a, b}, {a + c, b + d}, {a - c, b - d}, {-c, -d}};
    UNROLL for (int i = 0; i < 4; i++) {
        v[i][0] = g[i][0], v[i][1] = g[i][0] + g[i][1];
        v[i][2] = g[i][0] - g[i][1], v[i][3] = -g[i][1];
    }
}

/* What follows a convolution in a network for inference; all may be missing. */
typedef struct {
    const float *bias;   /* (out) */
    const uint16_t *add; /* of the shape of the result */
    int rectify;         /* 1: a ReLU at the end */
} ending;

/* values at y[at] after the ending; the channels from c on. */
INLINE void finish(uint16_t *y, int64_t at, floats values, const ending *end, int64_t c) {
    if (end->bias) values += vector(end->bias + c);
    if (end->add) values += load(end->add + at);
    store(y + at, end->rectify ? relu(values) : values);
}

/* A'mA of sixteen channels into the 2x2 pixels of a tile; m[i][j] stands 4 i + j planes behind the first. */
INLINE void transform_output(const float *m, int64_t plane, uint16_t *y, place at, int64_t size, int64_t channels,
                             int64_t c, const ending *end) {
    int64_t row = 2 * at.row, column = 2 * at.column;
    int64_t corner = ((at.image * size + row) * size + column) * channels + c;
    int right = column + 1 < size, below = row + 1 < size;
    floats above[4], under[4];
    UNROLL for (int j = 0; j < 4; j++) {
        floats a = vector(m + j * plane), b = vector(m + (4 + j) * plane);
        floats c = vector(m + (8 + j) * plane), d = vector(m + (12 + j) * plane);
        above[j] = a + b + c, under[j] = b - c - d;
    }
    finish(y, corner, above[0] + above[1] + above[2], end, c);
    if (right) finish(y, corner + channels, above[1] - above[2] - above[3], end, c);
    if (below) finish(y, corner + size * channels, under[0] + under[1] + under[2], end, c);
    if (right && below) finish(y, corner + (size + 1) * channels, under[1] - under[2] - under[3], end, c);
}

/* to[r, v] (+)= sum over k of rows[r, k] * columns[k, v], for a few rows and vectors; a number is a pair. */
INLINE void multiply(const uint32_t *rows, int64_t row_step, int64_t row_depth, const uint32_t *columns,
                     int64_t width, int64_t depth, float *to, const int add, const int height, const int vectors) {
    __m512 sum[16];
    for (int i = 0; i < height * vectors; i++)
        sum[i] = add ? _mm512_loadu_ps(to + i / vectors * width + i % vectors * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k++) {
        __m512bh column[4];
        for (int v = 0; v < vectors; v++)
            column[v] = (__m512bh)_mm512_loadu_si512(columns + k * width + v * LANES);
        for (int r = 0; r < height; r++) {
            __m512bh row = (__m512bh)_mm512_set1_epi32((int)rows[r * row_step + k * row_depth]);
            for (int v = 0; v < vectors; v++)
                sum[r * vectors + v] = _mm512_dpbf16_ps(sum[r * vectors + v], row, column[v]);
        }
    }
    for (int i = 0; i < height * vectors; i++)
        _mm512_storeu_ps(to + i / vectors * width + i % vectors * LANES, sum[i]);
}

/* The same for matrices: to (height, width) from rows (height, depth), with their steps, and columns (depth, width);
   height and width are multiples of 16. */
INLINE void product(const uint32_t *rows, int64_t row_step, int64_t row_depth, const uint32_t *columns, int64_t depth,
                    float *to, int64_t height, int64_t width, const int add) {
    int64_t w = 0;
#define STRIPS(tall, vectors)                                                                                          \
    for (; w + vectors * LANES <= width; w += vectors * LANES)                                                         \
        for (int64_t h = 0; h < height; h += tall)                                                                     \
            multiply(rows + h * row_step, row_step, row_depth, columns + w, width, depth, to + h * width + w, add,     \
                     tall, vectors);
    STRIPS(4, 4)
    STRIPS(8, 2)
    STRIPS(16, 1)
}

/* Pairs of numbers, rounded to bfloat16. */
INLINE void store_pairs(uint32_t *to, floats first, floats second) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

/* GgG' of sixteen channels of a kernel. */
INLINE void transform_kernel(const float *weight, int64_t channels, floats u[4][4]) {
    floats g[4][3];
    for (int j = 0; j < 3; j++) {
        const float *at = weight + j * channels;
        floats a = vector(at), b = vector(at + 3 * channels), c = vector(at + 6 * channels);
        g[0][j] = a, g[1][j] = (a + b + c) / 2, g[2][j] = (a - b + c) / 2, g[3][j] = c;
    }
    for (int i = 0; i < 4; i++) {
        floats a = g[i][0], b = g[i][1], c = g[i][2];
        u[i][0] = a, u[i][1] = (a + b + c) / 2, u[i][2] = (a - b + c) / 2, u[i][3] = c;
    }
}

/* weight (out, 3, 3, channels), float, to GgG' as pairs along what is summed over: (16, channels / 2, out, 2); or, to
   take gradients back, the kernels turned around and (16, out / 2, channels, 2). */
void blocks_pack(const float *weight, uint32_t *packed, int64_t out, int64_t channels, int back) {
    static const int turned[4] = {3, 1, 2, 0};
    int64_t plane = out / 2 * channels;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < channels; c += LANES)
        for (int64_t o = 0; o < out; o += 2) { /* inside, because what follows it lies beside it */
            floats one[4][4], two[4][4];
            transform_kernel(weight + 9 * o * channels + c, channels, one);
            transform_kernel(weight + 9 * (o + 1) * channels + c, channels, two);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    if (back) {
                        uint32_t *to = packed + (4 * turned[i] + turned[j]) * plane + o / 2 * channels + c;
                        store_pairs(to, one[i][j], two[i][j]);
                        continue;
                    }
                    uint32_t first[LANES / 2], second[LANES / 2], *to = packed + (4 * i + j) * plane + c / 2 * out + o;
                    store((uint16_t *)first, one[i][j]);
                    store((uint16_t *)second, two[i][j]);
                    for (int k = 0; k < LANES / 2; k++) to[k * out] = first[k], to[k * out + 1] = second[k];
                }
        }
}

INLINE int convolve(const uint16_t *x, const uint32_t *packed, uint16_t *y, const ending *end, int64_t images,
                    int64_t size, const int64_t channels, const int64_t out) {
    const int64_t half = (size + 1) / 2, tiles = images * half * half;
    const int64_t plane = TILES * channels + 32, sums_plane = TILES * out + 16; /* apart by no power of two */
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        uint16_t *planes = aligned_alloc(64, 16 * plane * sizeof(uint16_t));
        float *sums = aligned_alloc(64, 16 * sums_plane * sizeof(float));
        failed = !planes || !sums;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < tiles; first += TILES) {
            if (failed) continue;
            int64_t count = tiles - first < TILES ? tiles - first : TILES;
            place at = place_of(first, half);
            for (int64_t tile = 0; tile < count; tile++, next(&at, half))
                for (int64_t c = 0; c < channels; c += LANES) {
                    floats v[4][4];
                    transform_input(x + c, at, size, channels, v);
                    UNROLL for (int p = 0; p < 16; p++)
                        store(planes + p * plane + tile * channels + c, v[p / 4][p % 4]);
                }
            for (int p = 0; p < 16; p++) /* whole blocks: what stands behind the last tile is not looked at */
                product((const uint32_t *)(planes + p * plane), channels / 2, 1,
                        packed + p * out * channels / 2, channels / 2, sums + p * sums_plane, TILES, out, 0);
            at = place_of(first, half);
            for (int64_t tile = 0; tile < count; tile++, next(&at, half))
                for (int64_t c = 0; c < out; c += LANES)
                    transform_output(sums + tile * out + c, sums_plane, y, at, size, out, c, end);
        }
        free(planes);
        free(sums);
    }
    return failed;
}

INLINE int weights(const uint16_t *x, const uint16_t *grad, float *grad_weight, int64_t images, int64_t size,
                   const int64_t channels, const int64_t out) {
    const int64_t half = (size + 1) / 2, tiles = images * half * half, blocks = (tiles + TILES - 1) / TILES;
    const int64_t pieces = blocks < 8 ? 1 : blocks < 128 ? blocks / 4 : 32, numbers = out * channels;
    const int64_t plane = TILES / 2 * channels + 16, grad_plane = TILES / 2 * out + 16;
    float *partial = aligned_alloc(64, pieces * 16 * numbers * sizeof(float));
    if (!partial) return 1;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        uint32_t *inputs = aligned_alloc(64, 16 * plane * sizeof(uint32_t));
        uint32_t *gradients = aligned_alloc(64, 16 * grad_plane * sizeof(uint32_t));
        failed = !inputs || !gradients;
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < pieces; piece++) {
            if (failed) continue;
            float *sums = partial + piece * 16 * numbers;
            memset(sums, 0, 16 * numbers * sizeof(float));
            for (int64_t block = blocks * piece / pieces; block < blocks * (piece + 1) / pieces; block++) {
                int64_t first = block * TILES, count = tiles - first < TILES ? tiles - first : TILES;
                int64_t pairs = (count + 1) / 2;
                place one = place_of(first, half), two = one;
                for (int64_t pair = 0; pair < pairs; pair++, one = two) {
                    int there = 2 * pair + 1 < count; /* the second of the pair */
                    floats v[4][4], w[4][4] = {0};
                    next(&two, half);
                    for (int64_t c = 0; c < channels; c += LANES) {
                        transform_input(x + c, one, size, channels, v);
                        if (there) transform_input(x + c, two, size, channels, w);
                        UNROLL for (int p = 0; p < 16; p++)
                            store_pairs(inputs + p * plane + pair * channels + c, v[p / 4][p % 4], w[p / 4][p % 4]);
                    }
                    for (int64_t c = 0; c < out; c += LANES) {
                        transform_gradient(grad + c, one, size, out, v);
                        if (there) transform_gradient(grad + c, two, size, out, w);
                        UNROLL for (int p = 0; p < 16; p++)
                            store_pairs(gradients + p * grad_plane + pair * out + c, v[p / 4][p % 4], w[p / 4][p % 4]);
                    }
                    next(&two, half);
                }
                for (int p = 0; p < 16; p++)
                    product(gradients + p * grad_plane, 1, out, inputs + p * plane, pairs, sums + p * numbers, out,
                            channels, 1);
            }
        }
        free(inputs);
        free(gradients);
#pragma omp for schedule(static)
        for (int64_t o = 0; o < out; o++)
            for (int64_t c = 0; c < channels; c += LANES) {
                floats u[16] = {0}, g[3][4];
                for (int64_t piece = 0; piece < 16 * pieces; piece++)
                    u[piece % 16] += vector(partial + piece * numbers + o * channels + c);
                for (int j = 0; j < 4; j++) {
                    floats middle = (u[4 + j] + u[8 + j]) / 2;
                    g[0][j] = u[j] + middle, g[1][j] = (u[4 + j] - u[8 + j]) / 2, g[2][j] = middle + u[12 + j];
                }
                for (int i = 0; i < 3; i++) {
                    floats middle = (g[i][1] + g[i][2]) / 2;
                    float *to = grad_weight + (9 * o + 3 * i) * channels + c;
                    *(loose *)to = g[i][0] + middle;
                    *(loose *)(to + channels) = (g[i][1] - g[i][2]) / 2;
                    *(loose *)(to + 2 * channels) = middle + g[i][3];
                }
            }
    }
    free(partial);
    return failed;
}

/* With the numbers of channels known to the compiler, loops over them are gone and places are constants. */
#define FOR_COMMON_CHANNELS(go, ...)                                                                                   \
    if (channels == 32 && out == 32) return go(__VA_ARGS__, 32, 32);                                                   \
    if (channels == 64 && out == 64) return go(__VA_ARGS__, 64, 64);                                                   \
    return go(__VA_ARGS__, channels, out)

/* x (images, size, size, channels) and packed weights to y (images, size, size, out); for inference plus bias (out),
   plus add, of the shape of y, each of which may be NULL, with a ReLU or without. Returns 0; 1 without memory. */
int blocks_convolve(const uint16_t *x, const uint32_t *packed, const float *bias, const uint16_t *add, uint16_t *y,
                    int64_t images, int64_t size, int64_t channels, int64_t out, int rectify) {
    const ending end = {bias, add, rectify};
    FOR_COMMON_CHANNELS(convolve, x, packed, y, &end, images, size);
}

/* x (images, size, size, channels) and grad (images, size, size, out) to the gradient of the weights (out, 3, 3,
   channels), float. Returns 0, or 1 without memory. */
int blocks_weights(const uint16_t *x, const uint16_t *grad, float *grad_weight, int64_t images, int64_t size,
                   int64_t channels, int64_t out) {
    FOR_COMMON_CHANNELS(weights, x, grad, grad_weight, images, size);
}

#else

int blocks_there(void) { return 0; }

#endif
