/* Depthwise convolution, up to sixteen channels at a time; bias without the zero point of the
 * input. `count` is constant where this is inlined for all sixteen. */
static inline __attribute__((always_inline)) void
pj_depthwise_lanes(const pj_conv_t *k, int32_t c, int32_t count, const int8_t *p, const int8_t *q,
                   int32_t tall, int32_t wide, int8_t *y) {
    const int32_t channels = k->channels, step = k->dilation_width * channels;
    const int32_t row = k->width * k->dilation_height * channels;
    const pj_lanes zero = pj_lanes_all(-k->input_zero);
    pj_lanes sums = pj_lanes_load(k->bias + c);
    for (int32_t i = 0; i < tall; ++i) {
        for (int32_t j = 0; j < wide; ++j) {
            const int8_t *const w = q + (i * k->kernel_width + j) * channels;
            const pj_lanes x = pj_lanes_bytes_of(p + i * row + j * step, count);
            sums = pj_lanes_times(sums, pj_lanes_plus(x, zero), pj_lanes_bytes_of(w, count));
        }
    }
    const pj_lanes multiplier = pj_lanes_load(k->multiplier + c);
    const pj_lanes shift = pj_lanes_bytes(k->shift + c);
    const pj_lanes scaled = pj_lanes_scale(sums, multiplier, shift);
    pj_lanes_store_of(scaled, k->zero, k->low, k->high, y, count);
}

/* A function of its own, since a loop around it keeps less in registers. */
static __attribute__((noinline)) void pj_depthwise_lanes16(const pj_conv_t *k, int32_t c,
                                                           const int8_t *p, const int8_t *q,
                                                           int32_t tall, int32_t wide,
                                                           int8_t *y) {
    pj_depthwise_lanes(k, c, 16, p, q, tall, wide, y);
}

static void pj_depthwise_pixel(const pj_conv_t *k, const int8_t *x, const int8_t *w, int32_t tall,
                               int32_t wide, int8_t *y) {
    int32_t c = 0;
    for (; c + 16 <= k->channels; c += 16) {
        pj_depthwise_lanes16(k, c, x + c, w + c, tall, wide, y + c);
    }
    if (c < k->channels) {
        pj_depthwise_lanes(k, c, k->channels - c, x + c, w + c, tall, wide, y + c);
    }
}
