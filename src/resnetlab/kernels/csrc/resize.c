/* Bilinear resampling with antialiasing of images of four bytes a pixel, with Pillow's arithmetic and so with its bytes:
   weights are rounded to 22 bits, and each of the two passes, along rows and along columns, ends in bytes. Pillow
   computes a pixel at a time; here it is four.

   Compiled without fused multiply-adds (-ffp-contract=off), which would give other weights. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BITS 22
#define HALF (1 << (BITS - 1))
#define AT_ONCE 4 /* pixels */

typedef int32_t ints __attribute__((vector_size(16 * AT_ONCE)));
typedef uint16_t shorts __attribute__((vector_size(8 * AT_ONCE)));
typedef uint32_t pixels __attribute__((vector_size(4 * AT_ONCE)));
typedef uint8_t bytes __attribute__((vector_size(4 * AT_ONCE)));
typedef bytes loose_bytes __attribute__((aligned(1), may_alias));
typedef uint32_t loose_pixel __attribute__((aligned(1), may_alias));

typedef struct { int64_t first, count; } span; /* the pixels from which one is made */

/* The part of an axis from `low` to `high`, of `length` pixels, becomes `size` pixels. Returns the largest count of
   weights; each pixel has room for `room` of them. */
static void weigh(int64_t length, float low, float high, int64_t size, int64_t room, span *spans, int32_t *weights) {
    double scale = (double)(high - low) / size, width = scale < 1.0 ? 1.0 : scale, by_width = 1.0 / width;
    double shares[room];
    for (int64_t i = 0; i < size; i++) {
        double center = low + (i + 0.5) * scale, sum = 0;
        int64_t first = (int64_t)(center - width + 0.5), end = (int64_t)(center + width + 0.5);
        first = first < 0 ? 0 : first;
        end = end > length ? length : end;
        for (int64_t j = 0; j < end - first; j++) {
            double at = (double)(j + first) - center + 0.5;
            at *= by_width;
            at = at < 0 ? -at : at;
            sum += shares[j] = at < 1.0 ? 1.0 - at : 0.0;
        }
        for (int64_t j = 0; j < end - first; j++) {
            double share = sum != 0 ? shares[j] / sum : shares[j];
            weights[i * room + j] = (int32_t)(0.5 + share * (1 << BITS));
        }
        spans[i] = (span){first, end - first};
    }
}

/* Sums of 22 bits more than a byte, to bytes. They are at most 255: weights are positive, and their sum is not
   larger than 1 by more than rounding. */
static inline bytes rounded(ints sums) { return __builtin_convertvector(sums >> BITS, bytes); }

static inline ints widened(bytes given) { /* in two steps, which GCC compiles to an instruction each */
    return __builtin_convertvector(__builtin_convertvector(given, shorts), ints);
}

/* Resample along rows: `height` rows, `stride` bytes apart, into rows of `size` pixels back to back. Four rows at a
   time; the last ones are repeated. */
static void along_rows(const uint8_t *from, int64_t stride, int64_t height, int64_t size, int64_t room,
                       const span *spans, const int32_t *weights, uint8_t *to) {
    for (int64_t y = 0; y < height; y += AT_ONCE) {
        const uint8_t *rows[AT_ONCE];
        uint8_t *ends[AT_ONCE];
        for (int64_t i = 0; i < AT_ONCE; i++) {
            int64_t row = y + i < height ? y + i : height - 1;
            rows[i] = from + row * stride, ends[i] = to + row * size * 4;
        }
        for (int64_t x = 0; x < size; x++) {
            int64_t at = 4 * spans[x].first;
            const int32_t *weight = weights + x * room;
            ints sums = (ints){0} + HALF;
            for (int64_t i = 0; i < spans[x].count; i++, at += 4) {
                pixels column = {*(const loose_pixel *)(rows[0] + at), *(const loose_pixel *)(rows[1] + at),
                                 *(const loose_pixel *)(rows[2] + at), *(const loose_pixel *)(rows[3] + at)};
                sums += widened((bytes)column) * weight[i];
            }
            pixels result = (pixels)rounded(sums);
            for (int64_t i = 0; i < AT_ONCE; i++) *(loose_pixel *)(ends[i] + 4 * x) = result[i];
        }
    }
}

