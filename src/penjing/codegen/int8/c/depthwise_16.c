/* Depthwise convolution, four channels at a time; at most PJ_MOST taps. */
static void pj_depthwise_16(const pj_conv_16_t *k, const int16_t *x, int16_t *y) {
    const int32_t channels = k->channels;
    for (int32_t pixel = 0; pixel < k->rows * k->columns; ++pixel, y += channels) {
        const int32_t top = pixel / k->columns * k->stride_height - k->top;
        const int32_t left = pixel % k->columns * k->stride_width - k->left;
        for (int32_t c = 0; c < channels; c += 4) {
            const int32_t wide = channels - c < 4 ? channels - c : 4;
            int32_t sums[4] = {0};
            const int8_t *w = k->weight + c;
            for (int32_t i = 0; i < k->kernel_height; ++i) {
                const int32_t row = top + i * k->dilation_height;
                if (row < 0 || row >= k->height) {
                    w += k->kernel_width * channels;
                    continue;
                }
                for (int32_t j = 0; j < k->kernel_width; ++j, w += channels) {
                    const int32_t column = left + j * k->dilation_width;
                    if (column < 0 || column >= k->width) {
                        continue;
                    }
                    const int16_t *const from = x + (row * k->width + column) * channels + c;
                    if (wide == 4) {
                        sums[0] += from[0] * w[0];
                        sums[1] += from[1] * w[1];
                        sums[2] += from[2] * w[2];
                        sums[3] += from[3] * w[3];
                    } else {
                        for (int32_t d = 0; d < wide; ++d) {
                            sums[d] += from[d] * w[d];
                        }
                    }
                }
            }
            for (int32_t d = 0; d < wide; ++d) {
                y[c + d] = pj_finish_16(k, c + d, (int64_t)k->bias[c + d] + sums[d]);
            }
        }
    }
}
