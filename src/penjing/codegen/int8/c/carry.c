/* Rows of `n` bytes behind the ends of those before, which are kept for the next call. */
static void pj_carry(const int8_t *x, int8_t *y, int8_t *kept, int32_t rows, int32_t n,
                     int32_t before) {
    for (; rows > 0; --rows, x += n, y += before + n, kept += before) {
        memcpy(y, kept, (size_t)before);
        memcpy(y + before, x, (size_t)n);
        memcpy(kept, y + n, (size_t)before);
    }
}
