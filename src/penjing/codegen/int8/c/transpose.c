/* Channels last to channels first. */
static void pj_transpose(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels) {
    for (int32_t c = 0; c < channels; ++c) {
        for (int32_t i = 0; i < pixels; ++i) {
            *y++ = x[i * channels + c];
        }
    }
}
