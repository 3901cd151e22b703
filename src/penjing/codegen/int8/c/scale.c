/* A number times a multiplier of 31 fractional bits, shifted right by n (left when negative); the
 * compiler has checked that nothing leaves 32 bits. */
#if defined(__ARM_FEATURE_SIMD32) && !defined(PENJING_PLAIN) && !defined(PJ_WIDE_SUMS)
static inline int32_t pj_high(int32_t x, int32_t multiplier) { /* |x| < 2^30 */
    int32_t y;
    __asm__("smmulr %0, %1, %2" : "=r"(y) : "r"(x * 2), "r"(multiplier));
    return y;
}
#else
static inline int32_t pj_high(int32_t x, int32_t multiplier) {
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31);
}
#endif

static inline int32_t pj_scale(int32_t x, int32_t multiplier, int32_t n) {
    if (n <= 0) {
        return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << (30 + n))) >> (31 + n));
    }
    const int32_t high = pj_high(x, multiplier);
    return (high + ((int32_t)1 << (n - 1)) + (high >> 31)) >> n;
}

static inline int8_t pj_clamp(int32_t x, int32_t low, int32_t high) {
    return (int8_t)(x < low ? low : x > high ? high : x);
}
