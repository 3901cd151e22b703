/* Linear interpolation; tables hold the first of two neighbours and the share of the second. */
static void pj_resize_16(const int16_t *x, int16_t *y, int32_t height, int32_t width,
                         int32_t channels, const int32_t *down, int32_t rows, const int32_t *right,
                         int32_t columns) {
    for (int32_t row = 0; row < rows; ++row) {
        const int32_t top = down[2 * row], low = down[2 * row + 1], high = 2048 - low;
        const int16_t *const p = x + top * width * channels;
        const int16_t *const q = top + 1 < height ? p + width * channels : p;
        for (int32_t column = 0; column < columns; ++column) {
            const int32_t left = right[2 * column], b = right[2 * column + 1], a = 2048 - b;
            const int32_t at = left * channels, next = left + 1 < width ? at + channels : at;
            for (int32_t c = 0; c < channels; ++c) {
                const int64_t above = high * p[at + c] + low * q[at + c];
                const int64_t beside = high * p[next + c] + low * q[next + c];
                *y++ = (int16_t)((above * a + beside * b + (1 << 21)) >> 22);
            }
        }
    }
}
