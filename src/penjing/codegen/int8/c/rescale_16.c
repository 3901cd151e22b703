/* `n` runs of `run` values to another grid, `apart` values from one result run to the next. */
static void pj_rescale_16(const int16_t *x, int16_t *y, int32_t n, int32_t run, int32_t apart,
                          int32_t multiplier, int32_t shift) {
    for (; n > 0; --n, y += apart, x += run) {
        for (int32_t i = 0; i < run; ++i) {
            y[i] = pj_to_16(x[i], multiplier, shift, INT16_MIN, INT16_MAX);
        }
    }
}
