/* Batch norm, with an addition and a ReLU behind it, forward and backward, for bfloat16 maps in channels-last memory.

   A map is `rows` pixels (batch * height * width) of `channels` numbers. One pass reads it for the sums, one computes;
   what torch does in separate operations (normalise, add, rectify, and the same backwards) each reads and writes whole
   maps again. Ioffe and Szegedy (2015), Algorithm 1 and the formulas of Section 3.

   Bits do not depend on the number of threads: a map is cut into the same pieces on every machine, each piece is summed
   in float, and the pieces are added in order, in double. */

#include <math.h>
#include <stdlib.h>

#include "vectors.h"

/* Pieces of about 128 KiB, at most 64 of them. */
static int64_t pieces_of(int64_t rows, int64_t channels) {
    int64_t pieces = rows * channels / 65536;
    return pieces < 1 ? 1 : pieces > 64 ? 64 : pieces;
}

static int64_t begin_of(int64_t piece, int64_t pieces, int64_t rows) { return rows * piece / pieces; }

/* Two sums a channel over the pieces, added in order. */
static void add_pieces(const double *partial, int64_t pieces, int64_t channels, double *first, double *second) {
    for (int64_t c = 0; c < channels; c++) first[c] = second[c] = 0;
    for (int64_t piece = 0; piece < pieces; piece++, partial += 2 * channels)
        for (int64_t c = 0; c < channels; c++) {
            first[c] += partial[c];
            second[c] += partial[channels + c];
        }
}

/* Sums of d and d * d over some rows of `vectors` * LANES channels, d being x - from; `rows_at_once` keeps narrow maps'
   additions from waiting for each other. Both are constants where this is inlined. */
INLINE void sum_squares(const uint16_t *x, int64_t begin, int64_t end, int64_t channels, const float *from,
                        double *sums, double *sums_of_squares, const int vectors, const int rows_at_once) {
    floats sum[4] = {0}, squares[4] = {0}, origin[4];
    for (int v = 0; v < vectors; v++) origin[v] = vector(from + v * LANES);
    int64_t row = begin;
    for (; row + rows_at_once <= end; row += rows_at_once)
        for (int r = 0; r < rows_at_once; r++)
            for (int v = 0; v < vectors; v++) {
                floats d = load(x + (row + r) * channels + v * LANES) - origin[v];
                sum[v + r] += d;
                squares[v + r] += d * d;
            }
    for (; row < end; row++)
        for (int v = 0; v < vectors; v++) {
            floats d = load(x + row * channels + v * LANES) - origin[v];
            sum[v] += d;
            squares[v] += d * d;
        }
    for (int r = 1; r < rows_at_once; r++) {
        sum[0] += sum[r];
        squares[0] += squares[r];
    }
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < LANES; i++) {
            sums[v * LANES + i] = sum[v][i];
            sums_of_squares[v * LANES + i] = squares[v][i];
        }
}

/* Sums of g and g * (x - mean), g being the gradient behind the ReLU, which is kept, too, where there is a place. */
INLINE void sum_gradients(const uint16_t *grad, const uint16_t *more, const uint16_t *x, const uint16_t *y,
                          uint16_t *kept, int64_t begin, int64_t end, int64_t channels, const float *mean,
                          const float *scale, const float *shift, double *sums, double *sums_of_products,
                          const int rectify, const int vectors, const int rows_at_once) {
    floats sum[4] = {0}, products[4] = {0};
    int64_t row = begin;
    for (int64_t step = rows_at_once; row < end; row += step) {
        if (row + step > end) step = 1;
        for (int r = 0; r < (step == 1 ? 1 : rows_at_once); r++)
            for (int v = 0; v < vectors; v++) {
                int64_t at = (row + r) * channels + v * LANES;
                floats g = load(grad + at), value = load(x + at);
                if (more) g += load(more + at);
                if (rectify)
                    g = keep_where((y ? load(y + at) : value * vector(scale + v * LANES) + vector(shift + v * LANES)) > 0, g);
                if (kept) store(kept + at, g);
                sum[v + r] += g;
                products[v + r] += g * (value - vector(mean + v * LANES));
            }
    }
    for (int r = 1; r < rows_at_once; r++) {
        sum[0] += sum[r];
        products[0] += products[r];
    }
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < LANES; i++) {
            sums[v * LANES + i] = sum[v][i];
            sums_of_products[v * LANES + i] = products[v][i];
        }
}

#define FOR_COLUMNS(channels) for (int64_t c = 0; c < (channels); c += LANES)

/* statistics: 4 * channels floats: mean, 1 / standard deviation, and the scale and shift that normalising comes to.
   Returns 0, or 1 without memory. */