/* Resample along columns: rows of `width` pixels, `stride` bytes apart, into `size` rows back to back. */
static void along_columns(const uint8_t *from, int64_t stride, int64_t width, int64_t size, int64_t room,
                          const span *spans, const int32_t *weights, uint8_t *to) {
    for (int64_t y = 0; y < size; y++, to += width * 4) {
        const uint8_t *rows = from + spans[y].first * stride;
        const int32_t *weight = weights + y * room;
        int64_t count = spans[y].count, x = 0;
        for (; x + AT_ONCE <= width; x += AT_ONCE) {
            ints sums = (ints){0} + HALF;
            for (int64_t i = 0; i < count; i++)
                sums += widened(*(const loose_bytes *)(rows + i * stride + 4 * x)) * weight[i];
            *(loose_bytes *)(to + 4 * x) = rounded(sums);
        }
        for (int64_t at = 4 * x; at < 4 * width; at++) {
            int32_t sum = HALF;
            for (int64_t i = 0; i < count; i++) sum += rows[i * stride + at] * weight[i];
            to[at] = (uint8_t)(sum >> BITS);
        }
    }
}

static void pack(const uint8_t *from, int64_t count, uint8_t *to) { /* three of the four bytes of each pixel */
    for (int64_t i = 0; i < count; i++, from += 4, to += 3) to[0] = from[0], to[1] = from[1], to[2] = from[2];
}

/* Resample the box (left, top, right, bottom) of an image of width × height pixels to columns × rows pixels of three
   bytes, along rows first or along columns first. Returns 0, or 1 if there is no memory. */
int resize_bilinear(const uint8_t *from, int64_t width, int64_t height, const float *box, int64_t columns, int64_t rows,
                    int rows_first, uint8_t *to) {
    double across = (double)(box[2] - box[0]) / columns, down = (double)(box[3] - box[1]) / rows;
    int64_t room_x = 2 * (int64_t)(across < 1 ? 1 : across) + 5, room_y = 2 * (int64_t)(down < 1 ? 1 : down) + 5;
    span *spans = malloc((columns + rows) * sizeof(span));
    int32_t *weights = malloc((columns * room_x + rows * room_y) * sizeof(int32_t));
    span *spans_y = spans + columns;
    int32_t *weights_y = weights + columns * room_x;
    uint8_t *between = NULL, *result = malloc(4 * columns * rows);
    int failed = 1;
    if (!spans || !weights || !result) goto end;
    weigh(width, box[0], box[2], columns, room_x, spans, weights);
    weigh(height, box[1], box[3], rows, room_y, spans_y, weights_y);
    if (rows_first) {
        int64_t first = spans_y[0].first, count = spans_y[rows - 1].first + spans_y[rows - 1].count - first;
        if (!(between = malloc(4 * columns * count))) goto end;
        for (int64_t i = 0; i < rows; i++) spans_y[i].first -= first;
        along_rows(from + first * 4 * width, 4 * width, count, columns, room_x, spans, weights, between);
        along_columns(between, 4 * columns, columns, rows, room_y, spans_y, weights_y, result);
    } else {
        int64_t first = spans[0].first, count = spans[columns - 1].first + spans[columns - 1].count - first;
        if (!(between = malloc(4 * count * rows))) goto end;
        for (int64_t i = 0; i < columns; i++) spans[i].first -= first;
        along_columns(from + 4 * first, 4 * width, count, rows, room_y, spans_y, weights_y, between);
        along_rows(between, 4 * count, rows, columns, room_x, spans, weights, result);
    }
    pack(result, columns * rows, to);
    failed = 0;
end:
    free(spans), free(weights), free(between), free(result);
    return failed;
}
