/* A slope of its own for every channel where the input is negative; `scale` is that of the rest. */
static void pj_prelu(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels,
                     const int32_t *multiplier, const int8_t *shift, const int32_t *scale,
                     int32_t input_zero, int32_t zero) {
    for (; pixels > 0; --pixels, x += channels, y += channels) {
        for (int32_t c = 0; c < channels; ++c) {
            const int32_t v = x[c] - input_zero;
            const int32_t scaled = v < 0 ? pj_scale(v, multiplier[c], shift[c])
                                         : pj_scale(v, scale[0], scale[1]);
            y[c] = pj_clamp(scaled + zero, -128, 127);
        }
    }
}
