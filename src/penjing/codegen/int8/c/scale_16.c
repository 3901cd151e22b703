/* A sum of up to 48 bits times a multiplier of 15, shifted right by n and rounded upward at halves;
 * then clamped. */
static inline int16_t pj_scale_16(int64_t sum, int32_t multiplier, int32_t n, int32_t low,
                                  int32_t high) {
    const int64_t x = (sum * multiplier + ((int64_t)1 << (n - 1))) >> n;
    return (int16_t)(x < low ? low : x > high ? high : x);
}
