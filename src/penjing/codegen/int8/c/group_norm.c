/* Group norm: over all pixels of `each` channels. */
static void pj_group_norm(const int8_t *x, int8_t *y, int32_t pixels, int32_t channels,
                          int32_t each, const int32_t *gain, const int32_t *offset, int32_t shift,
                          int64_t epsilon, int32_t zero) {
    const int64_t n = (int64_t)pixels * each;
    for (int32_t first = 0; first < channels; first += each) {
        int64_t total = 0, squares = 0;
        for (int32_t i = 0; i < pixels; ++i) {
            for (int32_t c = first; c < first + each; ++c) {
                const int32_t v = x[i * channels + c];
                total += v;
                squares += v * v;
            }
        }
        const pj_normal_t by = pj_normal(n * squares - total * total + epsilon);
        for (int32_t i = 0; i < pixels; ++i) {
            for (int32_t c = first; c < first + each; ++c) {
                const int32_t at = i * channels + c;
                y[at] = pj_normed(by, n * x[at] - total, gain[c], offset[c], shift, zero);
            }
        }
    }
}
