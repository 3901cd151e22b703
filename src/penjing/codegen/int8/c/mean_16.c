/* Mean over all pixels, on another grid. */
static void pj_mean_16(const int16_t *x, int16_t *y, int32_t pixels, int32_t channels,
                       int32_t multiplier, int32_t shift) {
    for (int32_t c = 0; c < channels; ++c) {
        int32_t sum = 0;
        for (int32_t i = 0; i < pixels; ++i) {
            sum += x[i * channels + c];
        }
        y[c] = pj_to_16(sum, multiplier, shift, INT16_MIN, INT16_MAX);
    }
}
