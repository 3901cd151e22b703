/* Bytes copied and filled. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
#include <arm_mve.h>
static inline void pj_copy(int8_t *to, const int8_t *from, int32_t n) {
    for (; n > 0; n -= 16, to += 16, from += 16) {
        const mve_pred16_t rest = vctp8q((uint32_t)n);
        vstrbq_p_s8(to, vldrbq_z_s8(from, rest), rest);
    }
}
#else
static inline void pj_copy(int8_t *to, const int8_t *from, int32_t n) {
    for (; n >= 16; n -= 16, to += 16, from += 16) {
        uint32_t a, b, c, d;
        memcpy(&a, from, 4);
        memcpy(&b, from + 4, 4);
        memcpy(&c, from + 8, 4);
        memcpy(&d, from + 12, 4);
        memcpy(to, &a, 4);
        memcpy(to + 4, &b, 4);
        memcpy(to + 8, &c, 4);
        memcpy(to + 12, &d, 4);
    }
    for (; n >= 4; n -= 4, to += 4, from += 4) {
        memcpy(to, from, 4);
    }
    for (; n > 0; --n) {
        *to++ = *from++;
    }
}
#endif

static inline void pj_fill(int8_t *to, int8_t value, int32_t n) {
    for (; n > 0; --n) {
        *to++ = value;
    }
}
