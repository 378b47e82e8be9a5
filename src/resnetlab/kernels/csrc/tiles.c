/* A 3x3 convolution with a padding of 1 on machines that multiply whole tiles of matrices (AMX): 16 rows of 32 bfloat16
   numbers times 32 rows of 16, added up in float.

   Forward, the sixteen rows of a tile are the same pixel of sixteen images: the maps of sixteen images are copied so
   that these lie next to each other in memory, and another of a kernel's nine taps starts at another pixel. Padding is
   not multiplied, which saves a third of the work on 7x7 maps.

   The gradient of the weights is summed over places, so there pairs of numbers are those of two images at the same
   place. Rows of `size` pixels become rows of size + 1, one of which is zero and pads both the row's end and the next
   one's beginning, and so do maps: a tile then holds any sixteen places that follow each other; or, of small maps and
   many images, sixteen pairs of images in one place, and places of padding are left out.

   A convolution may end in a max pool of 2x2 pixels: its result is then pooled before it leaves the cache, and the
   index of each maximum (0 to 3, row by row) is stored in a byte. Backwards, the map before the pool is never written:
   its gradient is that of the pool where the index matches, and zero elsewhere.

   Bits do not depend on the number of threads: each sum is one thread's, in the order of places. */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) &&                \
    defined(__AVX512BW__) && defined(__AVX512VL__)

#include <sys/syscall.h>
#include <unistd.h>

#define TILE 256 /* pairs of numbers in a tile, or sums */
#define UNROLL _Pragma("GCC unroll 16")

