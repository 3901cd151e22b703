/* A number of 32 bits times a multiplier of 31 fractional bits, shifted right by n: left when
 * negative, and what that moves beyond 30 bits is cut off, as it lies beyond every clamp. */
static inline int32_t pj_to_32(int32_t x, int32_t multiplier, int32_t n) {
    if (n < 0) {
        const int64_t up = (int64_t)x * ((int64_t)1 << -n), most = INT32_MAX / 2;
        x = (int32_t)(up < -most ? -most : up > most ? most : up);
        n = 0;
    }
    const int64_t high = ((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31;
    return (int32_t)(n == 0 ? high : (high + ((int64_t)1 << (n - 1)) + (high >> 63)) >> n);
}

static inline int16_t pj_clamp_16(int32_t x, int32_t low, int32_t high) {
    return (int16_t)(x < low ? low : x > high ? high : x);
}

static inline int16_t pj_to_16(int32_t x, int32_t multiplier, int32_t n, int32_t low,
                               int32_t high) {
    return pj_clamp_16(pj_to_32(x, multiplier, n), low, high);
}
