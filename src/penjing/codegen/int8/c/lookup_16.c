/* A function of one value by its points. */
static void pj_lookup_16(const int16_t *points, const int16_t *x, int16_t *y, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        y[i] = pj_line_16(points, x[i]);
    }
}