/* Linux lets a process use tiles after it has asked for permission. */
int tiles_there(void) {
    const int request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

static void begin_tiles(void) {
    struct {
        uint8_t palette, first, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    _tile_loadconfig(&shapes);
}

static int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }
static int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

INLINE void transpose(__m512i r[16]) { /* 16 x 16 */
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(a, b, 0x88), t[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88), t[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    UNROLL for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* Sixteen numbers each of two rows as sixteen pairs. */
INLINE __m512i pairs_of(__m256i first, __m256i second) {
    __m512i low = _mm512_cvtepu16_epi32(first), high = _mm512_cvtepu16_epi32(second);
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

INLINE __m256i sixteen(const uint16_t *at) { return _mm256_loadu_si256((const void *)at); }
/* Unpooled: the numbers where this pixel of the window is the maximum, and zero elsewhere; without argmax, all. */
INLINE __m256i sixteen_unpooled(const uint16_t *at, const uint8_t *argmax, int pixel) {
    if (!argmax) return sixteen(at);
    __mmask16 is_max = _mm_cmpeq_epi8_mask(_mm_loadu_si128((const void *)argmax), _mm_set1_epi8((char)pixel));
    return _mm256_maskz_loadu_epi16(is_max, at);
}
INLINE const uint8_t *further(const uint8_t *argmax, int64_t at) { return argmax ? argmax + at : NULL; }
INLINE __m256i rounded(const float *at) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(at)); }

/* ---- forward, and the gradient of the maps -------------------------------------------------------------------- */

#define PANEL 32 /* channels of a place in a tile of maps; what the last panel has beyond them is zero */

static int64_t panels_of(int64_t channels) { return (channels + PANEL - 1) / PANEL; }
static int64_t steps_of(int64_t channels) { return 9 * panels_of(channels); }

/* Pairs of numbers that `tiles_pack` writes. */
int64_t tiles_packed(int64_t channels, int64_t out) { return out / 16 * steps_of(channels) * TILE; }

/* weight (kernels, 3, 3, depth), float, to tiles (kernels / 16, panels, 9 taps, 16 pairs of depth, 16 kernels); or,
   back, the kernels turned around, to (depth / 16, panels, 9 taps, 16 pairs of kernels, 16 of depth). */
void tiles_pack(const float *weight, uint32_t *packed, int64_t kernels, int64_t depth, int back) {
    const int64_t channels = back ? kernels : depth, out = back ? depth : kernels, steps = steps_of(channels);
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o += 16)
        for (int64_t step = 0; step < steps; step++) {
            __m512i rows[16];
            for (int half = 0; half < 2; half++) { /* of a panel */
                int64_t tap = step % 9, c = step / 9 * PANEL + 16 * half;
                int there = c < channels;
                if (back) /* kernels one under the other, two to a row of pairs */
                    for (int k = 0; k < 8; k++) {
                        const float *at = weight + ((c + 2 * k) * 9 + 8 - tap) * depth + o;
                        rows[8 * half + k] = there ? pairs_of(rounded(at), rounded(at + 9 * depth)) : (__m512i){0};
                    }
                else
                    for (int k = 0; k < 16; k++) {
                        __m256i found = there ? rounded(weight + ((o + k) * 9 + tap) * depth + c) : (__m256i){0};
                        rows[k] = half ? _mm512_inserti64x4(rows[k], found, 1) : _mm512_castsi256_si512(found);
                    }
            }
            if (!back) transpose(rows);
            for (int k = 0; k < 16; k++) _mm512_storeu_si512(packed + ((o / 16 * steps + step) * 16 + k) * 16, rows[k]);
        }
}

/* A tap of a kernel, and where in a panel the tiles begin that it meets from two pixels; -1 outside of the map. */
typedef struct {
    int32_t tap, places[2];
} meeting;

/* Adds to sums (two pixels, of one or two tiles of kernels), or to zero without them, over the taps of a panel. */
INLINE void multiply(const uint16_t *panel, const uint16_t *zeros, const meeting *taps, int64_t count,
                     const uint32_t *kernels, int64_t next_kernels, const float *sums, float *to, const int wide) {
    if (!sums) {
        _tile_zero(0); _tile_zero(1);
        if (wide) { _tile_zero(2); _tile_zero(3); }
    } else {
        _tile_loadd(0, sums, 64); _tile_loadd(1, sums + TILE, 64);
        if (wide) { _tile_loadd(2, sums + 2 * TILE, 64); _tile_loadd(3, sums + 3 * TILE, 64); }
    }
    for (int64_t i = 0; i < count; i++) {
        _tile_loadd(4, taps[i].places[0] < 0 ? zeros : panel + taps[i].places[0], 64);
        _tile_loadd(6, kernels + taps[i].tap * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, taps[i].places[1] < 0 ? zeros : panel + taps[i].places[1], 64);
        _tile_dpbf16ps(1, 5, 6);
        if (!wide) continue;
        _tile_loadd(7, kernels + next_kernels + taps[i].tap * TILE, 64);
        _tile_dpbf16ps(2, 4, 7); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, to, 64); _tile_stored(1, to + TILE, 64);
    if (wide) { _tile_stored(2, to + 2 * TILE, 64); _tile_stored(3, to + 3 * TILE, 64); }
}

/* Some rows of the maps of sixteen images, from their first pixel `from` to before `to`, are copied to (panels, pixels,
   16 images, PANEL); with argmax, they are unpooled on the way. */
INLINE void gather(const uint16_t *x, const uint8_t *argmax, uint16_t *maps, int64_t from, int64_t to, int64_t first,
                   int64_t count, int64_t size, int64_t channels, int64_t plane) {
    const int64_t half = size / 2, map = argmax ? half * half : size * size;
    for (int64_t pixel = from; pixel < to; pixel++) {
        int64_t row = pixel / size, column = pixel % size;
        int there = !argmax || (row / 2 < half && column / 2 < half), place = row % 2 * 2 + column % 2;
        int64_t at = argmax ? row / 2 * half + column / 2 : pixel;
        for (int64_t image = 0; image < count; image++)
            for (int64_t c = 0; c < channels; c += 16) {
                int64_t i = ((first + image) * map + at) * channels + c, into = ((pixel - from) * 16 + image) * PANEL;
                __m256i found = there ? sixteen_unpooled(x + i, further(argmax, i), place) : (__m256i){0};
                _mm256_storeu_si256((void *)(maps + c / PANEL * plane + into + c % PANEL), found);
            }
    }
}

/* The taps that meet one or both of every two pixels that follow each other, from row `from` to before `to`, in maps
   that were gathered from row `first` on; counts[k] of them from 9k on. */
static void find_meetings(int64_t from, int64_t to, int64_t first, int64_t size, meeting *meetings, int64_t *counts) {
    for (int64_t k = 0; 2 * k < (to - from) * size; k++) {
        counts[k] = 0;
        for (int32_t tap = 0; tap < 9; tap++) {
            meeting found = {.tap = tap};
            for (int64_t i = 0; i < 2; i++) {
                int64_t row = from + (2 * k + i) / size, next = row + tap / 3 - 1;
                int64_t column = (2 * k + i) % size + tap % 3 - 1;
                int inside = row < size && next >= 0 && next < size && column >= 0 && column < size;
                found.places[i] = inside ? (int32_t)(((next - first) * size + column) * 16 * PANEL) : -1;
            }
            if (found.places[0] >= 0 || found.places[1] >= 0) meetings[9 * k + counts[k]++] = found;
        }
    }
}

/* Whole numbers that are in the order of bfloat16 ones; both zeros are 0, and NaN is above all. */
INLINE __m512i in_order(__m512i numbers) {
    __m512i size = _mm512_and_si512(numbers, _mm512_set1_epi16(INT16_MAX));
    __mmask32 is_nan = _mm512_cmpgt_epi16_mask(size, _mm512_set1_epi16(0x7f80));
    size = _mm512_mask_sub_epi16(size, _mm512_movepi16_mask(numbers), _mm512_setzero_si512(), size);
    return _mm512_mask_mov_epi16(size, is_nan, _mm512_set1_epi16(INT16_MAX));
}

/* Rows of maps (pixels, 16 images, 32), `rows` of them after an even one, to maxima and argmax (count, size / 2,
   size / 2, out), sixteen or all channels of them; the maximum is the first of equal pixels, and NaN if there is one. */
INLINE void pool(const uint16_t *maps, uint16_t *y, uint8_t *argmax, int64_t rows, int64_t count, int64_t size,
                 int64_t out, int64_t channels) {
    const int64_t half = size / 2;
    for (int64_t at = 0; at < rows / 2 * half; at++)
        for (int64_t image = 0; image < count; image++) {
            const uint16_t *from = maps + ((at / half * 2 * size + at % half * 2) * 16 + image) * 32;
            const int64_t to = (image * half * half + at) * out;
            const __mmask32 wanted = channels == 32 ? 0xffffffff : 0xffff;
            __m512i best = _mm512_loadu_si512(from), highest = in_order(best), winner = _mm512_setzero_si512();
            for (int pixel = 1; pixel < 4; pixel++) {
                __m512i next = _mm512_loadu_si512(from + (pixel / 2 * size + pixel % 2) * 16 * 32);
                __m512i height = in_order(next);
                __mmask32 wins = _mm512_cmpgt_epi16_mask(height, highest);
                wins |= _mm512_cmpeq_epi16_mask(height, _mm512_set1_epi16(INT16_MAX));
                highest = _mm512_mask_mov_epi16(highest, wins, height);
                best = _mm512_mask_mov_epi16(best, wins, next);
                winner = _mm512_mask_set1_epi16(winner, wins, (short)pixel);
            }
            _mm512_mask_storeu_epi16(y + to, wanted, best);
            _mm256_mask_storeu_epi8(argmax + to, wanted, _mm512_cvtepi16_epi8(winner));
        }
}

/* x (images, size, size, channels) and packed kernels to y (images, size, size, out), with a stride of 1; channels and
   out are multiples of 16. With x_argmax, x is the output of a max pool; with y_argmax, y is one: each
   (images, size / 2, size / 2, ...). Returns 0, or 1 without memory.

   A task is sixteen images, so many rows that they and their sums stay in a core's cache, and all kernels; or, where
   there are few of those, a part of the kernels. */
int tiles_convolve(const uint16_t *x, const uint8_t *x_argmax, const uint32_t *packed, uint16_t *y, uint8_t *y_argmax,
                   int64_t images, int64_t size, int64_t channels, int64_t out) {
    const int64_t half = size / 2, panels = panels_of(channels), steps = 9 * panels;
    const int64_t sixteens = (images + 15) / 16, parts = (out + 31) / 32;
    const int64_t fit = ((int64_t)(5 << 18) / (size * 1024) - 2 * panels) / (panels + 2 + !!y_argmax) / 2 * 2;
    const int64_t rows = fit < 2 ? 2 : fit < size ? fit : rounded_up(size, 2), bands = (size + rows - 1) / rows;
    const int64_t plane = (rows + 2) * size * 16 * PANEL, twos = rows * size / 2, all = sixteens * bands;
    const int64_t shares = all == 0 || all >= 8 ? 1 : parts < 8 / all ? parts : 8 / all;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        uint16_t *maps = aligned_alloc(64, panels * plane * sizeof(uint16_t));
        uint16_t *unpooled = y_argmax ? aligned_alloc(64, 2 * twos * 16 * 64) : NULL;
        float *sums = aligned_alloc(64, twos * 4 * TILE * sizeof(float));
        meeting *meetings = malloc(9 * twos * sizeof *meetings);
        int64_t *counts = malloc(twos * sizeof *counts);
        float found[4 * TILE] __attribute__((aligned(64)));
        uint16_t zeros[16 * PANEL] __attribute__((aligned(64))) = {0};
        failed = !maps || !sums || !meetings || !counts || (y_argmax && !unpooled);
        if (!failed) {
            memset(maps, 0, panels * plane * sizeof(uint16_t));
            begin_tiles();
        }
        int64_t gathered = -1, met = -1; /* what is in maps, and in meetings */
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < all * shares; task++) {
            if (failed) continue;
            const int64_t which = task / shares, share = task % shares, band = which / sixteens;
            const int64_t first = which % sixteens * 16, count = images - first < 16 ? images - first : 16;
            const int64_t from = band * rows, to = from + rows < size ? from + rows : size;
            const int64_t above = from ? from - 1 : 0, below = to < size ? to + 1 : size;
            const int64_t begin = share * parts / shares * 32, end = (share + 1) * parts / shares * 32;
            if (met != band) find_meetings(from, to, above, size, meetings, counts);
            /* called in two places, so that the usual case is compiled without the other's questions */
            if (gathered != which && x_argmax)
                gather(x, x_argmax, maps, above * size, below * size, first, count, size, channels, plane);
            else if (gathered != which)
                gather(x, NULL, maps, above * size, below * size, first, count, size, channels, plane);
            gathered = which, met = band;
            for (int64_t o = begin; o < end && o < out; o += 32) {
                const int wide = o + 16 < out;
                for (int64_t panel = 0; panel < panels; panel++) {
                    const uint32_t *kernels = packed + (o / 16 * steps + 9 * panel) * TILE;
                    const uint16_t *seen = maps + panel * plane;
                    const int ends = panel == panels - 1;
                    for (int64_t k = 0; 2 * k < (to - from) * size; k++) {
                        float *kept = sums + k * 4 * TILE, *into = ends ? found : kept;
                        const meeting *taps = meetings + 9 * k;
                        if (!panel) kept = NULL;
                        if (wide) multiply(seen, zeros, taps, counts[k], kernels, steps * TILE, kept, into, 1);
                        else multiply(seen, zeros, taps, counts[k], kernels, steps * TILE, kept, into, 0);
                        for (int64_t row = 0; row < 32 && ends; row++) { /* an image of one of the pixels */
                            int64_t pixel = 2 * k + row / 16, image = row % 16;
                            if (pixel == (to - from) * size || image >= count) continue;
                            uint16_t *at = y_argmax ? unpooled + (pixel * 16 + image) * 32
                                                     : y + (((first + image) * size + from) * size + pixel) * out + o;
                            store(at, vector(found + row * 16));
                            if (wide) store(at + 16, vector(found + 2 * TILE + row * 16));
                        }
                    }
                }
                if (y_argmax) {
                    const int64_t at = (first * half + from / 2) * half * out + o;
                    pool(unpooled, y + at, y_argmax + at, to - from, count, size, out, wide ? 32 : 16);
                }
            }
        }
        if (!failed) _tile_release();
        free(maps);
        free(unpooled);
        free(sums);
        free(meetings);
        free(counts);
    }
    return failed;
}

