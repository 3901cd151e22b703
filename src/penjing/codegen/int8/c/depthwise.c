/* Depthwise convolution, pixel by pixel. */
/* Where a window of `kernel` taps begins and ends inside `size` values. */
static inline void pj_inside(int32_t at, int32_t kernel, int32_t dilation, int32_t size,
                             int32_t *first, int32_t *count) {
    int32_t from = 0, to = kernel;
    while (from < to && at + from * dilation < 0) {
        ++from;
    }
    while (to > from && at + (to - 1) * dilation >= size) {
        --to;
    }
    *first = from;
    *count = to - from;
}

static void pj_depthwise(const pj_conv_t *k, const int8_t *x, int8_t *y) {
    for (int32_t row = 0; row < k->rows; ++row) {
        const int32_t top = row * k->stride_height - k->top;
        int32_t i, tall;
        pj_inside(top, k->kernel_height, k->dilation_height, k->height, &i, &tall);
        for (int32_t column = 0; column < k->columns; ++column, y += k->channels) {
            const int32_t left = column * k->stride_width - k->left;
            int32_t j, wide;
            pj_inside(left, k->kernel_width, k->dilation_width, k->width, &j, &wide);
            const int32_t from = (top + i * k->dilation_height) * k->width + left;
            pj_depthwise_pixel(k, x + (from + j * k->dilation_width) * k->channels,
                               k->weight + (i * k->kernel_width + j) * k->channels, tall, wide, y);
        }
    }
}
