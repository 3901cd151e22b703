/* `n` runs of `run` values to another grid, `apart` values from one result run to the next. */
static void pj_rescale(const int8_t *x, int8_t *y, int32_t n, int32_t run, int32_t apart,
                       const int32_t *scale, int32_t input_zero, int32_t zero) {
    for (; n > 0; --n, y += apart, x += run) {
        for (int32_t i = 0; i < run; ++i) {
            y[i] = pj_clamp(pj_scale(x[i] - input_zero, scale[0], scale[1]) + zero, -128, 127);
        }
    }
}
