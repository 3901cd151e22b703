/* Product of two grids; the second repeats every `period` values. */
static void pj_mul(const int8_t *a, const int8_t *b, int8_t *y, int32_t n, int32_t period,
                   const int32_t *scale, const int8_t *grids) {
    for (int32_t i = 0; i < n; ++i) {
        const int32_t product = (a[i] - grids[0]) * (b[i % period] - grids[1]);
        y[i] = pj_clamp(pj_scale(product, scale[0], scale[1]) + grids[2], grids[3], grids[4]);
    }
}
