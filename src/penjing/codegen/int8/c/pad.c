/* The zero point around an image and its channels; the image begins `first` bytes into it. */
static void pj_pad(const int8_t *x, int8_t *y, int32_t height, int32_t width, int32_t channels,
                   int32_t wide, int32_t deep, int32_t first, int32_t size, int8_t zero) {
    memset(y, zero, (size_t)size);
    y += first;
    for (; height > 0; --height, y += (wide - width) * deep) {
        for (int32_t i = 0; i < width; ++i, x += channels, y += deep) {
            memcpy(y, x, (size_t)channels);
        }
    }
}