/* ---- the gradient of the weights ------------------------------------------------------------------------------ */

#define LARGEST 16 /* pixels a side of maps that are summed over 32 images, one pixel at a time */

/* Adds to sums (the 3 taps of a row, of each of one or two tiles of kernels) the products of all runs: `length` tiles
   of gradients that follow each other, and as many of places, which begin where `starts` says, or nowhere (-1). */
INLINE void add_products(const uint32_t *gradients, int64_t next_tile, const uint32_t *const places[3],
                         const int64_t *starts, int64_t runs, int64_t length, float *sums, int64_t next_sums,
                         const int tall) {
    float *more = sums + next_sums;
    _tile_loadd(0, sums, 64); _tile_loadd(1, sums + TILE, 64); _tile_loadd(2, sums + 2 * TILE, 64);
    if (tall) { _tile_loadd(3, more, 64); _tile_loadd(4, more + TILE, 64); _tile_loadd(5, more + 2 * TILE, 64); }
    for (int64_t run = 0; run < runs; run++) {
        if (starts[run] < 0) continue;
        const uint32_t *upper = gradients + run * length * TILE, *under = upper + next_tile;
        const uint32_t *left = places[0] + starts[run], *middle = places[1] + starts[run];
        const uint32_t *right = places[2] + starts[run];
        for (int64_t at = 0; at < length * TILE; at += TILE) {
            _tile_loadd(6, upper + at, 64);
            _tile_loadd(7, left + at, 64);
            _tile_dpbf16ps(0, 6, 7);
            _tile_loadd(7, middle + at, 64);
            _tile_dpbf16ps(1, 6, 7);
            _tile_loadd(7, right + at, 64);
            _tile_dpbf16ps(2, 6, 7);
            if (!tall) continue;
            _tile_loadd(6, under + at, 64);
            _tile_dpbf16ps(5, 6, 7);
            _tile_loadd(7, middle + at, 64);
            _tile_dpbf16ps(4, 6, 7);
            _tile_loadd(7, left + at, 64);
            _tile_dpbf16ps(3, 6, 7);
        }
    }
    _tile_stored(0, sums, 64); _tile_stored(1, sums + TILE, 64); _tile_stored(2, sums + 2 * TILE, 64);
    if (tall) { _tile_stored(3, more, 64); _tile_stored(4, more + TILE, 64); _tile_stored(5, more + 2 * TILE, 64); }
}

