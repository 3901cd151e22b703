/* A frame of the zero point around an image. */
static void pj_pad(const int8_t *x, int8_t *y, int32_t height, int32_t row, int32_t above,
                   int32_t below, int32_t before, int32_t after, int8_t zero) {
    const int32_t wide = before + row + after;
    memset(y, zero, (size_t)(above * wide));
    y += above * wide;
    for (; height > 0; --height, x += row, y += wide) {
        memset(y, zero, (size_t)before);
        memcpy(y + before, x, (size_t)row);
        memset(y + before + row, zero, (size_t)after);
    }
    memset(y, zero, (size_t)(below * wide));
}
