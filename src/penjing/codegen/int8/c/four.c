/* Four neighbouring outputs, packed into a word and stored at once. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
#include <arm_mve.h>
static inline void pj_finish4(const pj_conv_t *k, int32_t o, int32x4_t sums, int8_t *y) {
    const int32x4_t n = k->which ? vldrbq_s32(k->shift + o) : vdupq_n_s32(k->shift[0]);
    if (vminvq_s32(0, n) < 0) { /* a shift to the left, which is rare */
        int32_t each[4];
        vst1q_s32(each, sums);
        for (int32_t i = 0; i < 4; ++i) {
            y[i] = pj_finish(k, o + i, each[i]);
        }
        return;
    }
    const int32x4_t m =
        k->which ? vld1q_s32(k->multiplier + o) : vdupq_n_s32(k->multiplier[0]);
    const int32x4_t high = vqrdmulhq_s32(sums, m), right = vnegq_s32(n);
    const int32x4_t nudge = vshrq_n_s32(vandq_s32(high, right), 31);
    int32x4_t q = vaddq_n_s32(vrshlq_s32(vaddq_s32(high, nudge), right), k->zero);
    q = vminq_s32(vmaxq_s32(q, vdupq_n_s32(k->low)), vdupq_n_s32(k->high));
    vstrbq_s32(y, q);
}
#else
static inline void pj_finish4(const pj_conv_t *k, int32_t o, const int32_t *sums, int8_t *y) {
    const int32_t *const multiplier = k->multiplier + (o & k->which);
    const int8_t *const shift = k->shift + (o & k->which);
    const int32_t zero = k->zero, low = k->low, high = k->high, next = k->which & 1;
    const int32_t a = pj_scale(sums[0], multiplier[0], shift[0]) + zero;
    const int32_t b = pj_scale(sums[1], multiplier[next], shift[next]) + zero;
    const int32_t c = pj_scale(sums[2], multiplier[2 * next], shift[2 * next]) + zero;
    const int32_t d = pj_scale(sums[3], multiplier[3 * next], shift[3 * next]) + zero;
    const int8_t bytes[4] = {pj_clamp(a, low, high), pj_clamp(b, low, high),
                             pj_clamp(c, low, high), pj_clamp(d, low, high)};
    memcpy(y, bytes, 4);
}
#endif
