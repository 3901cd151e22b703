/* What one output pixel of a convolution reads, as one column of values. */
static void pj_column_16(const pj_conv_16_t *k, const int16_t *x, int32_t row, int32_t column,
                         int16_t *to) {
    const int32_t wide = k->kernel_width * k->channels;
    const int32_t left = column * k->stride_width - k->left;
    int32_t y = row * k->stride_height - k->top;
    for (int32_t i = 0; i < k->kernel_height; ++i, y += k->dilation_height, to += wide) {
        const int outside = y < 0 || y >= k->height;
        const int16_t *const line = x + (outside ? 0 : y) * k->width * k->channels;
        if (!outside && k->dilation_width == 1 && left >= 0 &&
            left + k->kernel_width <= k->width) {
            memcpy(to, line + left * k->channels, (size_t)wide * sizeof *to);
            continue;
        }
        for (int32_t j = 0; j < k->kernel_width; ++j) {
            const int32_t at = left + j * k->dilation_width;
            int16_t *const tap = to + j * k->channels;
            if (outside || at < 0 || at >= k->width) {
                memset(tap, 0, (size_t)k->channels * sizeof *to);
            } else {
                memcpy(tap, line + at * k->channels, (size_t)k->channels * sizeof *to);
            }
        }
    }
}
