/* Transposed convolution, written for size: every output gathers the inputs that reach it. */
static void pj_transposed_16(const pj_conv_16_t *k, const int16_t *x, int16_t *y, int32_t groups) {
    const int32_t each = k->channels / groups, made = k->outputs / groups;
    const int32_t taps = k->kernel_height * k->kernel_width;
    for (int32_t pixel = 0; pixel < k->rows * k->columns; ++pixel) {
        const int32_t row = pixel / k->columns + k->top, column = pixel % k->columns + k->left;
        const int8_t *w = k->weight;
        for (int32_t o = 0; o < k->outputs; ++o) {
            int64_t sum = k->bias[o];
            for (int32_t i = 0; i < taps; ++i, w += each) {
                const int32_t down = row - i / k->kernel_width * k->dilation_height;
                const int32_t right = column - i % k->kernel_width * k->dilation_width;
                if (down < 0 || right < 0 || down % k->stride_height != 0 ||
                    right % k->stride_width != 0 || down / k->stride_height >= k->height ||
                    right / k->stride_width >= k->width) {
                    continue;
                }
                const int32_t at = down / k->stride_height * k->width + right / k->stride_width;
                const int16_t *const from = x + at * k->channels + o / made * each;
                for (int32_t c = 0; c < each; ++c) {
                    sum += from[c] * w[c];
                }
            }
            *y++ = pj_finish_16(k, o, sum);
        }
    }
}
