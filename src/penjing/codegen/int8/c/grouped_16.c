/* Grouped convolution, written for size; depth is that of one group. */
static void pj_grouped_16(const pj_conv_16_t *k, const int16_t *x, int16_t *y, int32_t groups) {
    const int32_t each = k->channels / groups, made = k->outputs / groups;
    for (int32_t pixel = 0; pixel < k->rows * k->columns; ++pixel) {
        const int32_t top = pixel / k->columns * k->stride_height - k->top;
        const int32_t left = pixel % k->columns * k->stride_width - k->left;
        const int8_t *w = k->weight;
        for (int32_t o = 0; o < k->outputs; ++o) {
            int64_t sum = k->bias[o];
            for (int32_t i = 0; i < k->kernel_height * k->kernel_width; ++i, w += each) {
                const int32_t row = top + i / k->kernel_width * k->dilation_height;
                const int32_t column = left + i % k->kernel_width * k->dilation_width;
                if (row < 0 || row >= k->height || column < 0 || column >= k->width) {
                    continue;
                }
                const int32_t at = row * k->width + column;
                const int16_t *const from = x + at * k->channels + o / made * each;
                for (int32_t c = 0; c < each; ++c) {
                    sum += from[c] * w[c];
                }
            }
            *y++ = pj_finish_16(k, o, sum);
        }
    }
}
