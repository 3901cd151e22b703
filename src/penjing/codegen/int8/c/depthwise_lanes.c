/* Depthwise convolution, sixteen channels at a time; bias without the zero point of the input. */
#define PJ_DEPTHWISE_LANES
static void pj_depthwise_lanes16(const pj_conv_t *k, int32_t c, const int8_t *p, const int8_t *q,
                                 int32_t tall, int32_t wide, int8_t *y) {
    const int32_t channels = k->channels, step = k->dilation_width * channels;
    const int32_t row = k->width * k->dilation_height * channels;
    const pj_lanes zero = pj_lanes_all(-k->input_zero);
    pj_lanes sums = pj_lanes_load(k->bias + c);
    for (int32_t i = 0; i < tall; ++i) {
        for (int32_t j = 0; j < wide; ++j) {
            const pj_lanes x = pj_lanes_plus(pj_lanes_bytes(p + i * row + j * step), zero);
            const int8_t *const w = q + (i * k->kernel_width + j) * channels;
            sums = pj_lanes_times(sums, x, pj_lanes_bytes(w));
        }
    }
    const pj_lanes multiplier = pj_lanes_load(k->multiplier + c);
    const pj_lanes shift = pj_lanes_bytes(k->shift + c);
    pj_lanes_store(pj_lanes_scale(sums, multiplier, shift), k->zero, k->low, k->high, y);
}
