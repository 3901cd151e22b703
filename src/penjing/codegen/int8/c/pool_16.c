/* Average and maximum over windows of 16-bit values. */
typedef struct {
    int32_t height, width, channels, rows, columns;
    int16_t kernel_height, kernel_width, stride_height, stride_width, top, left;
    int16_t low, high;
} pj_pool_16_t;

static int32_t pj_pool_value_16(const pj_pool_16_t *k, const int16_t *x, int32_t top, int32_t left,
                                int maximum) {
    int32_t sum = 0, best = INT16_MIN, count = 0;
    for (int32_t i = 0; i < k->kernel_height; ++i) {
        for (int32_t j = 0; j < k->kernel_width; ++j) {
            const int32_t y = top + i, z = left + j;
            if (y >= 0 && y < k->height && z >= 0 && z < k->width) {
                const int32_t v = x[(y * k->width + z) * k->channels];
                sum += v;
                best = v > best ? v : best;
                ++count;
            }
        }
    }
    if (maximum) {
        return best;
    }
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / (count > 0 ? count : 1);
}

static void pj_pool_16(const pj_pool_16_t *k, const int16_t *x, int16_t *y, int maximum) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t column = 0; column < k->columns; ++column) {
            for (int32_t c = 0; c < k->channels; ++c) {
                const int32_t v =
                    pj_pool_value_16(k, x + c, row * k->stride_height - k->top,
                                     column * k->stride_width - k->left, maximum);
                *y++ = pj_clamp_16(v, k->low, k->high);
            }
        }
    }
}
