/* Mean over all pixels, on another grid. */
static void pj_mean(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels,
                    const int32_t *scale, int32_t input_zero, int32_t zero) {
    for (int32_t c = 0; c < channels; ++c) {
        int32_t sum = 0;
        for (int32_t i = 0; i < pixels; ++i) {
            sum += x[i * channels + c];
        }
        sum -= pixels * input_zero;
        y[c] = pj_clamp(pj_scale(sum, scale[0], scale[1]) + zero, -128, 127);
    }
}