/* x (images, size, size, channels) and grad (images, out_size, out_size, out), with a stride of 1 or 2, to the gradient
   of the weights (out, 3, 3, channels), float; both multiples of 16. With argmax, grad is that of a max pool's output,
   (images, out_size / 2, out_size / 2, out). Returns 0, or 1 without memory.

   With a stride of 2, a kernel's middle row and column meet pixels 0, 2, 4, ... and the others 1, 3, 5, ...: the map is
   taken apart into four, in which a tap's places follow each other again. */
int tiles_weights(const uint16_t *x, const uint16_t *grad, const uint8_t *argmax, float *grad_weight, int64_t images,
                  int64_t size, int64_t stride, int64_t channels, int64_t out) {
    const int64_t out_size = (size - 1) / stride + 1, pitch = out_size + 1, map = pitch * pitch;
    const int64_t panels = channels / 16, rows = out / 16, parts = stride * stride, all_pairs = (images + 1) / 2;
    const int64_t seen = argmax ? out_size / 2 : out_size; /* pixels a side of the gradient */
    const int64_t place_bytes = (parts * panels + rows) * 64;
    const int64_t abreast = all_pairs >= 16 && out_size <= LARGEST ? 16 : 1; /* pairs that share a place of a tile */
    int64_t together = (int64_t)(1 << 21) / (map * place_bytes); /* pairs in caches */
    if (together > all_pairs) together = all_pairs;
    together = together < abreast ? abreast : together / abreast * abreast;
    const int64_t runs = abreast == 1 ? 1 : together / 16 * out_size;
    const int64_t steps = abreast == 1 ? (together * map + 15) / 16 : runs * out_size;
    const int64_t plane = rounded_up((rounded_up(together * map, 16) + (2 * pitch + 2) * abreast) * 16, 16);
    uint32_t *padded = aligned_alloc(64, parts * panels * plane * sizeof(uint32_t));
    uint32_t *gradients = aligned_alloc(64, rows * steps * TILE * sizeof(uint32_t));
    float *sums = aligned_alloc(64, rows * panels * 9 * TILE * sizeof(float));
    int64_t *starts = malloc(3 * runs * sizeof *starts); /* of runs, for each row of a kernel */
    const int failed = !padded || !gradients || !sums || !starts;
    for (int64_t i = 0; i < 3 * runs && !failed; i++) {
        int64_t run = i % runs, line = i / runs, row = run % out_size, met = row * stride + line - 1;
        int outside = abreast > 1 && (met < 0 || met >= size);
        starts[i] = outside ? -1 : (run / out_size * map + row * pitch) * abreast * 16;
    }
    if (!failed) {
        memset(padded, 0, parts * panels * plane * sizeof(uint32_t));
        memset(sums, 0, rows * panels * 9 * TILE * sizeof(float));
#pragma omp parallel
        {
            begin_tiles();
            for (int64_t first = 0; first < all_pairs; first += together) {
                const int64_t count = all_pairs - first < together ? all_pairs - first : together;
                const int64_t groups = (count + abreast - 1) / abreast; /* what is left of a last one is zero */
                const int64_t now = abreast == 1 ? (count * map + 15) / 16 : groups * out_size * out_size;
#pragma omp for schedule(static) nowait
                for (int64_t line = 0; line < groups * abreast * size; line++) { /* of maps */
                    int64_t row = line / abreast % size, lane = line % abreast, group = line / abreast / size;
                    int64_t image = 2 * (first + group * abreast + lane);
                    int64_t here = image < images, there = image + 1 < images;
                    const uint16_t *one = x + (image * size + row) * size * channels * here;
                    const uint16_t *two = one + there * size * size * channels;
                    for (int64_t column = 0; column < size; column++, one += channels, two += channels) {
                        int64_t part = row % stride * stride + column % stride;
                        int64_t place = group * map + (row / stride + 1) * pitch + column / stride + 1;
                        uint32_t *to = padded + part * panels * plane + (place * abreast + lane) * 16;
                        for (int64_t c = 0; c < channels; c += 16) {
                            __m256i a = here ? sixteen(one + c) : (__m256i){0};
                            __m256i b = there ? sixteen(two + c) : (__m256i){0};
                            _mm512_storeu_si512(to + c / 16 * plane, pairs_of(a, b));
                        }
                    }
                }
#pragma omp for schedule(static)
                for (int64_t step = 0; step < now; step++) {
                    int64_t one[16], two[16]; /* where the gradient's numbers of a place begin, or -1 */
                    int pixel[16];
                    for (int64_t i = 0; i < 16; i++) {
                        int64_t pair, row, column;
                        if (abreast == 1) {
                            int64_t place = step * 16 + i;
                            pair = place / map, row = place % map / pitch, column = place % pitch;
                        } else {
                            int64_t group = step / (out_size * out_size), place = step % (out_size * out_size);
                            pair = group * abreast + i, row = place / out_size, column = place % out_size;
                        }
                        int64_t image = 2 * (first + pair);
                        pixel[i] = row % 2 * 2 + column % 2;
                        if (argmax) row /= 2, column /= 2;
                        int real = pair < count && row < seen && column < seen;
                        one[i] = real ? ((image * seen + row) * seen + column) * out : -1;
                        two[i] = real && image + 1 < images ? one[i] + seen * seen * out : -1;
                    }
                    for (int64_t r = 0; r < rows; r++) {
                        __m512i tile[16];
                        UNROLL for (int i = 0; i < 16; i++) {
                            int64_t at = one[i] + 16 * r, next = two[i] + 16 * r;
                            __m256i a = {0}, b = {0};
                            if (one[i] >= 0) a = sixteen_unpooled(grad + at, further(argmax, at), pixel[i]);
                            if (two[i] >= 0) b = sixteen_unpooled(grad + next, further(argmax, next), pixel[i]);
                            tile[i] = pairs_of(a, b);
                        }
                        transpose(tile);
                        uint32_t *to = gradients + (r * steps + step) * TILE;
                        UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(to + 16 * i, tile[i]);
                    }
                }
#pragma omp for schedule(static)
                for (int64_t task = 0; task < (rows + 1) / 2 * panels * 3; task++) {
                    int64_t r = task / (3 * panels) * 2, panel = task / 3 % panels, line = task % 3; /* of a kernel */
                    const uint32_t *places[3];
                    for (int64_t tap = 0; tap < 3; tap++) {
                        int64_t part = stride == 1 ? 0 : (line != 1) * 2 + (tap != 1);
                        int64_t down = stride == 1 ? line : line > 0, along = stride == 1 ? tap : tap > 0;
                        places[tap] = padded + (part * panels + panel) * plane + (down * pitch + along) * abreast * 16;
                    }
                    float *to = sums + ((r * panels + panel) * 3 + line) * 3 * TILE;
                    const uint32_t *from = gradients + r * steps * TILE;
                    const int64_t *begins = starts + line * runs, all = abreast == 1 ? 1 : groups * out_size;
                    const int64_t length = abreast == 1 ? now : out_size, next = panels * 9 * TILE;
                    if (r + 1 < rows) add_products(from, steps * TILE, places, begins, all, length, to, next, 1);
                    else add_products(from, 0, places, begins, all, length, to, 0, 0);
                }
            }
            _tile_release();
#pragma omp for schedule(static)
            for (int64_t o = 0; o < out; o++)
                for (int64_t tap = 0; tap < 9; tap++)
                    for (int64_t c = 0; c < channels; c += 16) {
                        const float *from = sums + ((o / 16 * panels + c / 16) * 9 + tap) * TILE + o % 16 * 16;
                        _mm512_storeu_ps(grad_weight + (9 * o + tap) * channels + c, _mm512_load_ps(from));
                    }
        }
    }
    free(padded);
    free(gradients);
    free(sums);
    free(starts);
    return failed;
}

#else

int tiles_there(void) { return 0; }

#endif
