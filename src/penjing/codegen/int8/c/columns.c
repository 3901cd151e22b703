/* What one output pixel of a convolution reads, as one column of bytes. */
static void pj_column(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t column,
                      int8_t *to) {
    const int32_t wide = k->kernel_width * k->channels;
    const int32_t left = column * k->stride_width - k->left;
    const int near = left > -k->kernel_width && left < k->width; /* some of the window is inside */
    int32_t y = row * k->stride_height - k->top;
    for (int32_t i = 0; i < k->kernel_height; ++i, y += k->dilation_height, to += wide) {
        if (y < 0 || y >= k->height) {
            pj_fill(to, k->input_zero, wide);
        } else if (near && k->dilation_width == 1) {
            const int32_t before = left < 0 ? -left : 0;
            const int32_t over = left + k->kernel_width - k->width;
            const int32_t after = over > 0 ? over : 0;
            const int8_t *from = x + (y * k->width + left + before) * k->channels;
            const int32_t inside = (k->kernel_width - before - after) * k->channels;
            pj_fill(to, k->input_zero, before * k->channels);
            pj_copy(to + before * k->channels, from, inside);
            pj_fill(to + before * k->channels + inside, k->input_zero, after * k->channels);
        } else {
            for (int32_t j = 0; j < k->kernel_width; ++j) {
                const int32_t at = left + j * k->dilation_width;
                if (at < 0 || at >= k->width) {
                    pj_fill(to + j * k->channels, k->input_zero, k->channels);
                } else {
                    pj_copy(to + j * k->channels, x + (y * k->width + at) * k->channels,
                            k->channels);
                }
            }
        }
    }
}
