/* Sixteen values at a time: products of four bytes each, and bringing sums to another grid; shifts
 * to the left are negative. What ends in `_of` touches the first n bytes. PJ_FLIP is what must be
 * added to bytes before they are multiplied, since one instruction set wants them without sign. */
#define PJ_INLINE static inline __attribute__((unused))
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) &&                   \
    !defined(PENJING_PLAIN)
#include <immintrin.h>
#define PJ_FLIP 128
#define PJ_PIXELS 8
typedef __m512i pj_lanes;
PJ_INLINE pj_lanes pj_lanes_load(const int32_t *p) { return _mm512_loadu_si512(p); }
PJ_INLINE pj_lanes pj_lanes_plus(pj_lanes a, pj_lanes b) { return _mm512_add_epi32(a, b); }
typedef pj_lanes pj_sums;
PJ_INLINE pj_sums pj_sums_zero(void) { return _mm512_setzero_si512(); }
PJ_INLINE pj_sums pj_sums_dot(pj_sums sums, const int8_t *w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), _mm512_loadu_si512(w));
}
PJ_INLINE pj_lanes pj_sums_fold(pj_sums sums) { return sums; }
PJ_INLINE pj_lanes pj_lanes_bytes(const int8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
PJ_INLINE pj_lanes pj_lanes_bytes_of(const int8_t *p, int32_t n) {
    return n == 16 ? pj_lanes_bytes(p) /* what is read under a mask waits for what was written */
                   : _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1u), p));
}
PJ_INLINE pj_lanes pj_lanes_times(pj_lanes sums, pj_lanes a, pj_lanes b) {
    return _mm512_add_epi32(sums, _mm512_mullo_epi32(a, b));
}
PJ_INLINE pj_lanes pj_lanes_all(int32_t x) { return _mm512_set1_epi32(x); }
PJ_INLINE pj_lanes pj_lanes_up(pj_lanes x, int32_t n) {
    return _mm512_sll_epi32(x, _mm_cvtsi32_si128(n));
}
PJ_INLINE pj_lanes pj_lanes_scale(pj_lanes x, pj_lanes multiplier, pj_lanes n) {
    const __m512i half = _mm512_set1_epi64((int64_t)1 << 30), one = _mm512_set1_epi32(1);
    const __m512i none = _mm512_setzero_si512();
    x = _mm512_sllv_epi32(x, _mm512_max_epi32(_mm512_sub_epi32(none, n), none));
    n = _mm512_max_epi32(n, none);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(x, multiplier), half);
    const __m512i odd = _mm512_add_epi64(
        _mm512_mul_epi32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(multiplier, 32)), half);
    const __m512i high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 31),
                                                 _mm512_slli_epi64(odd, 1));
    const __mmask16 down = _mm512_cmpgt_epi32_mask(n, none);
    const __m512i nudge = _mm512_maskz_add_epi32(
        down, _mm512_sllv_epi32(one, _mm512_sub_epi32(n, one)), _mm512_srai_epi32(high, 31));
    return _mm512_srav_epi32(_mm512_add_epi32(high, nudge), n);
}
PJ_INLINE void pj_lanes_store_of(pj_lanes x, int32_t zero, int32_t low, int32_t high, int8_t *y,
                                 int32_t n) {
    x = _mm512_add_epi32(x, _mm512_set1_epi32(zero));
    x = _mm512_min_epi32(_mm512_max_epi32(x, _mm512_set1_epi32(low)), _mm512_set1_epi32(high));
    const __m128i bytes = _mm512_cvtepi32_epi8(x); /* narrowing into memory is slow where masked */
    if (n == 16) {
        _mm_storeu_si128((__m128i *)(void *)y, bytes);
    } else {
        _mm_mask_storeu_epi8(y, (__mmask16)((1u << n) - 1u), bytes);
    }
}
#else
#define PJ_FLIP 0
#define PJ_PIXELS 4
typedef struct {
    int32_t v[16];
} pj_lanes;
#define PJ_EACH for (int32_t i = 0; i < 16; ++i)
PJ_INLINE pj_lanes pj_lanes_all(int32_t x) {
    pj_lanes y;
    PJ_EACH { y.v[i] = x; }
    return y;
}
PJ_INLINE pj_lanes pj_lanes_load(const int32_t *p) {
    pj_lanes y;
    memcpy(y.v, p, sizeof y.v);
    return y;
}
PJ_INLINE pj_lanes pj_lanes_plus(pj_lanes a, pj_lanes b) {
    PJ_EACH { a.v[i] += b.v[i]; }
    return a;
}
PJ_INLINE pj_lanes pj_lanes_bytes(const int8_t *p) {
    pj_lanes y;
    PJ_EACH { y.v[i] = p[i]; }
    return y;
}
PJ_INLINE pj_lanes pj_lanes_bytes_of(const int8_t *p, int32_t n) {
    pj_lanes y;
    PJ_EACH { y.v[i] = i < n ? p[i] : 0; }
    return y;
}
PJ_INLINE pj_lanes pj_lanes_times(pj_lanes sums, pj_lanes a, pj_lanes b) {
    PJ_EACH { sums.v[i] += a.v[i] * b.v[i]; }
    return sums;
}
PJ_INLINE pj_lanes pj_lanes_up(pj_lanes x, int32_t n) {
    PJ_EACH { x.v[i] *= (int32_t)1 << n; }
    return x;
}
PJ_INLINE pj_lanes pj_lanes_scale(pj_lanes x, pj_lanes multiplier, pj_lanes n) {
    PJ_EACH {
        const int32_t down = n.v[i] > 0 ? n.v[i] : 0, up = n.v[i] < 0 ? -n.v[i] : 0;
        const int64_t product = (int64_t)x.v[i] * ((int32_t)1 << up) * multiplier.v[i];
        const int32_t high = (int32_t)((product + ((int64_t)1 << 30)) >> 31);
        const int32_t nudge = down ? ((int32_t)1 << ((down - 1) & 31)) + (high >> 31) : 0;
        x.v[i] = (high + nudge) >> down;
    }
    return x;
}
PJ_INLINE void pj_lanes_store_of(pj_lanes x, int32_t zero, int32_t low, int32_t high, int8_t *y,
                                 int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        y[i] = pj_clamp(x.v[i] + zero, low, high);
    }
}
#if defined(__ARM_FEATURE_DOTPROD) && !defined(PENJING_PLAIN)
#include <arm_neon.h>
typedef int32x4x4_t pj_sums;
PJ_INLINE pj_sums pj_sums_zero(void) {
    const int32x4_t zero = vdupq_n_s32(0);
    const pj_sums sums = {{zero, zero, zero, zero}};
    return sums;
}
PJ_INLINE pj_sums pj_sums_dot(pj_sums sums, const int8_t *w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(four));
    sums.val[0] = vdotq_s32(sums.val[0], vld1q_s8(w), v);
    sums.val[1] = vdotq_s32(sums.val[1], vld1q_s8(w + 16), v);
    sums.val[2] = vdotq_s32(sums.val[2], vld1q_s8(w + 32), v);
    sums.val[3] = vdotq_s32(sums.val[3], vld1q_s8(w + 48), v);
    return sums;
}
PJ_INLINE pj_lanes pj_sums_fold(pj_sums sums) {
    pj_lanes y;
    vst1q_s32(y.v, sums.val[0]);
    vst1q_s32(y.v + 4, sums.val[1]);
    vst1q_s32(y.v + 8, sums.val[2]);
    vst1q_s32(y.v + 12, sums.val[3]);
    return y;
}
#elif defined(__AVX2__) && !defined(PENJING_PLAIN)
#include <immintrin.h>
typedef struct {
    __m256i v[4]; /* two partial sums of each of four outputs */
} pj_sums;
PJ_INLINE pj_sums pj_sums_zero(void) {
    const __m256i zero = _mm256_setzero_si256();
    const pj_sums sums = {{zero, zero, zero, zero}};
    return sums;
}
PJ_INLINE pj_sums pj_sums_dot(pj_sums sums, const int8_t *w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    const __m256i v = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
    for (int32_t i = 0; i < 4; ++i) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(w + 16 * i));
        const __m256i products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), v);
        sums.v[i] = _mm256_add_epi32(sums.v[i], products);
    }
    return sums;
}
PJ_INLINE pj_lanes pj_sums_fold(pj_sums sums) {
    pj_lanes y;
    for (int32_t i = 0; i < 4; ++i) {
        int32_t parts[8];
        _mm256_storeu_si256((__m256i *)(void *)parts, sums.v[i]);
        for (int32_t j = 0; j < 4; ++j) {
            y.v[4 * i + j] = parts[2 * j] + parts[2 * j + 1];
        }
    }
    return y;
}
#else
typedef pj_lanes pj_sums;
PJ_INLINE pj_sums pj_sums_zero(void) { return pj_lanes_all(0); }
PJ_INLINE pj_sums pj_sums_dot(pj_sums sums, const int8_t *w, const int8_t *x) {
    PJ_EACH {
        sums.v[i] += w[4 * i] * x[0] + w[4 * i + 1] * x[1] + w[4 * i + 2] * x[2] +
                     w[4 * i + 3] * x[3];
    }
    return sums;
}
PJ_INLINE pj_lanes pj_sums_fold(pj_sums sums) { return sums; }
#endif
#endif
PJ_INLINE void pj_lanes_store(pj_lanes x, int32_t zero, int32_t low, int32_t high, int8_t *y) {
    pj_lanes_store_of(x, zero, low, high, y, 16);
}
