/* Depthwise convolution, four channels at a time; bias without the zero point of the input. */
#if defined(__ARM_FEATURE_MVE) && !defined(PENJING_PLAIN)
static inline void pj_depthwise4(const pj_conv_t *k, int32_t c, const int8_t *p, const int8_t *q,
                                 int32_t tall, int32_t wide, int8_t *y) {
    const int32_t channels = k->channels, step = k->dilation_width * channels;
    const int32_t row = k->width * k->dilation_height * channels - wide * step;
    const int32_t skip = (k->kernel_width - wide) * channels, zero = k->input_zero;
    int32x4_t sums = vld1q_s32(k->bias + c);
    for (; tall > 0; --tall, p += row, q += skip) {
        for (int32_t j = wide; j > 0; --j, p += step, q += channels) {
            const int32x4_t x = vsubq_n_s32(vldrbq_s32(p), zero);
            sums = vaddq_s32(sums, vmulq_s32(x, vldrbq_s32(q)));
        }
    }
    pj_finish4(k, c, sums, y);
}
#else
static inline void pj_depthwise4(const pj_conv_t *k, int32_t c, const int8_t *p, const int8_t *q,
                                 int32_t tall, int32_t wide, int8_t *y) {
    const int32_t channels = k->channels, step = k->dilation_width * channels;
    const int32_t row = k->width * k->dilation_height * channels - wide * step;
    const int32_t skip = (k->kernel_width - wide) * channels;
    const uint32_t zero = (uint32_t)(uint16_t)-k->input_zero * 0x10001u;
    int32_t s0 = k->bias[c], s1 = k->bias[c + 1], s2 = k->bias[c + 2], s3 = k->bias[c + 3];
    for (; tall > 0; --tall, p += row, q += skip) {
        for (const int8_t *const end = p + wide * step; p != end; p += step, q += channels) {
            const uint32_t v = pj_load(p), u = pj_load(q);
            const uint32_t v0 = pj_even_plus(zero, v), v1 = pj_odd_plus(zero, v);
            const uint32_t u0 = pj_even(u), u1 = pj_odd(u);
            s0 = pj_bottom(v0, u0, s0);
            s1 = pj_bottom(v1, u1, s1);
            s2 = pj_top(v0, u0, s2);
            s3 = pj_top(v1, u1, s3);
        }
    }
    const int32_t sums[4] = {s0, s1, s2, s3};
    pj_finish4(k, c, sums, y);
}
#endif

static void pj_depthwise_pixel(const pj_conv_t *k, const int8_t *x, const int8_t *w, int32_t tall,
                               int32_t wide, int8_t *y) {
    const int32_t channels = k->channels;
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        pj_depthwise4(k, c, x + c, w + c, tall, wide, y + c);
    }
    for (; c < channels; ++c) {
        int32_t sum = k->bias[c];
        for (int32_t i = 0; i < tall; ++i) {
            for (int32_t j = 0; j < wide; ++j) {
                const int32_t at = i * k->dilation_height * k->width + j * k->dilation_width;
                sum += (x[at * channels + c] - k->input_zero) *
                       w[(i * k->kernel_width + j) * channels + c];
            }
        }
        y[c] = pj_finish(k, c, sum);
    }
}
