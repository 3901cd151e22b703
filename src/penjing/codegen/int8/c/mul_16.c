/* Product of two grids of 16 bits; the second repeats every `period` values. */
static void pj_mul_16(const int16_t *a, const int16_t *b, int16_t *y, int32_t n, int32_t period,
                      int32_t multiplier, int32_t shift, int32_t low, int32_t high) {
    for (int32_t i = 0; i < n; ++i) {
        y[i] = pj_to_16((int32_t)a[i] * b[i % period], multiplier, shift, low, high);
    }
}
