/* Transposed convolution, written for size: every output gathers the inputs that reach it. Bias
 * without the zero point of the input; top and left are what is left out of the result. */
static void pj_transposed(const pj_conv_t *k, const int8_t *x, int8_t *y, int32_t groups) {
    const int32_t each = k->channels / groups, made = k->outputs / groups;
    const int32_t taps = k->kernel_height * k->kernel_width;
    for (int32_t pixel = 0; pixel < k->rows * k->columns; ++pixel) {
        const int32_t row = pixel / k->columns + k->top, column = pixel % k->columns + k->left;
        const int8_t *w = k->weight;
        for (int32_t o = 0; o < k->outputs; ++o) {
            int32_t sum = k->bias[o];
            for (int32_t i = 0; i < taps; ++i, w += each) {
                const int32_t down = row - i / k->kernel_width * k->dilation_height;
                const int32_t right = column - i % k->kernel_width * k->dilation_width;
                if (down < 0 || right < 0 || down % k->stride_height != 0 ||
                    right % k->stride_width != 0 || down / k->stride_height >= k->height ||
                    right / k->stride_width >= k->width) {
                    continue;
                }
                const int32_t at = down / k->stride_height * k->width + right / k->stride_width;
                const int8_t *const from = x + at * k->channels + o / made * each;
                for (int32_t c = 0; c < each; ++c) {
                    sum += (from[c] - k->input_zero) * w[c];
                }
            }
            *y++ = pj_finish(k, o, sum);
        }
    }
}