int norm_forward(const uint16_t *x, const uint16_t *shortcut, uint16_t *y, int64_t rows, int64_t channels,
                 const float *weight, const float *bias, float *running_mean, float *running_variance, float momentum,
                 float epsilon, int rectify, float *statistics) {
    int64_t pieces = pieces_of(rows, channels);
    double *partial = malloc((size_t)(pieces + 1) * 2 * channels * sizeof(double));
    float *origin = malloc((size_t)channels * sizeof(float));
    if (!partial || !origin) {
        free(partial);
        free(origin);
        return 1;
    }
    /* Sums of differences from the first pixel: from zero, a large mean would eat the variance's digits. */
    FOR_COLUMNS(channels) *(loose *)(origin + c) = load(x + c);

#pragma omp parallel for schedule(static)
    for (int64_t later = 0; later < pieces; later++) {
        int64_t piece = pieces - 1 - later; /* what was written last may still be in the cache; so for the next loop */
        int64_t begin = begin_of(piece, pieces, rows), end = begin_of(piece + 1, pieces, rows);
        double *sums = partial + piece * 2 * channels;
        int64_t c = 0;
        for (; c + 4 * LANES <= channels; c += 4 * LANES)
            sum_squares(x + c, begin, end, channels, origin + c, sums + c, sums + channels + c, 4, 1);
        for (; c < channels; c += LANES)
            sum_squares(x + c, begin, end, channels, origin + c, sums + c, sums + channels + c, 1, 4);
    }

    double *sum = partial + pieces * 2 * channels, *squares = sum + channels;
    add_pieces(partial, pieces, channels, sum, squares);
    float *mean = statistics, *inverse = mean + channels, *scale = inverse + channels, *shift = scale + channels;
    for (int64_t c = 0; c < channels; c++) {
        double offset = sum[c] / rows, centre = origin[c] + offset;
        double variance = squares[c] / rows - offset * offset;
        if (variance < 0) variance = 0;
        mean[c] = (float)centre;
        inverse[c] = (float)(1 / sqrt(variance + epsilon));
        scale[c] = weight[c] * inverse[c];
        shift[c] = bias[c] - mean[c] * scale[c];
        running_mean[c] += momentum * ((float)centre - running_mean[c]);
        double unbiased = variance * rows / (rows > 1 ? rows - 1 : 1);
        running_variance[c] += momentum * ((float)unbiased - running_variance[c]);
    }
    free(partial);
    free(origin);

#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t begin = begin_of(piece, pieces, rows), end = begin_of(piece + 1, pieces, rows);
        for (int64_t row = begin; row < end; row++)
            FOR_COLUMNS(channels) {
                int64_t at = row * channels + c;
                floats z = load(x + at) * vector(scale + c) + vector(shift + c);
                if (shortcut) z += load(shortcut + at);
                store(y + at, rectify ? relu(z) : z);
            }
    }
    return 0;
}

/* grad: of y; more: another gradient of y, to be added, or NULL. y: what forward gave, where a shortcut was added and
   rectified; else NULL, and the ReLU's side is computed again from x. grad_shortcut: where its gradient goes, or NULL. */
int norm_backward(const uint16_t *grad, const uint16_t *more, const uint16_t *x, const uint16_t *y, int64_t rows,
                  int64_t channels, const float *statistics, int rectify, uint16_t *grad_x, uint16_t *grad_shortcut,
                  float *grad_weight, float *grad_bias) {
    uint16_t *kept = grad_shortcut ? grad_shortcut : more ? grad_x : NULL; /* g, for the second pass */
    const float *mean = statistics, *inverse = mean + channels, *scale = inverse + channels, *shift = scale + channels;
    int64_t pieces = pieces_of(rows, channels);
    double *partial = malloc((size_t)(pieces + 1) * 2 * channels * sizeof(double));
    float *slope = malloc(2 * (size_t)channels * sizeof(float)), *constant = slope + channels;
    if (!partial || !slope) {
        free(partial);
        free(slope);
        return 1;
    }
#pragma omp parallel for schedule(static)
    for (int64_t later = 0; later < pieces; later++) {
        int64_t piece = pieces - 1 - later; /* what was written last may still be in the cache; so for the next loop */
        int64_t begin = begin_of(piece, pieces, rows), end = begin_of(piece + 1, pieces, rows);
        double *sums = partial + piece * 2 * channels;
        int64_t c = 0;
#define SUM(vectors, rows_at_once, rectify, more, y, kept)                                                             \
    sum_gradients(grad + c, more, x + c, y, kept, begin, end, channels, mean + c, scale + c, shift + c, sums + c,      \
                  sums + channels + c, rectify, vectors, rows_at_once)
#define SUM_IN_EACH_CASE(vectors, rows_at_once)                                                                        \
    if (!rectify) SUM(vectors, rows_at_once, 0, NULL, NULL, NULL);                                                     \
    else if (!kept) SUM(vectors, rows_at_once, 1, NULL, NULL, NULL);                                                   \
    else if (!y) SUM(vectors, rows_at_once, 1, more + c, NULL, kept + c);                                              \
    else if (!more) SUM(vectors, rows_at_once, 1, NULL, y + c, kept + c);                                              \
    else SUM(vectors, rows_at_once, 1, more + c, y + c, kept + c)
        for (; c + 4 * LANES <= channels; c += 4 * LANES) {
            SUM_IN_EACH_CASE(4, 1);
        }
        for (; c < channels; c += LANES) {
            SUM_IN_EACH_CASE(1, 4);
        }
    }

    double *sum = partial + pieces * 2 * channels, *products = sum + channels;
    add_pieces(partial, pieces, channels, sum, products);
    for (int64_t c = 0; c < channels; c++) {
        double steepness = -(double)scale[c] * inverse[c] * inverse[c] * products[c] / rows;
        grad_bias[c] = (float)sum[c];
        grad_weight[c] = (float)(products[c] * inverse[c]);
        slope[c] = (float)steepness;
        constant[c] = (float)(-(double)scale[c] * sum[c] / rows - steepness * mean[c]);
    }
    free(partial);

#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t begin = begin_of(piece, pieces, rows), end = begin_of(piece + 1, pieces, rows);
        for (int64_t row = begin; row < end; row++)
            FOR_COLUMNS(channels) {
                int64_t at = row * channels + c;
                floats by = vector(scale + c), value = load(x + at);
                floats g = load((kept ? kept : grad) + at);
                if (rectify && !kept) g = keep_where(value * by + vector(shift + c) > 0, g);
                store(grad_x + at, g * by + value * vector(slope + c) + vector(constant + c));
            }
    }
    free(slope);
    return 0;
}
